"""A key store that is a hardware security module, or SoftHSM, through PKCS#11: its AES-256 key never leaves the device.

The device wraps with AES-GCM (CKM_AES_GCM), a fresh 96-bit nonce and the context as additional data. `wrap` returns
only what the device has opened again: one that puts a nonce of its own in the place of ours (AWS CloudHSM, others in
FIPS mode) must never lock a safe. The PIN is read for each call and kept nowhere; no message holds it.

Blob: `pkcs11`, format byte, the nonce (12 bytes), the ciphertext, the tag (16 bytes).

PKCS #11 Cryptographic Token Interface Current Mechanisms 3.0, section 2.13 (AES-GCM)
https://python-pkcs11.readthedocs.io/
"""

from __future__ import annotations

import os
import re
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
_PIN = re.compile("[^\x00-\x1f\ufffd]+")
_NONCE_BYTES, _TAG_BYTES, _KEY_BITS = 12, 16, 256
# python-pkcs11 promises the library one thread at a time (C_Initialize without locks), and a login or logout holds for
# every session of the process (C_Login, C_Logout)
_ONE_AT_A_TIME = threading.Lock()


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
            sealed: bytes = device_key.encrypt(key.reveal(), **_gcm(nonce, context))
        blob = _BLOB + nonce + sealed
        try:
            opens = bytes_eq(self.unwrap(blob, context).reveal(), key.reveal())
        except KeyStoreDenied:
            opens = False
        if not opens:
            raise KeyStoreDenied(
                f"{self._where} does not open what it wrapped, so it locks no safe: the device makes nonces of its own"
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
            except (errors.DeviceError, errors.DeviceRemoved, errors.TokenNotPresent, errors.SessionClosed):
                raise
            except errors.PKCS11Error:  # each device has its own word for a tag that does not fit
                raise KeyStoreDenied(f"{self._where} is another key, or the keyring was changed") from None

    @contextmanager
    def _device_key(self) -> Iterator[Any]:
        """The key in an open session; what goes wrong in there gets its name here."""
        pkcs11, settings = _pkcs11(), self._settings
        with _ONE_AT_A_TIME:
            try:
                library = pkcs11.lib(str(settings.module))
            except pkcs11.PKCS11Error:
                raise KeyStoreUnavailable(
                    f"{settings.module} can't be loaded: name the PKCS#11 library of the device (module)"
                ) from None
            try:
                token = library.get_token(token_label=settings.token)
                with token.open(user_pin=self._pin().reveal().decode()) as session:
                    yield self._found(session)
            except pkcs11.PKCS11Error as error:
                raise self._named(error) from None

    def _found(self, session: Any) -> Any:
        """The one AES-256 key of that label which may encrypt and decrypt."""
        pkcs11 = _pkcs11()
        wanted = {
            pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY,
            pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.AES,
            pkcs11.Attribute.LABEL: self._settings.key,
            pkcs11.Attribute.ENCRYPT: True,
            pkcs11.Attribute.DECRYPT: True,
        }
        keys = list(session.get_objects(wanted))
        if len(keys) != 1 or keys[0].key_length != _KEY_BITS:
            raise KeyStoreDenied(
                f"token {self._settings.token!r} has no AES-256 key {self._settings.key!r}, more than one, or one that "
                "may not encrypt and decrypt"
            )
        return keys[0]

    def _named(self, error: Exception) -> KeyRefused:
        errors, settings = _pkcs11().exceptions, self._settings
        match error:
            case errors.NoSuchToken():
                return KeyStoreUnavailable(
                    f"no token {settings.token!r} in {settings.module}: is the device connected?"
                )
            case errors.MultipleTokensReturned():
                return KeyStoreDenied(f"more than one token is labelled {settings.token!r}: give each its own label")
            case errors.PinIncorrect() | errors.PinInvalid() | errors.PinLenRange():
                return KeyStoreDenied(
                    f"token {settings.token!r} refuses the PIN in {settings.pin_file}: correct it before the next try, "
                    "for devices lock after a few"
                )
            case errors.PinLocked() | errors.PinExpired() | errors.UserPinNotInitialized():
                return KeyStoreDenied(
                    f"the user PIN of token {settings.token!r} is locked, has expired or was never set"
                )
            case errors.MechanismInvalid() | errors.MechanismParamInvalid() | errors.FunctionNotSupported():
                return KeyStoreDenied(f"{self._where} can't be used with AES-GCM (CKM_AES_GCM)")
        return KeyStoreUnavailable(f"token {settings.token!r} fails ({type(error).__name__}): is it in use elsewhere?")

    def _pin(self) -> Secret:
        pin = Secret(read_private_file(self._settings.pin_file, "PIN file").rstrip(b"\r\n"))
        if not _PIN.fullmatch(pin.reveal().decode(errors="replace")):
            raise KeyFileInvalid(f"PIN file {self._settings.pin_file} holds no PIN: write one line, the user PIN")
        return pin


def _gcm(nonce: bytes, context: bytes) -> dict[str, Any]:
    """The mechanism, as the arguments of encrypt and decrypt."""
    pkcs11 = _pkcs11()
    params = pkcs11.GCMParams(nonce, aad=_BLOB + context, tag_bits=8 * _TAG_BYTES)
    return {"mechanism": pkcs11.Mechanism.AES_GCM, "mechanism_param": params}


def _pkcs11() -> Any:
    try:
        import pkcs11
        import pkcs11.exceptions
    except ImportError:
        raise KeyStoreUnavailable("to unlock through PKCS#11: pip install 'fedseal[pkcs11]'") from None
    return pkcs11
