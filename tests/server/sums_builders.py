"""Sites that answer orders for private metrics and statistics, honestly or as a test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from flwr.app import Message, MessageType
from torch import nn

from federation.messages import write_sums
from federation.orders import Order, SumsReport, digest_of_sums
from federation.plan import Plan, Scalar
from federation.promise import metrics_mechanism, round_mechanism, run_releases, statistics_mechanism
from federation.statistics import Moments
from privacy.accountant import epsilon
from privacy.entries import Purpose
from privacy.mechanism import Mechanism
from server.records import Observer, RunResult
from server.rounds import Setup, run_rounds
from tests.client_builders import PRIVATE, GivenTask
from tests.server_builders import LEDGERS, PostOffice, order_of, sent

MEASURED: dict[str, Scalar] = {**PRIVATE, "rounds": 2, "metrics": "private"}
SURVEYED: dict[str, Scalar] = {**PRIVATE, "rounds": 2, "statistics": "private"}
ANSWER = {MessageType.EVALUATE: "metrics", MessageType.QUERY: "statistics"}
Sums = Mapping[str, list[float] | float]
Says = Callable[[int, Message], list[Message] | None]


class Surveying(GivenTask):
    """Two columns, of which the mean is asked for."""

    statistics = (Moments(field="x", lower=(0.0, 0.0), upper=(10.0, 10.0)),)


TASK = Surveying(lambda: nn.Linear(2, 2, bias=False))
BARE = GivenTask(TASK._build)
TWO = [4.0, 2.0, 1.0, 4.0, 1.0, 1.0]


def a_report(
    message: Message, agreed: Plan, sums: Sums, mechanism: Mechanism | None, reserved: Mechanism | None
) -> list[Message]:
    """Sums under this mechanism, from a site whose ledger reserved that one."""
    node, wish = message.metadata.dst_node_id, order_of(message)
    purpose: Purpose = "metrics" if ANSWER[message.metadata.message_type] == "metrics" else "statistics"
    found = {name: torch.tensor(value, dtype=torch.float64) for name, value in sums.items()}
    reservation = LEDGERS.account(node).reserve(wish, agreed, purpose, reserved)
    receipt = LEDGERS.account(node).settle(reservation, digest_of_sums(wish.address, f"site-{node}", found))
    made = SumsReport(
        address=wish.address,
        site=f"site-{node}",
        purpose=purpose,
        sums=found,
        mechanism=mechanism,
        seeded=False,
        receipt=receipt,
    )
    return [Message(write_sums(made), reply_to=message)]


class Watching(Observer):
    """Notes the statistics, and how the run ended."""

    def __init__(self) -> None:
        self.statistics: tuple[float, ...] = ()
        self.ended = ""

    def statistics_gathered(self, values: tuple[float, ...]) -> None:
        self.statistics = values

    def run_finished(self, result: RunResult) -> None:
        self.ended = result.ended


class Sites:
    """Honest sites, each with ten records held out of which nine are right; `says` may answer in their place."""

    def __init__(self, agreed: Plan, says: Says | None = None) -> None:
        self.agreed, self._says = agreed, says
        self.orders: list[Order] = []

    def answer(self, node: int, message: Message) -> list[Message]:
        self.orders.append(order_of(message))
        odd = self._says(node, message) if self._says else None
        if odd is not None:
            return odd
        if message.metadata.message_type == MessageType.TRAIN:
            return [sent(message, 1.0, mechanism=round_mechanism(self.agreed))]
        return self.honest(message)

    def honest(self, message: Message, sums: Sums | None = None) -> list[Message]:
        if message.metadata.message_type == MessageType.QUERY:
            mechanism = statistics_mechanism(self.agreed, 6**0.5)
            return a_report(message, self.agreed, sums or {"statistics": TWO}, mechanism, mechanism)
        mechanism = metrics_mechanism(self.agreed)
        usual = {"count": 10.0, "correct": 9.0, "loss": 4.0}
        return a_report(message, self.agreed, sums or usual, mechanism, mechanism)

    def run(self, nodes: int = 3, watching: Observer | None = None) -> RunResult:
        task = TASK if self.agreed.statistics == "private" else BARE
        setup = Setup(task=task, plan=self.agreed, observers=(watching,) if watching else ())
        return run_rounds(PostOffice(range(1, nodes + 1), self.answer), setup)


def asked_for(kind: str, nodes: set[int], odd: Callable[[Message], list[Message]]) -> Says:
    """These nodes answer so when they are asked for this."""
    return lambda node, message: odd(message) if message.metadata.message_type == kind and node in nodes else None


def cost(agreed: Plan, rounds: int) -> float:
    return epsilon(run_releases(agreed, rounds), agreed.privacy.delta)
