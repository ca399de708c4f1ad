"""A key store that is a hardware security module, or SoftHSM, through PKCS#11: its AES-256 key never leaves the device.

The device wraps with AES-GCM (CKM_AES_GCM), a fresh 96-bit nonce and the context as additional data. `wrap` returns
only what the device has opened again: one that puts a nonce of its own in the place of ours (AWS CloudHSM, others in
FIPS mode), or a key that may not decrypt, must never lock a safe. The PIN is read for each call and kept nowhere.

Blob: `pkcs11`, format byte, the nonce (12 bytes), the ciphertext, the tag (16 bytes).

PKCS #11 Cryptographic Token Interface Base Specification 2.40; Current Mechanisms 2.40, section 2.12 (AES with GCM)
https://python-pkcs11.readthedocs.io/
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.constant_time import bytes_eq

from privacy.errors import KeyFileInvalid, KeyRefused, KeyringDamaged, KeyStoreDenied, KeyStoreUnavailable
from privacy.key_stores import read_private_file
from privacy.secret import Secret

if TYPE_CHECKING:
    from privacy.unlocking import Pkcs11Settings

_BLOB = b"pkcs11\x01"
_NONCE_BYTES, _TAG_BYTES, _KEY_BITS = 12, 16, 256
_ONE_LOGIN = threading.Lock()  # a login holds for all sessions of a process, and so does a logout (C_Login, C_Logout)


class Pkcs11Store:
    """Wraps through one key of a token; each call opens a session and closes it."""

    def __init__(self, settings: Pkcs11Settings) -> None:
        """Raises: KeyRefused: the package or the PIN is missing."""
        _pkcs11()
        self._settings = settings
        self._where = f"key {settings.key!r} of token {settings.token!r}"
        self._pin()

    def wrap(self, key: Secret, context: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        with self._device_key() as device_key:
            sealed = device_key.encrypt(key.reveal(), **_gcm(nonce, context))
        blob = _BLOB + nonce + sealed
        try:
            opens = bytes_eq(self.unwrap(blob, context).reveal(), key.reveal())
        except KeyStoreDenied:
            opens = False
        if not opens:
            raise KeyStoreDenied(
                f"{self._where} does not open what it wrapped: it may not decrypt, or the device makes nonces of its own"
            )
        return blob

    def unwrap(self, blob: bytes, context: bytes) -> Secret:
        start = len(_BLOB) + _NONCE_BYTES
        if not blob.startswith(_BLOB) or len(blob) < start + _TAG_BYTES:
            raise KeyringDamaged("this keyring is not locked through PKCS#11: unlock it as safe.toml says")
        errors = _pkcs11().exceptions
        with self._device_key() as device_key:
            try:
                return Secret(device_key.decrypt(blob[start:], **_gcm(blob[len(_BLOB) : start], context)))
            except (errors.GeneralError, errors.EncryptedDataInvalid, errors.EncryptedDataLenRange):
                # devices differ in what they call a tag that does not fit: SoftHSM before 2.7, a general error
                raise KeyStoreDenied(f"{self._where} is another key, or the keyring was changed") from None

    @contextmanager
    def _device_key(self) -> Iterator[Any]:
        """The key in an open session; what goes wrong in there gets its name here."""
        pkcs11 = _pkcs11()
        with _ONE_LOGIN:
            try:
                library = pkcs11.lib(str(self._settings.module))
            except (RuntimeError, OSError):
                raise KeyStoreUnavailable(
                    f"{self._settings.module} can't be loaded: name the PKCS#11 library of the device (module)"
                ) from None
            try:
                token = library.get_token(token_label=self._settings.token)
                with token.open(user_pin=self._pin().reveal().decode()) as session:
                    yield self._found(session)
            except pkcs11.PKCS11Error as error:
                raise self._named(error) from None

    def _found(self, session: Any) -> Any:
        ...
