"""What a site's and a server's engineer do to be certified: write a request, and install what the authority answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.markup import escape

from federation.certificate_files import read_certificate, write_request
from privacy.certificates import Role
from privacy.certified import certify
from privacy.errors import IdentityRefused
from privacy.safe import Safe

RequestFile: TypeAlias = Annotated[
    Path, typer.Option("--out", metavar="FILE", help="Where to write the request, which holds no secret.")
]
CertificateFile: TypeAlias = Annotated[Path, typer.Argument(metavar="FILE", help="What the authority answered.")]
AuthorityFingerprint: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="The authority's fingerprint, as its people told it; else it is asked for."),
]


def request(safe: Safe, out: Path) -> None:
    """Writes the public half of a safe's identity, for the authority to sign."""
    write_request(out, safe.public_identity())
    console = Console(highlight=False)
    console.print(f"wrote {escape(str(out))}: give it to the authority of your federation")
    console.print(f"tell them, on another way, this fingerprint: {safe.public_identity().fingerprint}", soft_wrap=True)


def install(safe: Safe, file: Path, role: Role, fingerprint: str | None) -> None:
    """Keeps a certificate in a safe, once a person has compared the authority's fingerprint.

    Raises:
        IdentityRefused: it is for another safe or role, or the fingerprint is another.
    """
    certificate, trust = read_certificate(file)
    shown = trust.authority.fingerprint
    if certificate.role != role:
        raise IdentityRefused(f"{file} certifies a {certificate.role}, not a {role}: ask the authority for the other")
    if fingerprint is None:
        if not sys.stdin.isatty():
            raise IdentityRefused(
                "nobody is here to compare the authority's fingerprint: name it with --authority-fingerprint TEXT"
            )
        typer.echo(f"authority of federation {trust.federation}, fingerprint {shown}")
        typer.confirm("Is this the fingerprint that the authority's people told you?", abort=True)
    elif "".join(fingerprint.split()).lower() != "".join(shown.split()):
        raise IdentityRefused(f"the certificate comes of an authority with another fingerprint, {shown}: not installed")
    certify(safe, certificate, trust)
    console = Console(highlight=False)
    console.print(f"authority of federation [bold]{escape(trust.federation)}[/], fingerprint {shown}", soft_wrap=True)
    console.print(f"[green]certified[/]: {escape(safe.name)} is a {role} of {escape(trust.federation)}")
