"""A disk that is full, broken or read-only: nothing is spent, what was there stands, and memory never knows better."""

from __future__ import annotations

import errno
import resource
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import LedgerCorrupt, StorageBusy, StorageFailed
from tests.privacy.disk_builders import nth, recorded
from tests.privacy.ledger_builders import (
    REPORT,
    Desk,
    asked,
    desk_in,
    fail_inside,
    in_memory,
    refusal,
    releases,
    spend,
)
from tests.privacy.vault_builders import in_child


class Failing(sqlite3.Connection):
    """A connection whose n-th BEGIN, COMMIT or INSERT fails, before it was done or (for COMMIT) after."""

    left = -1
    code = sqlite3.SQLITE_IOERR
    too_late = False

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if not statement.startswith(("BEGIN", "COMMIT", "INSERT")):
            return super().execute(statement, *values)
        Failing.left -= 1
        if Failing.left == 0:
            if Failing.too_late and statement == "COMMIT":
                super().execute(statement, *values)
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = Failing.code
            raise error
        return super().execute(statement, *values)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> type[Failing]:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Failing, **options))
    Failing.left, Failing.code, Failing.too_late = -1, sqlite3.SQLITE_IOERR, False
    return Failing


@pytest.mark.parametrize("too_late", [False, True])
def test_whichever_act_of_sqlite_fails_memory_and_disk_agree_and_the_next_release_is_counted(
    tmp_path: Path, failing: type[Failing], too_late: bool
) -> None:
    failing.too_late = too_late
    for number in range(1, 10):
        desk = desk_in(tmp_path / str(number))
        with desk.ledger() as ledger:
            spend(ledger, range(1, 3))
            failing.left = number
            error = refusal(lambda ledger=ledger: ledger.reserve(asked(3)))
            left, failing.left = failing.left, -1
            if left > 0:
                assert number == 5  # BEGIN, two INSERTs, COMMIT
                assert error is None
                return
            assert isinstance(error, StorageFailed)
            assert ledger.entries() == desk.entries()
            durable = too_late and number == 4
            assert len(releases(desk.entries())) == (3 if durable else 2)
            spend(ledger, range(4, 5))
            assert ledger.entries() == desk.entries()
    raise AssertionError("a reserve has fewer acts")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, StorageFailed),
        (sqlite3.SQLITE_IOERR | (4 << 8), StorageFailed),  # SQLITE_IOERR_FSYNC
        (sqlite3.SQLITE_READONLY | (1 << 8), StorageFailed),
        (sqlite3.SQLITE_BUSY, StorageBusy),
        (sqlite3.SQLITE_BUSY | (1 << 8), StorageBusy),  # SQLITE_BUSY_RECOVERY
        (sqlite3.SQLITE_LOCKED | (1 << 8), StorageBusy),
        (sqlite3.SQLITE_ERROR, LedgerCorrupt),
    ],
)
def test_each_failure_of_sqlite_is_told_by_its_kind(
    tmp_path: Path, failing: type[Failing], code: int, kind: type[Exception]
) -> None:
    with desk_in(tmp_path).ledger() as ledger:
        ledger.entries()
        failing.left, failing.code = 1, code
        with pytest.raises(kind):
            ledger.reserve(asked(1))
        ledger.reserve(asked(1))


def spend_until_full(desk: Desk, room: int) -> None:
    """In a child: spends until no file may grow any more, then gets room."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with desk.ledger() as ledger:
        spend(ledger, range(1, 3))
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        size = max(path.stat().st_size for path in desk.path.parent.iterdir() if not path.name.endswith("-shm"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
        number, told = 3, 0
        while told < 3:
            error = refusal(lambda number=number: spend(ledger, range(number, number + 1)))
            assert error is None or isinstance(error, StorageFailed), error
            told, number = told + (error is not None), number + 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)) if error else None
            assert ledger.entries() == desk.entries()
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard)) if error else None
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        before = ledger.entries()
        spend(ledger, range(number, number + 1))
        assert desk.entries()[:-2] == before
        assert len(desk.entries()) == len(before) + 2


@pytest.mark.parametrize("anchored", [False, True])
def test_a_full_disk_stops_spending_and_room_lets_it_go_on(anchored: bool) -> None:
    for room in (0, 1, 100, 4096, 5000, 20_000, 60_000):
        with in_memory() as folder:
            desk = desk_in(folder, anchored=anchored)
            assert in_child(lambda desk=desk, room=room: spend_until_full(desk, room)) == 0, room


@pytest.mark.parametrize(("act", "code"), [("write", errno.ENOSPC), ("fsync", errno.EIO), ("replace", errno.EROFS)])
def test_a_release_whose_anchor_could_not_be_written_is_refused_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, code: int
) -> None:
    desk = desk_in(tmp_path, anchored=True)
    with desk.ledger() as ledger:
        tape = recorded(monkeypatch)
        tape.failing = nth(act, 0, code)
        with pytest.raises(StorageFailed):
            ledger.reserve(asked(1))
        monkeypatch.undo()
        assert len(releases(ledger.entries())) == len(releases(desk.entries())) == 1
        ledger.reserve(asked(2))
        assert desk.anchor is not None
        assert desk.anchor.read_text() == ledger.checkpoint()


def test_a_ledger_that_is_gone_or_no_ledger_is_refused_and_never_made(tmp_path: Path) -> None:
    desk = desk_in(tmp_path)
    content = desk.path.read_bytes()
    for wrong in (None, b"", b"no database at all", content[:5000], content[4096:]):
        desk.path.unlink(missing_ok=True)
        if wrong is not None:
            desk.path.write_bytes(wrong)
        with desk.ledger() as ledger:
            assert isinstance(refusal(ledger.entries), LedgerCorrupt)
            assert isinstance(refusal(lambda ledger=ledger: ledger.reserve(asked(1))), LedgerCorrupt)
        assert desk.path.exists() == (wrong is not None)


def test_an_error_inside_a_change_that_is_not_the_disks_is_told_as_it_is_and_changes_nothing(tmp_path: Path) -> None:
    desk = desk_in(tmp_path)
    with desk.ledger() as ledger:
        before = ledger.entries()
        for error in (ZeroDivisionError, KeyboardInterrupt, UnicodeError):
            with pytest.raises(error):
                fail_inside(ledger, error)
            assert ledger.entries() == before == desk.entries()
        ticket = ledger.reserve(asked(1))
        ledger.settle(ticket, REPORT)
    assert len(desk.entries()) == 4


def test_a_checkpoint_of_what_is_not_on_the_disk_is_never_signed(tmp_path: Path, failing: type[Failing]) -> None:
    desk = desk_in(tmp_path)
    with desk.ledger() as ledger:
        before = ledger.checkpoint()
        failing.left = 4
        assert isinstance(refusal(lambda: ledger.reserve(asked(1))), StorageFailed)
        failing.left = -1
        assert ledger.checkpoint() == before
