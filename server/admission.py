"""What is admitted to a round's sum: each reply on its own, so that one broken site costs its own report only."""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import Message

from federation.messages import read_evaluation, read_report
from federation.orders import EvaluateReport, Expectation, Refusal, TrainReport
from privacy.errors import DuplicateReport, MalformedReport, UnknownSite


@dataclass(slots=True, kw_only=True)
class Admission:
    """The door of one round: who was asked, who has answered, and what a report must match."""

    expected: Expectation
    asked: frozenset[int]
    answered: set[int] = field(default_factory=set)

    def admit(self, node: int, reply: Message) -> TrainReport | Refusal:
        """A report to add, or a site's refusal.

        Raises:
            ReportRefused: one of its kinds; the round goes on without this reply.
        """
        self._refuse_stranger(node, reply)
        report = read_report(reply.content, self.expected)
        self._note(node, report)
        return report

    def admit_evaluation(self, node: int, reply: Message) -> EvaluateReport | Refusal:
        """A site's metric sums to pool, or its refusal.

        Raises:
            ReportRefused: one of its kinds; the round goes on without this reply.
        """
        self._refuse_stranger(node, reply)
        report = read_evaluation(reply.content, self.expected.address)
        self._note(node, report)
        return report

    def _note(self, node: int, report: TrainReport | EvaluateReport | Refusal) -> None:
        """A refusal names no round: one that comes late must not keep out the report of this round."""
        if not isinstance(report, Refusal):
            self.answered.add(node)

    def _refuse_stranger(self, node: int, reply: Message) -> None:
        if reply.has_error():
            raise MalformedReport(f"Flower reports error {reply.error.code} from the site: {reply.error.reason}")
        if node not in self.asked:
            raise UnknownSite(f"node {node} was not asked in this round")
        if node in self.answered:
            raise DuplicateReport(f"node {node} has answered this round already")
