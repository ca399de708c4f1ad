"""Several threads and processes on one ledger: nobody spends the same euro twice, and no row is lost to a stale key."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privacy.accountant import epsilon
from privacy.budget import WHOLE_SITE
from privacy.errors import BudgetExhausted, LedgerCorrupt, OrderRefused
from privacy.ledger import Ledger
from privacy.ledger_rows import MemoryRows, SqliteRows
from privacy.notes import Checkpoint
from tests.privacy.ledger_builders import (
    DELTA,
    HEART,
    LUNG,
    NOISE,
    REPORT,
    Desk,
    asked,
    books,
    budget,
    data,
    desk_in,
    fail_inside,
    in_memory,
    ledger_at,
    refusal,
    releases,
    spend,
    unlocked_again,
)
from tests.privacy.vault_builders import in_child, safe_in


@pytest.fixture
def quick() -> Iterator[Path]:
    with in_memory() as folder:
        yield folder


def together(count: int, work: Callable[[int], Any]) -> list[int]:
    """Runs `work(0)`, `work(1)`, ... in processes at the same time; returns their exit statuses."""
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                status = work(number)
                os._exit(status if isinstance(status, int) else 0)
            os._exit(255)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def cost(count: int) -> float:
    return epsilon([replace(NOISE, steps=count)], DELTA)


def test_eight_processes_that_ask_for_twice_the_budget_get_exactly_the_budget(quick: Path) -> None:
    processes, each, covered = 8, 250, 1000
    desk = desk_in(quick)
    with desk.ledger() as ledger:
        ledger.set_budget(budget((cost(covered) + cost(covered + 1)) / 2))

    def ask(process: int) -> int:
        granted = 0
        with desk.ledger() as ledger:
            for number in range(each):
                error = refusal(lambda number=number: ledger.reserve(asked(number, f"run-{process}")))
                assert error is None or isinstance(error, BudgetExhausted)
                granted += error is None
        Path(quick / f"granted-{process}").write_text(str(granted))
        return 0

    assert together(processes, ask) == [0] * processes
    entries = desk.entries()
    assert sum(int((quick / f"granted-{process}").read_text()) for process in range(processes)) == covered
    assert len(releases(entries)) == covered
    assert len({(found.run, found.round) for found in releases(entries)}) == covered
    assert books(*entries).spent(WHOLE_SITE).epsilon(DELTA) == cost(covered)


def test_processes_with_an_anchor_never_leave_the_older_checkpoint_in_it(quick: Path) -> None:
    desk = desk_in(quick, anchored=True)

    def write(process: int) -> None:
        with desk.ledger() as ledger:
            if process == 0:
                for _ in range(20):
                    with replace(desk, anchor=None).ledger() as another:
                        assert desk.anchor is not None
                        another.anchor_at(desk.anchor)
            spend(ledger, range(10), f"run-{process}")

    assert together(5, write) == [0] * 5
    assert desk.anchor is not None
    newest = Checkpoint.parse(desk.anchor.read_text().partition("\n\n")[0] + "\n")
    assert newest.size == len(desk.entries()) == 2 + 5 * 20


def test_a_reader_beside_writers_with_an_anchor_is_never_told_of_a_rollback(quick: Path) -> None:
    desk = desk_in(quick, anchored=True)

    def work(process: int) -> None:
        with desk.ledger() as ledger:
            if process:
                spend(ledger, range(60), f"run-{process}")
                return
            until, sizes = time.monotonic() + 1.0, [0]
            while time.monotonic() < until:
                sizes.append(len(ledger.entries()))
            assert sizes == sorted(sizes)

    assert together(3, work) == [0] * 3


@pytest.mark.parametrize("shared", ["ledger", "rows", "file"])
def test_threads_share_a_ledger_its_rows_or_its_file(quick: Path, shared: str) -> None:
    desk = desk_in(quick)
    with closing(SqliteRows(desk.path)) as rows:
        one = Ledger(rows, desk.keyring, desk.signer)

        def work(thread: int) -> None:
            if shared == "file":
                with desk.ledger() as ledger:
                    spend(ledger, range(10), f"run-{thread}")
            else:
                ledger = one if shared == "ledger" else Ledger(rows, desk.keyring, desk.signer)
                spend(ledger, range(10), f"run-{thread}")

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
        assert one.entries() == desk.entries()
        assert len(releases(one.entries())) == 60


def test_a_child_that_inherits_an_open_ledger_writes_through_a_connection_of_its_own(quick: Path) -> None:
    desk = desk_in(quick)
    with desk.ledger() as ledger:
        spend(ledger, range(3))
        assert together(4, lambda child: spend(ledger, range(20), f"run-{child}")) == [0] * 4
        spend(ledger, range(4, 6))
        assert ledger.entries() == desk.entries()
        assert len(releases(ledger.entries())) == 3 + 80 + 2
        assert in_child(ledger.entries) == 0


def test_a_keyring_from_before_a_rotation_writes_no_row_that_cannot_be_opened_afterwards(tmp_path: Path) -> None:
    folder = safe_in(tmp_path / "site").folder
    old, idle = unlocked_again(folder), unlocked_again(folder)
    stale, sleeping = old.ledger(), idle.ledger()
    stale.set_budget(budget())
    sleeping.entries()
    for number in range(3):
        assert in_child(lambda: list(unlocked_again(folder).reseal())) == 0
        spend(stale, range(number, number + 1))
        assert len(releases(unlocked_again(folder).ledger().entries())) == number + 1
    sleeping.reseal()  # its keyring in memory knows retired keys only
    spend(sleeping, range(3, 4))
    assert len(releases(unlocked_again(folder).ledger().entries())) == 4
    assert unlocked_again(folder).ledger().entries() == stale.entries()
    assert ledger_at(old).entries() == stale.entries()


def test_two_processes_that_register_overlapping_data_sets_at_the_same_time_look_again(tmp_path: Path) -> None:
    desk = desk_in(tmp_path)
    with desk.ledger() as one, desk.ledger() as other:
        assert one.register(data(HEART, "heart"), ())
        assert not other.register(data(LUNG, "lung"), ())  # it did not know of heart, so it looked for no overlap
        assert other.register(data(LUNG, "lung", HEART), [HEART])
        assert one.books().alike(HEART) == {HEART, LUNG}


def test_a_ticket_is_used_once_and_only_in_the_ledger_that_gave_it(tmp_path: Path) -> None:
    desk = desk_in(tmp_path)
    with desk.ledger() as ledger, desk_in(tmp_path / "other").ledger() as other:
        ticket = ledger.reserve(asked(1))
        with pytest.raises(OrderRefused, match="not reserved in this ledger"):
            other.settle(ticket, REPORT)
        ledger.settle(ticket, REPORT)
        with pytest.raises(OrderRefused, match="used once"):
            ledger.settle(ticket, REPORT)
    assert len(desk.entries()) == 4


def test_rows_in_memory_are_undone_when_a_change_fails_and_are_never_begun_twice(tmp_path: Path) -> None:
    desk: Desk = desk_in(tmp_path)
    rows = MemoryRows()
    ledger = Ledger.create(rows, desk.keyring, desk.signer)
    ledger.set_budget(budget(allow=["record"]))
    before = ledger.entries()
    with pytest.raises(OrderRefused):
        ledger.reserve(asked(1, mechanism=None))
    with pytest.raises(ZeroDivisionError):
        fail_inside(ledger, ZeroDivisionError)
    assert ledger.entries() == before == Ledger(rows, desk.keyring, desk.signer).entries()
    with pytest.raises(LedgerCorrupt, match="never begun anew"):
        Ledger.create(rows, desk.keyring, desk.signer)
