"""`fedseal server`: the server's own safe, which holds the identity that signs its orders. It holds no key of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from federation import certificate_commands
from federation.certificate_commands import AuthorityFingerprint, CertificateFile, RequestFile
from federation.safe_options import (
    KeyFileOption,
    KeysOption,
    PassphraseDescriptor,
    lock_settings,
    new_passphrase,
    present_passphrase,
)
from privacy.safe import Safe

server_commands = typer.Typer(help="Keep a server's identity.", no_args_is_help=True)

ServerOption = Annotated[Path, typer.Option("--server", metavar="DIR", help="The server's safe.")]


@server_commands.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make: the server's safe.")],
    name: Annotated[str | None, typer.Option(help="The server's name; else the folder's.")] = None,
    key_file: KeyFileOption = None,
    keys: KeysOption = None,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Make a server's safe. Its app reads it from FEDSEAL_SERVER, and its passphrase from a file if it has one."""
    lock = lock_settings(folder, key_file, keys)
    safe = Safe.create(folder, name or folder.resolve().name.lower(), lock, new_passphrase(passphrase_fd))
    console = Console(highlight=False)
    console.print(f"made server [bold]{escape(safe.name)}[/] in {escape(str(folder))}")
    console.print(f"its identity's fingerprint: {safe.public_identity().fingerprint}", soft_wrap=True)
    console.print(f"\nnext:  fedseal server request --out FILE --server {escape(str(folder))}")


@server_commands.command()
def request(out: RequestFile, server: ServerOption = Path(), passphrase_fd: PassphraseDescriptor = None) -> None:
    """Write a request for a certificate, for the authority of the federation."""
    certificate_commands.request(Safe.unlock(server, present_passphrase(server, passphrase_fd)), out)


@server_commands.command()
def certify(
    file: CertificateFile,
    authority_fingerprint: AuthorityFingerprint = None,
    server: ServerOption = Path(),
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Install the certificate that the authority answered."""
    safe = Safe.unlock(server, present_passphrase(server, passphrase_fd))
    certificate_commands.install(safe, file, "server", authority_fingerprint)
