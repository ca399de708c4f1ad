"""Requests and certificates as files: JSON that holds no secret."""

from __future__ import annotations

import json
from pathlib import Path

from privacy import files
from privacy.certificates import Certificate, Trust
from privacy.errors import IdentityRefused
from privacy.identity import PublicIdentity

_LARGEST_BYTES = 64 * 1024


def write_request(path: Path, identity: PublicIdentity) -> None:
    """A party's public identity, for the authority to sign."""
    files.replace(path.absolute(), identity.to_json().encode() + b"\n")


def read_request(path: Path) -> PublicIdentity:
    """What `write_request` wrote.

    Raises:
        IdentityRefused: the file holds no identity.
    """
    return PublicIdentity.from_json(_text(path))


def write_certificate(path: Path, certificate: Certificate, trust: Trust) -> None:
    """A certificate, and the public identity of the authority that signed it."""
    facts = {"certificate": certificate.to_json(), "authority": trust.authority.to_json()}
    files.replace(path.absolute(), json.dumps(facts, indent=1).encode() + b"\n")


def read_certificate(path: Path) -> tuple[Certificate, Trust]:
    """What `write_certificate` wrote; whether to believe the authority is for a person to say.

    Raises:
        IdentityRefused: the file holds no certificate.
    """
    try:
        found = json.loads(_text(path))
        certificate = Certificate.from_json(str(found["certificate"]))
        authority = PublicIdentity.from_json(str(found["authority"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise IdentityRefused(f"{path} holds no certificate of FedSeal, or it was cut or changed") from None
    return certificate, Trust(federation=certificate.federation, authority=authority)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_LARGEST_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        raise IdentityRefused(f"{path} can't be read") from None
