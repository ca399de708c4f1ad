"""Key stores that need nothing but this machine: a passphrase (Argon2id), or a key file.

Both wrap with `privacy/sealing.py`, whose key commitment leaves no blob that opens under two keys (Len, Grubbs and
Ristenpart 2021). Must never fall back to another store.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from privacy import files
from privacy.errors import KeyFileInvalid, KeyringDamaged, KeyStoreUnavailable, WrongKeyFile, WrongPassphrase
from privacy.sealing import SealBroken, seal, unseal
from privacy.secret import Secret

_PASSPHRASE_BLOB = b"passphrase\x01"
_KEY_FILE_BLOB = b"key-file\x01\x00\x00"
_KEY_FILE_WORD = "fedseal-key-1"
_LARGEST_SECRET_FILE_BYTES = 64 * 1024
_COSTS = struct.Struct(">IIB16s")
_LARGEST_MEMORY_KIB, _MOST_ITERATIONS, _MOST_LANES = 4 * 1024 * 1024, 64, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Argon2Cost:
    """What one guess of a passphrase costs: RFC 9106 section 4, second recommended option, by default.

    memory_kib: KiB of memory
    iterations: passes over it
    lanes:      lanes computed side by side
    """

    memory_kib: int = 64 * 1024
    iterations: int = 3
    lanes: int = 4


class PassphraseStore:
    """Wraps under a key that Argon2id (RFC 9106) derives from a passphrase, with a fresh salt each time."""

    def __init__(self, passphrase: Secret, cost: Argon2Cost | None = None) -> None:
        self._passphrase, self._cost = passphrase, cost or Argon2Cost()

    def wrap(self, key: Secret, context: bytes) -> bytes:
        cost = self._cost
        head = _PASSPHRASE_BLOB + _COSTS.pack(cost.memory_kib, cost.iterations, cost.lanes, os.urandom(16))
        return head + seal(self._derived(head), head + context, key.reveal())

    def unwrap(self, blob: bytes, context: bytes) -> Secret:
        end = len(_PASSPHRASE_BLOB) + _COSTS.size
        if not blob.startswith(_PASSPHRASE_BLOB) or len(blob) < end:
            raise KeyringDamaged("this keyring is not locked by a passphrase: unlock it as safe.toml says")
        head = blob[:end]
        try:
            return Secret(unseal(self._derived(head), head + context, blob[end:]))
        except SealBroken:
            raise WrongPassphrase("the passphrase is wrong, or the keyring was changed") from None

    def _derived(self, head: bytes) -> Secret:
        memory, iterations, lanes, salt = _COSTS.unpack(head[len(_PASSPHRASE_BLOB) :])
        fair = (
            8 * lanes <= memory <= _LARGEST_MEMORY_KIB
            and 1 <= iterations <= _MOST_ITERATIONS
            and 1 <= lanes <= _MOST_LANES
        )
        if not fair:
            raise KeyringDamaged("the keyring asks for an Argon2id cost that FedSeal never writes: it was changed")
        derive = Argon2id(salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory)
        try:
            return Secret(derive.derive(self._passphrase.reveal()))
        except MemoryError:
            raise KeyStoreUnavailable(
                f"Argon2id needs {memory // 1024} MiB of memory to unlock this: free some and try again"
            ) from None


class KeyFileStore:
    """Wraps under the 32 random bytes of a key file, which lies on another volume than what it locks."""

    def __init__(self, path: Path) -> None:
        self._key = _read_key_file(path)
        self._path = path

    @staticmethod
    def create(path: Path) -> KeyFileStore:
        """A new key file, readable by its owner only (0600).

        Raises:
            KeyFileInvalid: there is a file of that name.
            StorageFailed: the disk refused.
        """
        if path.exists():
            raise KeyFileInvalid(f"{path} is there already: a key file is never overwritten")
        line = f"{_KEY_FILE_WORD} {base64.b64encode(os.urandom(32)).decode()}\n"
        files.make_folder(path.parent)
        files.replace(path, line.encode())
        return KeyFileStore(path)

    def wrap(self, key: Secret, context: bytes) -> bytes:
        return _KEY_FILE_BLOB + seal(self._key, _KEY_FILE_BLOB + context, key.reveal())

    def unwrap(self, blob: bytes, context: bytes) -> Secret:
        if not blob.startswith(_KEY_FILE_BLOB):
            raise KeyringDamaged("this keyring is not locked by a key file: unlock it as safe.toml says")
        try:
            return Secret(unseal(self._key, _KEY_FILE_BLOB + context, blob[len(_KEY_FILE_BLOB) :]))
        except SealBroken:
            raise WrongKeyFile(f"{self._path} is another key file, or the keyring was changed") from None


def read_private_file(path: Path, what: str) -> bytes:
    """The content (64 KiB at most) of a file that holds a secret and that only its owner may read.

    Raises:
        KeyFileInvalid: it can't be read, or others may read it.
    """
    try:
        mode = path.stat().st_mode
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_SECRET_FILE_BYTES)
    except OSError as error:
        raise KeyFileInvalid(f"{what} {path} can't be read: {error.strerror}") from None
    except ValueError:
        raise KeyFileInvalid(f"no {what} can have the name {str(path)!r}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileInvalid(f"{what} {path} can be read by others: chmod 600 it, and think of its content as seen")
    return content


def _read_key_file(path: Path) -> Secret:
    content = read_private_file(path, "key file")
    word, _, text = content.decode("ascii", "replace").strip().partition(" ")
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if word != _KEY_FILE_WORD or len(key) != 32:
        raise KeyFileInvalid(f"{path} is no key file of FedSeal, or was cut: `fedseal key new FILE` makes one")
    return Secret(key)
