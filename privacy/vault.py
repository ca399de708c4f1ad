"""A vault: a folder in which every object is encrypted, and opens only under the name by which it is asked for.

An object is a file: magic and format byte, the number of its epoch key (4 bytes, big-endian), and the content, sealed
(`privacy/sealing.py`) under a context of owner, kind, name and version. The context is demanded at open and never
stored: a file that was moved to another owner, kind, name or version does not open. Names, sizes and times are visible
on the disk; contents are not.

Writes go through a draft that takes the object's place when the end is sealed; nothing is given out before the end
authenticates. Changing a vault needs its folder's lock (`files.locked`); reading does not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.utils import Buffer

from privacy import files
from privacy.errors import ObjectDamaged, ObjectMissing, StorageFailed
from privacy.keys import KeyRing
from privacy.sealing import SealBroken, SealedRange, Sealer, context, unseal_into

_MAGIC = b"FEDSEAL\x01"
_HEAD_BYTES = len(_MAGIC) + 4
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_FILE = re.compile(rf"(?P<kind>[a-z-]+)\.(?P<name>{_NAME.pattern})\.(?P<version>0|[1-9][0-9]{{0,8}})")
_DATA_KINDS = frozenset({"data-set", "rows"})
_KINDS = _DATA_KINDS | {"model", "identity", "register", "certificate", "run"}


@dataclass(frozen=True, slots=True, order=True)
class Label:
    """What an object is asked for by: a kind, a name, and a version (a shard's or a round's number)."""

    kind: str
    name: str
    version: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS or not _NAME.fullmatch(self.name) or not 0 <= self.version < 10**9:
            raise ValueError(f"no object can be called {self.kind}/{self.name}/{self.version}")

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}/{self.version}"

    @property
    def scope(self) -> str:
        """What the object is shredded with: each data set has keys of its own."""
        return f"data/{self.name}" if self.kind in _DATA_KINDS else self.kind


def _label(file_name: str) -> Label | None:
    """The object that a file of that name is; None for what is no object, a draft for example."""
    found = _FILE.fullmatch(file_name)
    if found is None or found["kind"] not in _KINDS:
        return None
    return Label(found["kind"], found["name"], int(found["version"]))


def is_name(text: str) -> bool:
    """Whether an object can have that name: lower-case letters, digits, dots, hyphens, underscores; 100 at most."""
    return _NAME.fullmatch(text) is not None


class Vault:
    """The sealed objects of one owner."""

    def __init__(self, folder: Path, keyring: KeyRing, writing: files.Writing = files.replacing) -> None:
        """writing: how objects reach the disk; `files.writing` only for vaults whose keys are thrown away."""
        self.folder = folder
        self.keyring = keyring
        self._writing = writing

    @contextmanager
    def sealing(self, label: Label) -> Iterator[Sealer]:
        """A stream into the object, which takes its place when the block ends; if the block fails, nothing changed.

        Raises:
            StorageFailed: the disk refused.
        """
        epoch = self.keyring.current(label.scope)
        files.make_folder(self.folder)
        with self._writing(self._path(label)) as draft:
            draft.write(_MAGIC + epoch.to_bytes(4, "big"))
            sealer = Sealer(self.keyring.key(epoch), self._about(label), draft.write)
            yield sealer
            sealer.finish()

    def seal(self, label: Label, pieces: Iterable[Buffer]) -> None:
        """Seals the pieces, one after the other, as the object's new content; durable when it returns."""
        with self.sealing(label) as sealer:
            for piece in pieces:
                sealer.write(piece)

    def open(self, label: Label) -> memoryview:
        """The whole content, in memory, authenticated to its end.

        Raises:
            ObjectMissing: there is no such object.
            ObjectDamaged: it was changed, cut, or moved here.
            EpochRetired: its key was deleted on purpose.
        """
        with self._handle(label) as handle:
            key = self.keyring.key(self._epoch(handle))
            length = SealedRange(key, self._about(label), handle, _HEAD_BYTES).length  # before memory is asked for
            plain = np.empty(length, np.uint8).data  # numpy asks for huge pages: half the cost of a bytearray
            unseal_into(key, self._about(label), lambda block: os.readv(handle, [block]), plain)
            return plain

    def read(self, label: Label, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` of the content; fewer only where it ends. Only these chunks are opened.

        Raises:
            ObjectMissing, ObjectDamaged, EpochRetired: as `open`.
        """
        with self.range(label) as opened:
            return opened.read(offset, length)

    @contextmanager
    def range(self, label: Label) -> Iterator[SealedRange]:
        """Random access to one object for as long as the block lasts. Raises as `read`, also while it is used."""
        with self._handle(label) as handle:
            key = self.keyring.key(self._epoch(handle))
            yield SealedRange(key, self._about(label), handle, _HEAD_BYTES)

    def list(self, kind: str | None = None) -> list[Label]:
        """The objects that are there, sorted; whether they open is not asked."""
        if not self.folder.is_dir():
            return []
        found = [_label(name) for name in os.listdir(self.folder)]
        return sorted(label for label in found if label is not None and kind in (None, label.kind))

    def sealed_bytes(self, label: Label) -> int:
        """The size of the object's file.

        Raises:
            ObjectMissing: there is none.
        """
        with self._handle(label) as handle:
            return os.fstat(handle).st_size

    def delete(self, label: Label) -> None:
        """Deletes the object's file. Its blocks may stay on the disk, sealed; `shred` makes them unreadable."""
        files.remove(self._path(label))

    def shred(self, scope: str) -> None:
        """Deletes the scope's keys, then its objects: nobody reads them again, not from a copy of the disk either.

        Whoever holds an older copy of the keyring, and can open it, still can.
        """
        self.keyring.retire(self.keyring.living(scope))
        for label in self.list():
            if label.scope == scope:
                self.delete(label)

    def reseal(self, label: Label) -> None:
        """Seals the object anew under the current epoch of its scope; readers see the old or the new file, whole."""
        with self._handle(label) as handle:
            if self._epoch(handle) == self.keyring.current(label.scope):
                return
        self.seal(label, [self.open(label)])

    def remove_shredded(self) -> None:
        """Deletes objects whose keys are gone: what a shredding that was killed left behind."""
        for label in self.list():
            try:
                with self._handle(label) as handle:
                    gone = self.keyring.is_retired(self._epoch(handle), label.scope)
            except ObjectDamaged:
                continue
            if gone:
                self.delete(label)

    def _path(self, label: Label) -> Path:
        return self.folder / f"{label.kind}.{label.name}.{label.version}"

    def _about(self, label: Label) -> bytes:
        return context(
            "object",
            self.keyring.owner.encode(),
            label.kind.encode(),
            label.name.encode(),
            label.version.to_bytes(8, "big"),
        )

    @contextmanager
    def _handle(self, label: Label) -> Iterator[int]:
        path = self._path(label)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ObjectMissing(f"there is no sealed object {label} in {self.folder}") from None
        except OSError as error:
            raise StorageFailed(f"{path} can't be read: {error.strerror}") from None
        try:
            yield handle
        except SealBroken:
            raise ObjectDamaged(
                f"the sealed object {label} in {self.folder} does not open: it was changed, cut, or moved here from "
                "another name, kind, version or owner; restore it from a backup"
            ) from None
        except OSError as error:
            raise StorageFailed(f"{path} can't be read: {error.strerror}") from None
        finally:
            os.close(handle)

    def _epoch(self, handle: int) -> int:
        head = os.read(handle, _HEAD_BYTES)
        if len(head) != _HEAD_BYTES or not head.startswith(_MAGIC):
            raise SealBroken
        return int.from_bytes(head[len(_MAGIC) :], "big")
