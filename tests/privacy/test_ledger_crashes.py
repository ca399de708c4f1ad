"""A crash at any instant: no acknowledged entry is lost, what was released is counted, and nobody's hand is needed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from privacy.entries import Reserved
from privacy.ledger import Ledger, Ticket
from tests.privacy.ledger_builders import (
    HEART,
    REPORT,
    Desk,
    apart,
    asked,
    budget,
    data,
    deaths,
    desk_in,
    ledger_at,
    note_down,
    releases,
    settlements,
    spend,
    unlocked_again,
)
from tests.privacy.vault_builders import safe_in

KILLS, KILLS_A_LEDGER = 400, 25
_ACKNOWLEDGED = struct.Struct(">cII")  # what, index, round


def spending_for_ever(desk: Desk, first: int, writer: int) -> None:
    """Reserves and settles round after round; says so on a pipe after each has returned."""
    with desk.ledger() as ledger:
        ledger.entries()
        os.write(writer, b"open")
        for number in range(first, first + 10_000):
            ticket = ledger.reserve(asked(number))
            os.write(writer, _ACKNOWLEDGED.pack(b"r", ticket.index, number))
            ledger.settle(ticket, REPORT)
            os.write(writer, _ACKNOWLEDGED.pack(b"s", ticket.index, number))


def killed_while_spending(desk: Desk, first: int, seconds: float) -> list[tuple[bytes, int, int]]:
    """What a child acknowledged before it was killed after that time."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            spending_for_ever(desk, first, writer)
        os._exit(1)
    os.close(writer)
    assert os.read(reader, 4) == b"open"
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with open(reader, "rb") as pipe:
        content = pipe.read()
    return list(_ACKNOWLEDGED.iter_unpack(content))


def test_400_processes_killed_while_they_spend_lose_no_acknowledged_entry() -> None:
    apart(kill_400_processes)


def kill_400_processes(quick: Path) -> None:
    rng, acknowledged = random.Random(7), 0
    for kill in range(KILLS):
        if kill % KILLS_A_LEDGER == 0:  # every other ledger has an anchor
            desk, first = desk_in(quick / str(kill), anchored=kill // KILLS_A_LEDGER % 2 == 0), 1
        said = killed_while_spending(desk, first, rng.uniform(0, 0.02))
        entries = desk.entries()
        for what, index, number in said:
            entry = entries[index]
            assert isinstance(entry, Reserved)
            assert entry.round == number
            assert what == b"r" or index in {settled.reserve for settled in settlements(entries)}
        rounds = [found.round for found in releases(entries)]
        assert rounds == sorted(set(rounds)), "a round was counted twice"
        acknowledged += len(said)
        first = max(rounds, default=0) + 1
    assert acknowledged > KILLS, "the children must have lived long enough to spend"


def test_a_change_killed_at_any_act_is_there_whole_or_not_at_all() -> None:
    apart(kill_changes)


def kill_changes(quick: Path) -> None:
    original = desk_in(quick / "north")
    with original.ledger() as ledger:
        spend(ledger, range(1, 4))
        ticket = ledger.reserve(asked(4))
    old = original.entries()
    changes: dict[str, Callable[[Ledger], Any]] = {
        "reserve": lambda ledger: ledger.reserve(asked(5)),
        "settle": lambda ledger: ledger.settle(Ticket(ticket.index, ticket.reserved), REPORT),
        "set_budget": lambda ledger: ledger.set_budget(budget(3.0)),
        "register": lambda ledger: ledger.register(data(HEART, "heart"), ()),
        "reseal": lambda ledger: ledger.reseal(),
    }
    for name, change in changes.items():
        dead = 0

        def copy_of(number: int, name: str = name) -> Desk:
            folder = original.path.parent
            shutil.copyfile(original.path, folder / f"{name}-{number}.db")
            desk = replace(original, path=folder / f"{name}-{number}.db", anchor=folder / f"{name}-{number}.anchor")
            with replace(desk, anchor=None).ledger() as ledger:
                ledger.anchor_at(folder / f"{name}-{number}.anchor")
            return desk

        def dying(number: int, change: Callable[[Ledger], Any] = change) -> Callable[[], None]:
            desk = copy_of(number)

            def changed() -> None:
                with desk.ledger() as ledger:
                    change(ledger)
                    note_down(desk.path.with_suffix(".done"))

            return changed

        for number in deaths(dying):
            desk = replace(original, path=quick / f"north/{name}-{number}.db")
            desk = replace(desk, anchor=desk.path.with_suffix(".anchor"))
            entries = desk.entries()
            assert entries[: len(old)] == old
            assert len(entries) - len(old) in ({1} if desk.path.with_suffix(".done").exists() else {0, 1})
            with desk.ledger() as ledger:
                spend(ledger, range(6, 7))
            assert desk.entries()[:-2] == entries
            dead += 1
        assert dead > 12, name


def test_a_safe_whose_ledger_is_being_anchored_or_resealed_when_it_is_killed_spends_on() -> None:
    apart(kill_changes_of_safes)


def kill_changes_of_safes(quick: Path) -> None:
    original = safe_in(quick / "site")
    with ledger_at(original).ledger() as ledger:
        ledger.set_budget(budget())
        spend(ledger, range(1, 4))
        old = ledger.entries()

    def working(name: str) -> Callable[[int], Callable[[], Any]]:
        def work(number: int) -> Callable[[], Any]:
            folder = Path(shutil.copytree(original.folder, quick / f"{name}-{number}"))
            safe = unlocked_again(folder)
            if name == "anchor":
                return lambda: safe.anchor_at(quick / f"anchors/{number}")
            return lambda: list(safe.reseal())

        return work

    for name in ("anchor", "reseal"):
        for number in deaths(working(name)):
            safe = unlocked_again(quick / f"{name}-{number}")
            ledger = safe.ledger()
            assert ledger.entries()[: len(old)] == old
            spend(ledger, range(4, 5))
            (safe.anchor_at(quick / f"anchors/{number}") if name == "anchor" else list(safe.reseal()))
            assert len(releases(unlocked_again(safe.folder).ledger().entries())) == 4
            assert safe.ledger().entries()[: len(old)] == old
            shutil.rmtree(safe.folder)
