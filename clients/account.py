"""What a site does with its ledger in a round: look at what the server shows, reserve, settle, and show what grew.

Every release goes through here: nothing leaves a site that was not reserved before a record was read.
"""

from __future__ import annotations

from dataclasses import dataclass

from clients.data import DataSet
from clients.registers import register_data
from federation.orders import Order
from federation.plan import Plan
from federation.promise import budget, permissions
from privacy.budget import WHOLE_SITE
from privacy.entries import Purpose, Reserved
from privacy.ledger import Ledger, Ticket, now
from privacy.mechanism import Mechanism
from privacy.receipts import Receipt
from privacy.shown import Shown
from privacy.witness import digest_of


@dataclass(frozen=True, slots=True)
class Reservation:
    """A release that may be made: its ticket, and how many of the ledger's entries the server knew."""

    ticket: Ticket
    known: int


@dataclass(slots=True, kw_only=True)
class Account:
    """Where a site's releases are booked in its ledger.

    data: the sealed data set that is read, and whose account it is, unless a whole client is the unit; None: records
          that the site never sealed, which may be any of its own
    """

    ledger: Ledger
    data: DataSet | None

    def reserve(self, order: Order, plan: Plan, purpose: Purpose, mechanism: Mechanism | None) -> Reservation:
        """Makes the price of a release durable, before a record is read.

        Raises:
            OrderRefused: the server shows other checkpoints than before, the site's budget does not allow the release,
                or the order was answered before.
            BudgetExhausted: the release would pass the site's budget, or the plan's.
            LedgerRolledBack: the server knows a newer or another ledger of this site.
            LedgerCorrupt, StorageFailed, StorageBusy, KeyRefused: the ledger can't be relied on.
        """
        known, others = self._look_at(order)
        if self.data is not None:
            register_data(self.data.vault, self.ledger, self.data.facts)
        asked = Reserved(
            time=now(),
            account=self._of(plan),
            run=order.address.run,
            round=order.address.round,
            plan=order.address.plan,
            purpose=purpose,
            mechanism=mechanism,
            witnessed=digest_of(order.shown),
        )
        wish = budget(plan) if plan.is_private else None
        return Reservation(self.ledger.reserve(asked, wish, others, permissions(plan)), known)

    def settle(self, reservation: Reservation, report: bytes) -> Receipt:
        """Notes the SHA-256 of what leaves; returns what the server gets to see of the ledger. Raises as `reserve`."""
        self.ledger.settle(reservation.ticket, report)
        return self.ledger.receipt(reservation.ticket.reserved.run, reservation.known)

    def refuse(self, plan: Plan) -> None:
        """Passes a plan if the newest budget allows what the server would read; nothing is spent.

        Raises:
            OrderRefused: it does not, or there is none.
            LedgerCorrupt and others: as `reserve`.
        """
        self.ledger.books().refuse_ways(self._of(plan), permissions(plan))

    def _of(self, plan: Plan) -> str:
        """The account of what the plan protects: a client is the whole site, whichever of its data sets is read."""
        if self.data is None or plan.privacy.unit == "client":
            return WHOLE_SITE
        return self.data.facts.fingerprint

    def _look_at(self, order: Order) -> tuple[int, list[Shown]]:
        """How many entries of this ledger the server knows, and the checkpoints of others."""
        mine = [shown for shown in order.shown if shown.origin == self.ledger.origin]
        known = max((self.ledger.refuse_rollback(shown.note, "the server") for shown in mine), default=0)
        return known, [shown for shown in order.shown if shown.origin != self.ledger.origin]
