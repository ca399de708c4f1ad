"""What every kind of run needs at the server: orders out, replies in as they arrive, and a note of each that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from federation.layout import Layout
from federation.orders import Address, Expectation, Refusal
from federation.plan import Plan
from federation.promise import prices
from federation.task import Task
from federation.wire import payload_bytes
from privacy.errors import ModelDiffers, NotJoined, ReportRefused
from server.exchange import Exchange
from server.records import EncryptionRecord, Observer, Refused
from server.roster import Roster
from server.witness import Witness

_Answer = TypeVar("_Answer")
_LOST = frozenset({NotJoined.__name__, ModelDiffers.__name__})


@dataclass(slots=True, kw_only=True)
class Tally:
    """What one round's messages came to."""

    answered: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    bytes_down: int = 0
    bytes_up: int = 0
    seeded: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    encryption: EncryptionRecord | None = None


class Setting(Protocol):
    """What a desk reads of a run's setup."""

    @property
    def task(self) -> Task: ...

    @property
    def plan(self) -> Plan: ...

    @property
    def observers(self) -> Sequence[Observer]: ...

    @property
    def witness(self) -> Witness: ...


class Desk:
    """The messages, names and spending of one run.

    lost: nodes whose sites refused because they know nothing of an encrypted run, or hold another model; which error
    """

    def __init__(self, grid: Grid, setup: Setting, layout: Layout) -> None:
        self.run = str(grid.run.run_id)
        self.task, self.plan, self.layout = setup.task, setup.plan, layout
        self.witness = setup.witness
        self.roster = Roster(setup.plan)
        self.exchange = Exchange(grid=grid, deadline_seconds=setup.plan.cohort.deadline_seconds)
        self.lost: dict[int, str] = {}
        self._observers = setup.observers
        self._prices = prices(setup.plan, setup.task)

    def address(self, number: int) -> Address:
        """What the messages of a round belong to."""
        return Address(run=self.run, round=number, plan=self.plan.digest, layout=self.layout.digest)

    def expectation(self, number: int) -> Expectation:
        """What a report of a round must match."""
        return Expectation(address=self.address(number), layout=self.layout, prices=self._prices)

    def replies(
        self, orders: Mapping[int, RecordDict], kind: str, number: int, tally: Tally
    ) -> Iterator[tuple[int, Message]]:
        """Sends every node its order; yields the replies, and notes the silent."""
        tally.bytes_down += sum(payload_bytes(order) for order in orders.values())
        for node, reply in self.exchange.ask(orders, kind, number):
            tally.bytes_up += payload_bytes(reply.content) if reply.has_content() else 0
            yield node, reply
        for node in sorted(self.exchange.silent):
            reason = f"no reply within {self.plan.cohort.deadline_seconds:g} s"
            tally.refused.append(self.roster.failed(node, "DeadlinePassed", reason))

    def admitted(
        self,
        replies: Iterable[tuple[int, Message]],
        admit: Callable[[int, Message], _Answer | Refusal],
        tally: Tally,
    ) -> Iterator[tuple[int, _Answer]]:
        """Yields the replies that the door lets in; notes the others, and the sites' refusals."""
        for node, reply in replies:
            try:
                answer = admit(node, reply)
            except ReportRefused as error:
                tally.refused.append(self.roster.failed(node, type(error).__name__, str(error)))
                continue
            if isinstance(answer, Refusal):
                tally.refused.append(self.roster.refused(node, answer))
                if answer.error in _LOST:
                    self.lost[node] = answer.error
            else:
                yield node, answer

    def watched(
        self, number: int, cohort: int, replies: Iterable[tuple[int, Message]]
    ) -> Iterator[tuple[int, Message]]:
        """The same replies, counted before the observers' eyes."""
        for arrived, reply in enumerate(replies, start=1):
            for observer in self._observers:
                observer.reply_arrived(number, arrived, cohort)
            yield reply
