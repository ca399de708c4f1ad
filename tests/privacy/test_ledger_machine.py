"""A ledger lives through any mixture of acts, crashes and attacks, and is held to a plain list after each of them."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from privacy.accountant import epsilon
from privacy.budget import WHOLE_SITE
from privacy.entries import BudgetSet, Entry, Reserved, Rotated, Settled
from privacy.errors import BudgetExhausted, EpochRetired, LedgerRolledBack, OrderRefused
from privacy.ledger import SCOPE, Ledger, Ticket
from privacy.mechanism import Mechanism
from tests.privacy.ledger_builders import (
    DELTA,
    NOISE,
    REPORT,
    Desk,
    asked,
    budget,
    desk_in,
    in_memory,
    refusal,
)

MECHANISMS = [NOISE, Mechanism(noise_multiplier=5.0, sample_rate=1.0, steps=3, max_grad_norm=1.0)]


@dataclass(frozen=True, slots=True)
class Copy:
    path: Path
    entries: int


class LedgerMachine(RuleBasedStateMachine):
    """The model: the entries' facts in a list, and the mechanisms that were really run."""

    tickets: Bundle[Ticket] = Bundle("tickets")
    copies: Bundle[Copy] = Bundle("copies")

    @initialize()
    def begin(self) -> None:
        self.stack = ExitStack()
        self.folder = self.stack.enter_context(in_memory())
        self.desk: Desk = desk_in(self.folder, anchored=True)
        self.rounds, self.names = count(1), count()
        self.model: list[tuple[object, ...]] = [("open",), ("budget", 1e6)]
        self.run: list[Mechanism] = []
        self.limit = 1e6
        self.open()

    def open(self) -> None:
        self.process = self.stack.enter_context(ExitStack())
        self.ledger: Ledger = self.process.enter_context(self.desk.ledger())

    @rule(target=tickets, mechanism=st.sampled_from(MECHANISMS), runs=st.booleans())
    def reserve(self, mechanism: Mechanism, runs: bool) -> Ticket:
        number = next(self.rounds)
        ticket = Ticket(-1, asked(number, mechanism=mechanism))
        spent = [entry[1] for entry in self.model if entry[0] == "reserve"]
        error = refusal(lambda: setattr(self, "granted", self.ledger.reserve(ticket.reserved)))
        within = epsilon([*spent, mechanism], DELTA) <= self.limit  # type: ignore[list-item]
        assert within == (error is None)
        if error is not None:
            assert isinstance(error, BudgetExhausted)
            return ticket
        self.model.append(("reserve", mechanism, number))
        self.run += [mechanism] * runs
        return self.granted  # type: ignore[attr-defined, no-any-return]

    @rule(ticket=tickets)
    def settle(self, ticket: Ticket) -> None:
        error = refusal(lambda: self.ledger.settle(ticket, REPORT))
        used = ("settle", ticket.index) in self.model or ticket.index < 0
        assert isinstance(error, OrderRefused) == used
        if error is None:
            self.model.append(("settle", ticket.index))

    @rule(limit=st.sampled_from([0.05, 0.5, 3.0, 1e6]))
    def set_budget(self, limit: float) -> None:
        self.ledger.set_budget(budget(limit))
        self.limit = limit
        self.model.append(("budget", limit))

    @rule(retires=st.booleans())
    def rotate(self, retires: bool) -> None:
        old = self.desk.keyring.living(SCOPE)
        self.desk.keyring.begin(SCOPE)
        self.ledger.reseal()
        if retires:
            self.desk.keyring.retire(old)
        self.model.append(("rotate",))

    @rule()
    def crash(self) -> None:
        self.process.close()
        self.open()

    @rule(target=copies)
    def copy(self) -> Copy:
        self.process.close()
        path = self.folder / f"copy-{next(self.names)}"
        shutil.copyfile(self.desk.path, path)
        self.open()
        return Copy(path, len(self.model))

    @rule(copy=copies)
    def put_back(self, copy: Copy) -> None:
        """An older copy is refused; the newest is the ledger."""
        self.process.close()
        newest = self.desk.path.read_bytes()
        self.desk.put_back(copy.path)
        older = copy.entries < len(self.model)
        with self.desk.ledger() as ledger:
            errors = [refusal(ledger.entries), refusal(lambda: ledger.set_budget(budget()))] if older else []
        assert all(isinstance(error, LedgerRolledBack | EpochRetired) for error in errors), errors
        self.desk.path.write_bytes(newest)
        self.open()

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for entries in (self.ledger.entries(), self.desk.entries()):
            assert [facts(entry) for entry in entries] == self.model
        recorded = self.ledger.books().spent(WHOLE_SITE).epsilon(DELTA)
        assert recorded >= epsilon(self.run, DELTA)
        self.ledger.refuse_rollback(self.ledger.checkpoint(), "the machine")

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.stack.close()


def facts(entry: Entry) -> tuple[object, ...]:
    match entry:
        case Reserved():
            return ("reserve", entry.mechanism, entry.round)
        case Settled():
            return ("settle", entry.reserve)
        case BudgetSet():
            return ("budget", entry.epsilon)
        case Rotated():
            return ("rotate",)
        case _:
            return ("open",)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=500,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
