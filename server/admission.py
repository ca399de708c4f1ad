"""What is admitted to a round's sum: each reply on its own, so that one broken site costs its own report only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import Message
from torch import Tensor

from federation.messages import read_evaluation, read_report
from federation.orders import EvaluateReport, Expectation, Refusal, TrainReport
from privacy.errors import DuplicateReport, MalformedReport, UnknownSite, WrongShape


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
        self.answered.add(node)
        return report

    def admit_evaluation(self, node: int, reply: Message, like: Mapping[str, Tensor]) -> EvaluateReport | Refusal:
        """A site's metric sums, of the names and shapes of `like` where that holds any, or its refusal.

        Raises:
            ReportRefused: one of its kinds; the round goes on without this reply.
        """
        self._refuse_stranger(node, reply)
        report = read_evaluation(reply.content, self.expected.address)
        if isinstance(report, EvaluateReport) and like and _shapes(report.sums) != _shapes(like):
            raise WrongShape(f"the metrics are {_shapes(report.sums)}, but other sites sent {_shapes(like)}")
        self.answered.add(node)
        return report

    def _refuse_stranger(self, node: int, reply: Message) -> None:
        if reply.has_error():
            raise MalformedReport(f"Flower reports error {reply.error.code} from the site: {reply.error.reason}")
        if node not in self.asked:
            raise UnknownSite(f"node {node} was not asked in this round")
        if node in self.answered:
            raise DuplicateReport(f"node {node} has answered this round already")


def _shapes(sums: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in sorted(sums.items())}
