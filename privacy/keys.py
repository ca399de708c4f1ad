"""Keys at rest: a key store outside, one keyring file, and epoch keys in it, each for one scope.

    key store (passphrase, key file, HashiCorp Vault, HSM)  wraps  ring key  seals  epoch keys  seal  objects

A scope is what shall be readable or shredded together: "data/heart" (one data set), "model", "identity". Objects name
the epoch that sealed them. A new epoch takes over its scope; a retired epoch's key is gone from the keyring, and with
it everything that it sealed: cryptographic erasure, NIST SP 800-88 rev. 1, section 2.6. Older copies of the keyring (a
backup) still hold the key, for whoever can open them.

The keyring file: magic and format byte, length of the wrapped ring key (2 bytes, big-endian), the wrapped ring key, and
the epochs as JSON, sealed (`privacy/sealing.py`) with the head as part of the context.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from privacy import files
from privacy.errors import EpochRetired, KeyringDamaged
from privacy.sealing import SealBroken, context, seal, unseal
from privacy.secret import Secret

_MAGIC = b"FEDSEAL-KEYRING\x01"
_RING_KEY_BYTES = 32
_LARGEST_RING_BYTES = 64 * 1024 * 1024


class KeyStore(Protocol):
    """Where the outermost key lives; what it wraps only it unwraps, and only under the same context."""

    def wrap(self, key: Secret, context: bytes) -> bytes:
        """The key as a blob that may lie on a disk.

        Raises:
            KeyRefused: the store can't be reached, or refuses.
        """

    def unwrap(self, blob: bytes, context: bytes) -> Secret:
        """The key that `wrap` was given.

        Raises:
            KeyRefused: the wrong passphrase, key file or context; or the store can't be reached, or refuses.
        """


class _Epoch(BaseModel):
    """One key of the ring; `key` (hex) is empty once it is retired, so that its number is never given again."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    number: Annotated[int, Field(ge=1, lt=2**32)]
    scope: str
    key: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$", repr=False)]


