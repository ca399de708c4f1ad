"""Where a ledger's rows lie: an SQLite file that survives kill -9, or the memory of a simulation.

SQLite keeps the durability (WAL, synchronous=FULL: a commit that returned is on the disk); what rows mean, and whether
they may be believed, is for `privacy/ledger.py`. A row is sealed bytes under a number from 0; beside the rows lie the
sealed head (how many there are, and their root), changed in the same transaction, and the newest checkpoint seen of
each other site.

Must never create a file when it opens one, never cut a tail, and never go on with a connection that has failed, that a
parent process opened, or whose file is no longer the one under its name.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Protocol

from privacy.errors import LedgerCorrupt, StorageBusy, StorageFailed

_BUSY_SECONDS = 60.0
_INHERITED: list[sqlite3.Connection] = []  # never closed, never used
_SCHEMA = """
CREATE TABLE entry (i INTEGER PRIMARY KEY, sealed BLOB NOT NULL) STRICT;
CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 0), sealed BLOB NOT NULL) STRICT;
CREATE TABLE seen (origin TEXT PRIMARY KEY, note TEXT NOT NULL) STRICT;
"""


class LedgerRows(Protocol):
    """The rows of one ledger."""

    def reading(self) -> AbstractContextManager[None]:
        """A block that sees one state of the rows."""

    def changing(self) -> AbstractContextManager[None]:
        """A block in which nobody else changes the rows; durable when it ends, undone when it fails.

        Raises:
            StorageBusy: another process held the rows for a minute.
            StorageFailed: the disk refused; nothing was changed.
            LedgerCorrupt: the file is no ledger, or is damaged.
        """

    def since(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Number and content of the rows from `start`, in order."""

    def write(self, number: int, sealed: bytes) -> None:
        """Adds a row, or puts another in its place."""

    def head(self) -> bytes:
        """The sealed head; empty before the first."""

    def set_head(self, sealed: bytes) -> None:
        """Replaces it."""

    def seen(self) -> dict[str, str]:
        """The newest signed checkpoint seen of each other ledger, by origin."""

    def set_seen(self, origin: str, note: str) -> None:
        """Replaces one."""

    @property
    def renewed(self) -> int:
        """Counts how often the rows had to be opened again after a failure: what was read before is then void."""


class MemoryRows:
    """Rows that die with the process."""

    renewed = 0

    def __init__(self) -> None:
        self._rows: list[bytes] = []
        self._head = b""
        self._seen: dict[str, str] = {}
        self._lock = RLock()

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._lock:
            yield

    @contextmanager
    def changing(self) -> Iterator[None]:
        with self._lock:
            before = self._rows[:], self._head, dict(self._seen)
            try:
                yield
            except BaseException:
                self._rows, self._head, self._seen = before
                raise

    def since(self, start: int) -> Iterator[tuple[int, bytes]]:
        return ((number, self._rows[number]) for number in range(start, len(self._rows)))

    def write(self, number: int, sealed: bytes) -> None:
        self._rows[number : number + 1] = [sealed]

    def head(self) -> bytes:
        return self._head

    def set_head(self, sealed: bytes) -> None:
        self._head = sealed

    def seen(self) -> dict[str, str]:
        return dict(self._seen)

    def set_seen(self, origin: str, note: str) -> None:
        self._seen[origin] = note


class SqliteRows:
    """Rows in a file. One thread at a time; a connection that failed is closed, and opened again by the next block."""

    def __init__(self, path: Path) -> None:
        """Opens nothing yet."""
        self.path = path
        self.renewed = 0
        self._lock = RLock()
        self._open: sqlite3.Connection | None = None
        self._opened_as: tuple[int, int, int] | None = None

    @staticmethod
    def create(path: Path) -> SqliteRows:
        """A new, empty file that only its owner may read (0600).

        Raises:
            StorageFailed: there is one already, or the disk refused.
        """
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with closing(_connected(path)) as made:
                made.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        except (OSError, sqlite3.Error) as error:
            raise StorageFailed(f"{path} can't be made: {error}") from None
        return SqliteRows(path)

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._block("BEGIN"):
            yield

    @contextmanager
    def changing(self) -> Iterator[None]:
        with self._block("BEGIN IMMEDIATE"):
            yield

    def since(self, start: int) -> Iterator[tuple[int, bytes]]:
        for number, sealed in self._connection.execute("SELECT i, sealed FROM entry WHERE i >= ? ORDER BY i", (start,)):
            yield number, self._sealed(sealed)

    def write(self, number: int, sealed: bytes) -> None:
        self._connection.execute("INSERT OR REPLACE INTO entry VALUES (?, ?)", (number, sealed))

    def head(self) -> bytes:
        found = self._connection.execute("SELECT sealed FROM head").fetchone()
        return self._sealed(found[0]) if found else b""

    def set_head(self, sealed: bytes) -> None:
        self._connection.execute("INSERT OR REPLACE INTO head VALUES (0, ?)", (sealed,))

    def seen(self) -> dict[str, str]:
        found = self._connection.execute("SELECT origin, note FROM seen").fetchall()
        return {str(origin): str(note) for origin, note in found}

    def set_seen(self, origin: str, note: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (origin, note))

    def copied(self) -> bytes:
        """The whole file as it is between two changes, for a backup; needs no key."""
        with self._lock, self._told(), closing(sqlite3.connect(":memory:")) as copy:
            self._let_go_of_another()
            self._connection.backup(copy)
            return copy.serialize()

    def close(self) -> None:
        """Lets go of the file."""
        with self._lock:
            opened, self._open = self._open, None
            if opened is not None:
                with suppress(sqlite3.Error):
                    opened.close()

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            self._opened_as = self._identity()
            self._open = _connected(self.path)
        return self._open

    def _sealed(self, found: object) -> bytes:
        if not isinstance(found, bytes):
            raise LedgerCorrupt(f"{self.path} is damaged: a row holds no sealed bytes; restore a backup")
        return found

    def _identity(self) -> tuple[int, int, int]:
        """The process and the file, by device and number."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            raise LedgerCorrupt(f"{self.path} is missing: a ledger is never begun anew; restore a backup") from None
        except OSError as error:
            raise StorageFailed(f"{self.path} can't be read: {error.strerror}") from None
        return os.getpid(), found.st_dev, found.st_ino

    def _let_go_of_another(self) -> None:
        """Gives up a connection of before a fork, which holds no lock here, or to a file that was put aside."""
        if self._open is None:
            return
        now = self._identity()
        if now == self._opened_as:
            return
        if self._opened_as is not None and self._opened_as[0] != now[0]:
            _INHERITED.append(self._open)  # closing it would touch the parent's locks and log
            self._open = None
        self.close()
        self.renewed += 1

    @contextmanager
    def _block(self, begin: str) -> Iterator[None]:
        with self._lock, self._told():
            self._let_go_of_another()
            self._connection.execute(begin)
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    if self._open is not None:
                        self._open.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors in our words; the connection is given up, because a failed sync can't be repeated."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where an error's own text is damaged
            self.close()
            self.renewed += 1
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the module's own errors have none
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StorageBusy(f"{self.path} is being changed by another process: try again") from None
            if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
                raise StorageFailed(f"{self.path}: {error}; nothing was changed. Mend the disk and try again") from None
            raise LedgerCorrupt(f"{self.path} is damaged, or no ledger ({error}): restore a backup") from None


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "journal_mode = WAL", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection
