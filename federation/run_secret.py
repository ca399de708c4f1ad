"""The secret that the members of an encrypted run share, and the keys that come of it.

One member draws 32 bytes and seals them to each member by HPKE (RFC 9180), bound to the membership and both names, and
signs each; the server relays what it can't open. Keys of sums come of the secret by HKDF-SHA-256 (RFC 5869), salted
with the membership's digest. The check of who is in a sum is HMAC-SHA-256 (RFC 2104) under a key of its own.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from federation.membership import Membership
from privacy.errors import IdentityRefused, MembershipRefused
from privacy.identity import Identity
from privacy.sealing import context
from privacy.secret import Secret

_SECRET_BYTES, _SUM_KEY_BYTES, _KEY_BYTES, _CHECK_BYTES = 32, 64, 32, 8
_LARGEST = 1 << 26  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSecret:
    """The run secret as one member gets it: sealed to it, and signed by the member that drew it; both hex."""

    drawer: str
    membership: str
    sealed: str
    signature: str

    def to_text(self) -> str:
        """One line of JSON."""
        return json.dumps([self.drawer, self.membership, self.sealed, self.signature])

    @staticmethod
    def from_text(text: str) -> SealedSecret:
        """What `to_text` wrote.

        Raises:
            MembershipRefused: the text holds none.
        """
        try:
            drawer, membership, sealed, signature = json.loads(text)
            bytes.fromhex(sealed), bytes.fromhex(signature)
            found = SealedSecret(drawer=str(drawer), membership=str(membership), sealed=sealed, signature=signature)
            if found.to_text() != text:
                raise ValueError
        except (ValueError, TypeError, RecursionError):
            raise MembershipRefused("a sealed run secret can't be read: it was cut or changed") from None
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSecrets:
    """The run secret, sealed to each member by name."""

    drawer: str
    membership: str
    parts: Mapping[str, SealedSecret]

    def for_member(self, name: str) -> SealedSecret:
        """What one member gets.

        Raises:
            MembershipRefused: nothing was sealed to it.
        """
        if name not in self.parts:
            raise MembershipRefused(f"{self.drawer} sealed no run secret to {name}")
        return self.parts[name]

    def to_text(self) -> str:
        """One line of JSON."""
        parts = {name: part.to_text() for name, part in self.parts.items()}
        return json.dumps({"drawer": self.drawer, "membership": self.membership, "parts": parts})

    @staticmethod
    def from_text(text: str) -> SealedSecrets:
        """What `to_text` wrote.

        Raises:
            MembershipRefused: the text holds none.
        """
        try:
            found = json.loads(text) if len(text) <= _LARGEST else {}
            parts = {str(name): SealedSecret.from_text(part) for name, part in found["parts"].items()}
            return SealedSecrets(drawer=str(found["drawer"]), membership=str(found["membership"]), parts=parts)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise MembershipRefused("sealed run secrets can't be read: they were cut or changed") from None


def draw_secret(membership: Membership, identity: Identity) -> SealedSecrets:
    """A fresh run secret, sealed to every member and signed, by this member."""
    secret = Secret.random().reveal()
    parts = {}
    for name in membership.names:
        sealed = membership.identity(name).seal(identity.name, _purpose(membership.digest), secret)
        signature = identity.sign("run secret", _secret_message(membership.digest, name, sealed))
        parts[name] = SealedSecret(
            drawer=identity.name, membership=membership.digest, sealed=sealed.hex(), signature=signature.hex()
        )
    return SealedSecrets(drawer=identity.name, membership=membership.digest, parts=parts)


def open_secret(part: SealedSecret, membership: Membership, identity: Identity) -> Secret:
    """The run secret that a member of this very membership sealed to this one.

    Raises:
        MembershipRefused: it was drawn for another membership, or by nobody of this one.
        IdentityRefused: the drawer did not sign it, or it is sealed to another.
    """
    if part.membership != membership.digest or part.drawer not in membership.members:
        raise MembershipRefused("the run secret was drawn for another membership, or by a site that is no member")
    sealed = bytes.fromhex(part.sealed)
    message = _secret_message(membership.digest, identity.name, sealed)
    membership.identity(part.drawer).verify(bytes.fromhex(part.signature), "run secret", message)
    secret = identity.open(part.drawer, _purpose(membership.digest), sealed)
    if len(secret) != _SECRET_BYTES:
        raise IdentityRefused(f"the run secret that {part.drawer} drew has a wrong length")
    return Secret(secret)


def sum_key(secret: Secret, membership: str, round_number: int, purpose: str) -> Secret:
    """The key of one sum, 64 bytes."""
    return _derived(secret, membership, _SUM_KEY_BYTES, "sum key", str(round_number), purpose)


def handover_key(secret: Secret, membership: str, round_number: int) -> Secret:
    """The key under which a member seals the model after a round to the others, 32 bytes."""
    return _derived(secret, membership, _KEY_BYTES, "handover key", str(round_number))


def contributor_checks(secret: Secret, membership: str, round_number: int, sites: Iterable[str]) -> list[int]:
    """For each site a number of 64 bits that only members can compute; those of all who are in a sum add up in it."""
    key = _derived(secret, membership, _KEY_BYTES, "contributor check", str(round_number)).reveal()
    return [int.from_bytes(hmac.digest(key, site.encode(), "sha256")[:_CHECK_BYTES], "big") for site in sites]


def _derived(secret: Secret, membership: str, length: int, what: str, *parts: str) -> Secret:
    info = context(what, *(part.encode() for part in parts))
    hkdf = HKDF(algorithm=hashes.SHA256(), length=length, salt=bytes.fromhex(membership), info=info)
    return Secret(hkdf.derive(secret.reveal()))


def _purpose(membership: str) -> str:
    return f"run secret {membership}"


def _secret_message(membership: str, receiver: str, sealed: bytes) -> bytes:
    return context("run secret", membership.encode(), receiver.encode(), sealed)