class _Epochs(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    epochs: tuple[_Epoch, ...]


class KeyRing:
    """The epoch keys of one owner. Every change is durable before it is used; changes need the folder's lock."""

    def __init__(self, path: Path | None, owner: str, store: KeyStore | None) -> None:
        self.path, self.owner, self._store = path, owner, store
        self._ring_key = Secret.random()
        self._epochs: dict[int, _Epoch] = {}

    @staticmethod
    def throw_away(owner: str) -> KeyRing:
        """A keyring that lives and dies with this process: for simulations."""
        return KeyRing(None, owner, None)

    @staticmethod
    def create(path: Path, owner: str, store: KeyStore) -> KeyRing:
        """A new, empty keyring file."""
        ring = KeyRing(path, owner, store)
        ring._save()
        return ring

    @staticmethod
    def open(path: Path, owner: str, store: KeyStore) -> KeyRing:
        """The keyring of a file.

        Raises:
            KeyringDamaged: the file is missing, or no keyring, or another owner's.
            KeyRefused: the store does not unwrap it.
        """
        ring = KeyRing(path, owner, store)
        ring.reload()
        return ring

    def reload(self) -> None:
        """Reads the file again: another process may have added epochs."""
        if self.path is None or self._store is None:
            return
        wrapped, sealed = self._parts(self.path)
        self._ring_key = self._store.unwrap(wrapped, context("keyring key", self.owner.encode()))
        if len(self._ring_key.reveal()) != _RING_KEY_BYTES:
            raise KeyringDamaged(f"the key store gives a key of a wrong length for {self.path}")
        try:
            found = _Epochs.model_validate_json(unseal(self._ring_key, self._about(wrapped), sealed))
        except (SealBroken, ValidationError):
            raise KeyringDamaged(
                f"{self.path} was changed, or belongs to another owner than {self.owner!r}: restore it from a backup"
            ) from None
        self._epochs = {epoch.number: epoch for epoch in found.epochs}

    def key(self, number: int) -> Secret:
        """The key of an epoch.

        Raises:
            EpochRetired: it was deleted on purpose.
            KeyringDamaged: this keyring never had it.
        """
        if number not in self._epochs:
            self.reload()
        epoch = self._epochs.get(number)
        if epoch is None:
            raise KeyringDamaged(
                f"the keyring of {self.owner!r} has no key number {number}: the object is from another keyring, or "
                "newer than this copy of the keyring"
            )
        if not epoch.key:
            raise EpochRetired(f"key number {number} ({epoch.scope}) was deleted on purpose; what it sealed is gone")
        return Secret(bytes.fromhex(epoch.key))

    def current(self, scope: str) -> int:
        """The epoch that seals for this scope; a first one is made where there is none."""
        living = self.living(scope)
        return living[-1] if living else self.begin(scope)

    def is_retired(self, number: int, scope: str) -> bool:
        """Whether the number is an epoch of this scope whose key was deleted on purpose."""
        epoch = self._epochs.get(number)
        return epoch is not None and epoch.scope == scope and not epoch.key

    def living(self, scope: str) -> list[int]:
        """The scope's epochs whose keys are still here, oldest first."""
        return [number for number, epoch in sorted(self._epochs.items()) if epoch.scope == scope and epoch.key]

    def scopes(self) -> list[str]:
        """Every scope with a living key."""
        return sorted({epoch.scope for epoch in self._epochs.values() if epoch.key})

    def begin(self, scope: str) -> int:
        """A new epoch for the scope, which seals from now on; earlier ones still open. Durable when it returns."""
        number = max(self._epochs, default=0) + 1
        self._change({number: _Epoch(number=number, scope=scope, key=Secret.random().reveal().hex())})
        return number

    def retire(self, numbers: Iterable[int]) -> None:
        """Deletes these keys: what they sealed is gone. Durable when it returns."""
        self._change({number: self._epochs[number].model_copy(update={"key": ""}) for number in numbers})

    def rewrapped(self, path: Path, store: KeyStore) -> KeyRing:
        """A copy in another file, locked by another store under a new ring key; this file stays as it is."""
        ring = KeyRing(path, self.owner, store)
        ring._epochs = self._epochs
        ring._save()
        return ring

    def _change(self, changed: dict[int, _Epoch]) -> None:
        before = self._epochs
        self._epochs = {**before, **changed}
        try:
            self._save()
        except BaseException:
            self._epochs = before
            raise

    def _save(self) -> None:
        if self.path is None or self._store is None:
            return
        wrapped = self._store.wrap(self._ring_key, context("keyring key", self.owner.encode()))
        plain = _Epochs(epochs=tuple(self._epochs.values())).model_dump_json().encode()
        files.replace(self.path, _head(wrapped) + seal(self._ring_key, self._about(wrapped), plain))

    def _about(self, wrapped: bytes) -> bytes:
        return context("keyring", self.owner.encode(), _head(wrapped))

    @staticmethod
    def _parts(path: Path) -> tuple[bytes, bytes]:
        """The wrapped ring key and the sealed epochs."""
        try:
            if path.stat().st_size > _LARGEST_RING_BYTES:
                raise KeyringDamaged(f"{path} is far larger than a keyring can be")
            content = path.read_bytes()
        except OSError as error:
            raise KeyringDamaged(
                f"{path} can't be read ({error.strerror}): if the lock was just changed, start this process anew; else "
                "restore a backup"
            ) from None
        start = len(_MAGIC) + 2
        if len(content) < start or not content.startswith(_MAGIC):
            raise KeyringDamaged(f"{path} is no keyring of this version of FedSeal")
        end = start + int.from_bytes(content[len(_MAGIC) : start], "big")
        return content[start:end], content[end:]


def _head(wrapped: bytes) -> bytes:
    return _MAGIC + len(wrapped).to_bytes(2, "big") + wrapped
