"""Who a party is: an Ed25519 key that signs, and a hybrid key that others seal to.

Signatures: Ed25519 (RFC 8032) over a context of purpose and signer. Sealing: HPKE (RFC 9180) base mode with the KEM
ML-KEM-768 + X25519 (X-Wing, draft-connolly-cfrg-xwing-kem), HKDF-SHA-256 and AES-256-GCM; `info` binds the purpose and
both names, so that a message sealed for one purpose or party opens for no other. Private halves leave this file only
sealed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from privacy.errors import IdentityRefused
from privacy.sealing import context
from privacy.secret import Secret
from privacy.vault import is_name

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_ED25519_BYTES, _MLKEM_SEED_BYTES, _X25519_BYTES, _MLKEM_PUBLIC_BYTES = 32, 64, 32, 1184
_PRIVATE_BYTES = _ED25519_BYTES + _MLKEM_SEED_BYTES + _X25519_BYTES
_PUBLIC_BYTES = 32 + _MLKEM_PUBLIC_BYTES + 32


@dataclass(frozen=True, slots=True)
class PublicIdentity:
    """What everyone may know of a party: its name, 32 bytes that check signatures, 1,216 bytes to seal to."""

    name: str
    verifying: bytes
    mlkem: bytes = field(repr=False)
    x25519: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of name and keys, hex in groups of four: what two people compare on the telephone."""
        digest = hashlib.sha256(context("identity", self.name.encode(), self._keys())).hexdigest()
        return " ".join(digest[start : start + 4] for start in range(0, len(digest), 4))

    def verify(self, signature: bytes, purpose: str, message: bytes) -> None:
        """Passes a signature that this party made over the message for this purpose.

        Raises:
            IdentityRefused: it is not.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.verifying).verify(signature, _signed(purpose, self.name, message))
        except (InvalidSignature, ValueError):
            raise IdentityRefused(f"the signature is not {self.name}'s, for this message and purpose") from None

    def seal(self, sender: str, purpose: str, plain: bytes) -> bytes:
        """Seals to this party; 1,136 bytes longer than `plain`. The sender is named, not proved: sign it too."""
        key = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(self.mlkem), X25519PublicKey.from_public_bytes(self.x25519)
        )
        return _SUITE.encrypt(plain, key, info=_sealed(purpose, sender, self.name))

    def to_json(self) -> str:
        """One line of canonical JSON."""
        return json.dumps({"keys": self._keys().hex(), "name": self.name}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> PublicIdentity:
        """The identity that `to_json` wrote.

        Raises:
            IdentityRefused: the text holds none.
        """
        try:
            found = json.loads(text)
            name, keys = found["name"], bytes.fromhex(found["keys"])
            if not isinstance(name, str) or not is_name(name) or len(keys) != _PUBLIC_BYTES:
                raise ValueError
            mlkem, x25519 = keys[32 : 32 + _MLKEM_PUBLIC_BYTES], keys[32 + _MLKEM_PUBLIC_BYTES :]
            identity = PublicIdentity(name, keys[:32], mlkem, x25519)
            identity.seal(name, "trial", b"")  # a key that can't be used is refused here, not in the middle of a run
        except (ValueError, KeyError, TypeError, RecursionError):
            raise IdentityRefused("this is no public identity of FedSeal, or it was cut or changed") from None
        return identity

    def _keys(self) -> bytes:
        return self.verifying + self.mlkem + self.x25519


class Signer:
    """An Ed25519 key that signs a party's ledger: plain signatures, as C2SP signed-note demands."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self.name, self._key = name, key
        self.verifying = key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"Signer({self.name!r})"

    @staticmethod
    def create(name: str) -> Signer:
        """A fresh key from the operating system."""
        return Signer(name, Ed25519PrivateKey.generate())

    def sign_note(self, text: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes. A note begins with a letter, every other signed message with zeros."""
        return self._key.sign(text)


class Identity:
    """A party's private halves."""

    def __init__(self, name: str, signing: Ed25519PrivateKey, sealing: tuple[MLKEM768PrivateKey, X25519PrivateKey]):
        self.name, self._signing, self._sealing = name, signing, sealing

    def __repr__(self) -> str:
        return f"Identity({self.name!r})"

    @staticmethod
    def create(name: str) -> Identity:
        """Fresh keys from the operating system."""
        return Identity(
            name, Ed25519PrivateKey.generate(), (MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())
        )

    @staticmethod
    def from_secret(name: str, secret: Secret) -> Identity:
        """The identity whose `to_secret` this is.

        Raises:
            IdentityRefused: the length is another.
        """
        value = secret.reveal()
        if len(value) != _PRIVATE_BYTES:
            raise IdentityRefused(f"the stored identity of {name} has a wrong length")
        seeds = value[32 : 32 + _MLKEM_SEED_BYTES], value[32 + _MLKEM_SEED_BYTES :]
        return Identity(
            name,
            Ed25519PrivateKey.from_private_bytes(value[:32]),
            (MLKEM768PrivateKey.from_seed_bytes(seeds[0]), X25519PrivateKey.from_private_bytes(seeds[1])),
        )

    def to_secret(self) -> Secret:
        """The private halves, 128 bytes, for a vault."""
        mlkem, x25519 = self._sealing
        return Secret(self._signing.private_bytes_raw() + mlkem.private_bytes_raw() + x25519.private_bytes_raw())

    def public(self) -> PublicIdentity:
        """The halves to give away."""
        mlkem, x25519 = self._sealing
        return PublicIdentity(
            self.name,
            self._signing.public_key().public_bytes_raw(),
            mlkem.public_key().public_bytes_raw(),
            x25519.public_key().public_bytes_raw(),
        )

    def signer(self) -> Signer:
        """What signs the party's ledger."""
        return Signer(self.name, self._signing)

    def sign(self, purpose: str, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes, over purpose, name and message."""
        return self._signing.sign(_signed(purpose, self.name, message))

    def open(self, sender: str, purpose: str, sealed: bytes) -> bytes:
        """What the sender sealed to this party for this purpose.

        Raises:
            IdentityRefused: it was changed, or sealed for another party, purpose or sender's name.
        """
        key = MLKEM768X25519PrivateKey(*self._sealing)
        try:
            return _SUITE.decrypt(sealed, key, info=_sealed(purpose, sender, self.name))
        except (InvalidTag, ValueError):
            raise IdentityRefused(
                f"the message does not open: it is not from {sender} to {self.name} for this"
            ) from None


def _signed(purpose: str, signer: str, message: bytes) -> bytes:
    return context("signed " + purpose, signer.encode(), message)


def _sealed(purpose: str, sender: str, receiver: str) -> bytes:
    return context("sealed " + purpose, sender.encode(), receiver.encode())
