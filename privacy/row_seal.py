"""How one row of a ledger is sealed: AES-256-GCM-SIV (RFC 8452) under a random nonce, bound to owner and place.

A sealed row is the number of its epoch key (4 bytes, big-endian), a nonce (12), and the ciphertext. The nonce is never
the place: after a rollback the same place is sealed twice, which would give away the XOR of both rows.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from privacy.errors import LedgerCorrupt
from privacy.keys import KeyRing
from privacy.sealing import context

_EPOCH_BYTES, _NONCE_BYTES = 4, 12


def sealed_row(keyring: KeyRing, epoch: int, place: str, plain: bytes) -> bytes:
    """The row of a place ("entry 7", "head"), sealed under an epoch's key.

    Raises:
        KeyRefused: the keyring has no such key.
    """
    nonce = os.urandom(_NONCE_BYTES)
    cipher = AESGCMSIV(keyring.key(epoch).reveal())
    return epoch.to_bytes(_EPOCH_BYTES, "big") + nonce + cipher.encrypt(nonce, plain, _about(keyring, place))


def opened_row(keyring: KeyRing, place: str, sealed: bytes) -> tuple[int, bytes]:
    """The row's epoch and content.

    Raises:
        LedgerCorrupt: it was changed, or moved here.
        KeyRefused: the keyring has no such key.
    """
    epoch, body = int.from_bytes(sealed[:_EPOCH_BYTES], "big"), _EPOCH_BYTES + _NONCE_BYTES
    try:
        cipher = AESGCMSIV(keyring.key(epoch).reveal())
        return epoch, cipher.decrypt(sealed[_EPOCH_BYTES:body], sealed[body:], _about(keyring, place))
    except (InvalidTag, ValueError):
        raise LedgerCorrupt(f"the ledger's {place} was changed, or moved here: restore the newest backup") from None


def _about(keyring: KeyRing, place: str) -> bytes:
    return context("ledger row", keyring.owner.encode(), place.encode())
