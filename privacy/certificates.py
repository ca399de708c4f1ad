"""Who belongs to a federation: its authority signs each site's and the server's public identity, offline.

A certificate is a public identity, a role, the federation's name, and the authority's Ed25519 signature (RFC 8032) of
all three. Who holds the authority's public key needs nobody's word but this. X.509 certifies TLS connections, not these
hybrid keys (Ed25519 with ML-KEM-768 and X25519); revocation comes with deployment.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias, cast

from privacy.errors import IdentityRefused
from privacy.identity import Identity, PublicIdentity
from privacy.sealing import context
from privacy.vault import is_name

Role: TypeAlias = Literal["site", "server"]

_ROLES = ("site", "server")
_LARGEST = 16 * 1024  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whom a party believes: the authority of one federation."""

    federation: str
    authority: PublicIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What an authority says of a party."""

    identity: PublicIdentity
    role: Role
    federation: str
    signature: bytes

    def to_json(self) -> str:
        """One line of canonical JSON."""
        facts = {
            "identity": self.identity.to_json(),
            "role": self.role,
            "federation": self.federation,
            "signature": self.signature.hex(),
        }
        return json.dumps(facts, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Certificate:
        """The certificate that `to_json` wrote; its signature is not checked.

        Raises:
            IdentityRefused: the text holds none.
        """
        return _read(text)


@lru_cache(maxsize=16_384)
def _read(text: str) -> Certificate:
    """Remembered, because all sites of a simulation read the same ones."""
    try:
        found = json.loads(text) if len(text) <= _LARGEST else None
        if not isinstance(found, dict) or found["role"] not in _ROLES or not is_name(str(found["federation"])):
            raise ValueError
        certificate = Certificate(
            identity=PublicIdentity.from_json(str(found["identity"])),
            role=cast(Role, found["role"]),
            federation=str(found["federation"]),
            signature=bytes.fromhex(found["signature"]),
        )
        if certificate.to_json() != text:
            raise ValueError
        return certificate
    except (ValueError, KeyError, TypeError, RecursionError):
        raise IdentityRefused("this is no certificate of FedSeal, or it was cut or changed") from None


@lru_cache(maxsize=16_384)
def checked(certificate: Certificate, trust: Trust, role: Role) -> PublicIdentity:
    """Whose certificate it is, once the trusted authority's signature holds for this role.

    Raises:
        IdentityRefused: it is another federation's or authority's, for another role, or was changed.
    """
    name = certificate.identity.name
    if certificate.federation != trust.federation or certificate.role != role:
        raise IdentityRefused(
            f"{name} is certified as a {certificate.role} of federation {certificate.federation!r}, not as a {role} of "
            f"{trust.federation!r}"
        )
    message = _message(certificate.federation, certificate.role, certificate.identity)
    try:
        trust.authority.verify(certificate.signature, "certificate", message)
    except IdentityRefused:
        raise IdentityRefused(f"the certificate of {name} is not signed by the authority of this federation") from None
    return certificate.identity


class Authority:
    """Signs identities; then it is not needed until somebody joins."""

    def __init__(self, federation: str, identity: Identity) -> None:
        if not is_name(federation):
            raise IdentityRefused(f"{federation!r} can't name a federation: lower-case letters, digits, dots, hyphens")
        self.federation, self._identity = federation, identity

    @staticmethod
    def create(federation: str) -> Authority:
        """A fresh one, in memory."""
        return Authority(federation, Identity.create("authority"))

    def trust(self) -> Trust:
        """What parties believe who accept this authority."""
        return Trust(federation=self.federation, authority=self._identity.public())

    def certify(self, identity: PublicIdentity, role: Role) -> Certificate:
        """A certificate for a party whose fingerprint a person has compared."""
        signature = self._identity.sign("certificate", _message(self.federation, role, identity))
        return Certificate(identity=identity, role=role, federation=self.federation, signature=signature)


def _message(federation: str, role: str, identity: PublicIdentity) -> bytes:
    digest = hashlib.sha256(identity.to_json().encode()).digest()
    return context("certified", federation.encode(), role.encode(), digest)
