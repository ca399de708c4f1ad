"""Durable file acts: the only file that speaks of durability.

`replacing` writes beside the target (same folder, mode 0600), syncs the file, renames it over the target, and syncs
the folder. Whatever instant the power fails at, the target is then the old file whole or the new file whole, never a
third (Pillai et al., OSDI 2014, on what a rename without these syncs may do). A failed sync is final for that handle: a
second one may succeed with the data lost (Rebello et al., ATC 2020), so the draft is thrown away.

Must never write plaintext by itself: it writes what it is given, and its drafts hold no more than the finished file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeAlias

from cryptography.utils import Buffer

from privacy.errors import StorageBusy, StorageFailed

_DRAFT = ".draft"
LOCK = ".lock"

_REMEDIES = {
    errno.ENOSPC: "the disk is full: make room and try again",
    errno.EDQUOT: "the disk quota is used up: ask for more, or make room, and try again",
    errno.EFBIG: "the file would pass the size limit of this process or file system: raise it and try again",
    errno.EROFS: "the file system is read-only: mount it for writing and try again",
    errno.EACCES: "permission is denied: run as the folder's owner",
    errno.EPERM: "permission is denied: run as the folder's owner",
    errno.EIO: "the disk reports an error: check it (dmesg, SMART) before going on",
}


class Draft(Protocol):
    """A file in the making."""

    def write(self, data: Buffer) -> None:
        """Appends all of `data`."""


Writing: TypeAlias = Callable[[Path], AbstractContextManager[Draft]]


@contextmanager
def replacing(path: Path) -> Iterator[Draft]:
    """A draft that takes the place of `path`, durably, when the block ends; if the block fails, nothing changed.

    Raises:
        StorageFailed: the disk refused; `path` is what it was. (Where only the last sync of the folder failed, it is
            the old or the new file, whole; the message says so.)
    """
    with _draft(path) as draft:
        yield draft
        draft.sync()
        draft.take_place()
        sync_folder(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[Draft]:
    """Like `replacing`, but a power failure may lose or tear the file: for what no key outlives the process to read."""
    with _draft(path) as draft:
        yield draft
        draft.take_place()


def replace(path: Path, content: Buffer) -> None:
    """Makes `content` the whole of the file, durably when it returns.

    Raises:
        StorageFailed: the disk refused; `path` is what it was.
    """
    with replacing(path) as draft:
        draft.write(content)


def remove(path: Path) -> None:
    """Deletes a file if it is there, durably when it returns."""
    with _told(path):
        path.unlink(missing_ok=True)
        sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Makes a folder, and its parents, that only its owner may enter (0700); one that exists stays as it is."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with _told(path):
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)


def restrict(path: Path) -> None:
    """Lets only its owner enter a folder that is there (0700)."""
    with _told(path):
        path.chmod(0o700)


def move(source: Path, target: Path) -> None:
    """Renames a finished file or folder into place, durably when it returns; `target` must not exist."""
    with _told(target):
        os.rename(source, target)
        sync_folder(target.parent)


def remove_folder(path: Path) -> None:
    """Deletes a folder with all that it holds."""
    with _told(path):
        shutil.rmtree(path)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise StorageFailed(
            f"{path}: {_reason(error)}; the last change of this folder may or may not survive a power failure"
        ) from error


def sweep_drafts(folder: Path) -> None:
    """Deletes what killed writers left behind; call only under the folder's lock."""
    for path in folder.rglob(f".*{_DRAFT}"):
        if path.is_file():
            with suppress(FileNotFoundError):
                path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's one write lock (flock; the kernel releases it when the process dies).

    Raises:
        StorageBusy: another process holds it.
    """
    with _told(folder):
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageBusy(f"{folder} is being changed by another process: wait until it is done") from None
        yield
    finally:
        os.close(handle)


class _OpenDraft:
    """A temporary file in the target's own folder, so that the rename never crosses file systems."""

    def __init__(self, path: Path) -> None:
        self._target = path
        self._path = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_DRAFT}")
        with _told(path):
            self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, data: Buffer) -> None:
        rest = memoryview(data).cast("B")
        with _told(self._target):
            while rest:
                rest = rest[os.write(self._handle, rest) :]

    def sync(self) -> None:
        with _told(self._target):
            os.fsync(self._handle)

    def take_place(self) -> None:
        with _told(self._target):
            self._close()
            os.replace(self._path, self._target)

    def discard(self) -> None:
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


@contextmanager
def _draft(path: Path) -> Iterator[_OpenDraft]:
    draft = _OpenDraft(path)
    try:
        yield draft
    finally:
        draft.discard()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """The system's errors in words, with the path."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"{path}: {_reason(error)}; nothing was changed") from error


def _reason(error: OSError) -> str:
    return _REMEDIES.get(error.errno or 0, f"the system says: {error.strerror}")
