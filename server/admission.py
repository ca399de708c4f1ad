"""What is admitted to a round's sum: each reply on its own, so that one broken site costs its own report only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from flwr.app import Message

from federation.messages import read_report, read_sums
from federation.orders import Expectation, Refusal, Report, SumsReport, TrainReport
from privacy.entries import Purpose, Reserved
from privacy.errors import DuplicateReport, MalformedReport, UnknownSite
from privacy.shown import Shown
from server.witness import Witness

_Report = TypeVar("_Report", bound=Report, covariant=True)


@dataclass(frozen=True, slots=True)
class Admitted(Generic[_Report]):
    """A report that may be added, and what its site's ledger reserved in this run since it was last seen."""

    report: _Report
    reserved: tuple[Reserved, ...]


@dataclass(slots=True, kw_only=True)
class Admission:
    """The door of one round: what each node was shown, who has answered, and what a report must match."""

    expected: Expectation
    witness: Witness
    asked: Mapping[int, tuple[Shown, ...]]
    answered: set[int] = field(default_factory=set)

    def admit(self, node: int, reply: Message) -> Admitted[TrainReport] | Refusal:
        """A report to add, whose site's ledger proves its price, or a site's refusal.

        Raises:
            ReportRefused: one of its kinds; the round goes on without this reply.
        """
        self._refuse_stranger(node, reply)
        return self._judged(node, read_report(reply.content, self.expected))

    def admit_sums(self, node: int, reply: Message, purpose: Purpose) -> Admitted[SumsReport] | Refusal:
        """A site's sums for this purpose to pool, or its refusal.

        Raises:
            ReportRefused: one of its kinds; the round goes on without this reply.
        """
        self._refuse_stranger(node, reply)
        return self._judged(node, read_sums(reply.content, self.expected, purpose))

    def _judged(self, node: int, report: _Report | Refusal) -> Admitted[_Report] | Refusal:
        """A refusal names no round: one that comes late must not keep out the report of this round."""
        if isinstance(report, Refusal):
            return report
        self.answered.add(node)
        return Admitted(report, self.witness.judge(node, report, self.asked[node], self.expected))

    def _refuse_stranger(self, node: int, reply: Message) -> None:
        if reply.has_error():
            raise MalformedReport(f"Flower reports error {reply.error.code} from the site: {reply.error.reason}")
        if node not in self.asked:
            raise UnknownSite(f"node {node} was not asked in this round")
        if node in self.answered:
            raise DuplicateReport(f"node {node} has answered this round already")
