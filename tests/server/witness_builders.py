"""Sites with ledgers that answer a server's orders honestly, but for what a test changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from federation.layout import Layout
from federation.orders import Address, Expectation, TrainReport, digest_of_report
from privacy.entries import Reserved
from privacy.identity import Signer
from privacy.keys import KeyRing
from privacy.ledger import Ledger
from privacy.ledger_rows import MemoryRows
from privacy.mechanism import Mechanism
from privacy.shown import Shown
from privacy.witness import digest_of
from server.witness import Witness
from tests.privacy.ledger_builders import NOISE, asked, budget

PLAN, UPDATE = "ab" * 32, np.ones(3, dtype=np.float32)
EXPECTED = Expectation(
    address=Address(run="1", round=1, plan=PLAN, layout="cd" * 32),
    layout=Layout(names=(), shapes=()),
    prices={"update": NOISE, "metrics": None},
)


@dataclass(slots=True)
class Member:
    """A site with a ledger, which answers the orders of a run honestly but for what a test changes."""

    node: int
    ledger: Ledger
    name: str = "north"
    run: str = "1"
    rounds: int = 0

    def report(
        self,
        shown: tuple[Shown, ...],
        reserved: Callable[[Reserved], Reserved] = lambda asked: asked,
        mechanism: Mechanism = NOISE,
        known: int | None = None,
    ) -> TrainReport:
        self.rounds += 1
        address = Address(run=self.run, round=self.rounds, plan=PLAN, layout="cd" * 32)
        mine = [each.note for each in shown if each.origin == self.ledger.origin]
        since = max((self.ledger.refuse_rollback(note, "the server") for note in mine), default=0)
        others = [each for each in shown if each.origin != self.ledger.origin]
        honest = asked(self.rounds, self.run, plan=PLAN, witnessed=digest_of(shown))
        ticket = self.ledger.reserve(reserved(honest), shown=others)
        self.ledger.settle(ticket, digest_of_report(address, self.name, UPDATE))
        return TrainReport(
            address=address,
            site=self.name,
            update=UPDATE,
            mechanism=mechanism,
            declared_rows=0,
            seeded=False,
            receipt=self.ledger.receipt(ticket.reserved.run, since if known is None else known),
        )

    def answer(self, witness: Witness) -> tuple[Reserved, ...]:
        """A round: what the server shows, and what it counts of the answer."""
        shown = witness.shown_to([self.node])[self.node]
        return witness.judge(self.node, self.report(shown), shown, EXPECTED)


def ledger_named(name: str) -> Ledger:
    ledger = Ledger.create(MemoryRows(), KeyRing.throw_away(name), Signer.create(name))
    ledger.set_budget(budget())
    return ledger
