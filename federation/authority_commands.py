"""`fedseal authority`: whoever founds a federation signs its sites' and its server's identities, offline."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from federation.certificate_files import read_request, write_certificate
from federation.safe_options import (
    KeyFileOption,
    KeysOption,
    PassphraseDescriptor,
    lock_settings,
    new_passphrase,
    present_passphrase,
)
from privacy.certificates import Authority
from privacy.safe import Safe

authority_commands = typer.Typer(help="Found a federation: certify its sites and its server.", no_args_is_help=True)


class RoleOption(StrEnum):
    """What a party may be certified as."""

    SITE = "site"
    SERVER = "server"


@authority_commands.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make: the authority's safe.")],
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    key_file: KeyFileOption = None,
    keys: KeysOption = None,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Make an authority. Its key signs who belongs to the federation: keep it offline, and back it up."""
    lock = lock_settings(folder, key_file, keys)
    safe = Safe.create(folder, federation, lock, new_passphrase(passphrase_fd))
    console = Console(highlight=False)
    console.print(f"made the authority of federation [bold]{escape(federation)}[/] in {escape(str(folder))}")
    console.print(
        f"its fingerprint, which every party must compare: {safe.public_identity().fingerprint}", soft_wrap=True
    )


@authority_commands.command()
def sign(
    request: Annotated[Path, typer.Argument(help="What a party wrote with `request`.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the certificate.")],
    role: Annotated[RoleOption, typer.Option(help="What the party is.")] = RoleOption.SITE,
    authority: Annotated[Path, typer.Option(metavar="DIR", help="The authority's safe.")] = Path(),
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Certify a party, once you have compared its fingerprint with what its people told you."""
    identity = read_request(request)
    safe = Safe.unlock(authority, present_passphrase(authority, passphrase_fd))
    signing = Authority(safe.name, safe.identity())
    write_certificate(out, signing.certify(identity, role.value), signing.trust())
    console = Console(highlight=False)
    console.print(f"certified [bold]{escape(identity.name)}[/] as a {role.value} of {escape(safe.name)}")
    console.print(f"its fingerprint: {identity.fingerprint}", soft_wrap=True)
    console.print(f"wrote {escape(str(out))}: give it back, with this authority's fingerprint on another way")
    console.print(f"the authority's fingerprint: {safe.public_identity().fingerprint}", soft_wrap=True)
