"""A Flower Grid whose sites answer with what the test says, once, twice, late or never; honest and refusing answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from torch import nn

from clients.account import Account, Reservation
from federation.layout import Layout
from federation.messages import read_order, write_report
from federation.orders import Address, Order, Refusal, SumsReport, TrainReport
from federation.plan import Plan
from federation.seeding import initial_vector
from federation.wire import write_refusal
from privacy.entries import Purpose
from privacy.mechanism import Mechanism
from privacy.receipts import Receipt
from server.records import Observer, RoundRecord, RunResult
from server.rounds import Setup, run_rounds
from tests.client_builders import PLAIN, GivenTask, Vector, ledger_of, plan

TASK = GivenTask(lambda: nn.Linear(2, 2, bias=False))
LAYOUT = Layout.of(TASK.model())
HASTY = {**PLAIN, "rounds": 2, "cohort.deadline_seconds": 0.05}
NO_RECEIPT = Receipt(verifying=bytes(32), note="", consistency=(), revealed=())
Answer = Callable[[int, Message], Iterable[Message]]


class Ledgers:
    """The ledgers of all sites of the newest grid: a site counts what it reports, as a true one does."""

    def __init__(self) -> None:
        self._accounts: dict[int, Account] = {}
        self._receipts: dict[tuple[int, Address, Purpose], Receipt] = {}

    def open(self) -> None:
        """New sites, which have reported nothing."""
        self._accounts.clear()
        self._receipts.clear()

    def account(self, node: int) -> Account:
        """The account of the site behind a node; its ledger is called after its number."""
        if node not in self._accounts:
            self._accounts[node] = Account(ledger=ledger_of(f"site-{node}"), data=None)
        return self._accounts[node]

    def reserve(self, node: int, wish: Order, mechanism: Mechanism | None, purpose: Purpose = "update") -> Reservation:
        return self.account(node).reserve(wish, plan(PLAIN), purpose, mechanism)

    def receipt(self, node: int, wish: Order, made: TrainReport | SumsReport) -> Receipt:
        """Reserves and settles this report; a second report of one round has the first one's receipt, and no other."""
        key = node, made.address, made.purpose
        if key not in self._receipts:
            reservation = self.reserve(node, replace(wish, address=made.address), made.mechanism, made.purpose)
            self._receipts[key] = self.account(node).settle(reservation, made.digest)
        return self._receipts[key]


LEDGERS = Ledgers()


class PostOffice(Grid):
    """Delivers what `answer` says to each message, as it is pulled; remembers who was asked what."""

    def __init__(self, nodes: Sequence[int], answer: Answer) -> None:
        LEDGERS.open()
        self._nodes = nodes
        self._answer = answer
        self._waiting: dict[str, Message] = {}
        self.asked: dict[int, list[tuple[str, int]]] = defaultdict(list)
        self.set_run(Run.create_empty(run_id=17))

    def set_run(self, run: Run) -> None:
        self._run = run
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run.run_id, 1, 1

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return self._nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            ids.append(f"{sum(map(len, self.asked.values()))}")
            message.metadata.__dict__["_message_id"] = ids[-1]
            kind, number = message.metadata.message_type, int(message.metadata.group_id)
            self.asked[message.metadata.dst_node_id].append((kind, number))
            self._waiting[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for message_id in [one for one in list(message_ids) if one in self._waiting]:
            message = self._waiting.pop(message_id)
            yield from self._answer(message.metadata.dst_node_id, message)


def order_of(message: Message) -> Order:
    return read_order(message.content, LAYOUT)


def report(message: Message, values: float | list[float] | Vector, **changes: object) -> TrainReport:
    """An honest report on this order, with these changes, which its site's ledger has settled."""
    update = np.broadcast_to(np.asarray(values, dtype=np.float32), LAYOUT.length)
    node, wish = message.metadata.dst_node_id, order_of(message)
    made = TrainReport(
        address=wish.address,
        site=f"site-{node}",
        update=update,
        mechanism=None,
        declared_rows=0,
        seeded=False,
        receipt=NO_RECEIPT,
    )
    made = replace(made, **changes)  # type: ignore[arg-type]
    return made if "receipt" in changes else replace(made, receipt=LEDGERS.receipt(node, wish, made))


def sent(message: Message, values: float | list[float] | Vector, **changes: object) -> Message:
    """The reply that carries `report`."""
    return Message(write_report(report(message, values, **changes)), reply_to=message)


def agreeable(node: int, message: Message) -> list[Message]:
    """An answer of every site: one."""
    return [sent(message, 1.0)]


def refused(message: Message, error: str = "DataInvalid", site: str = "") -> Message:
    name = site or f"site-{message.metadata.dst_node_id}"
    return Message(write_refusal(Refusal(site=name, error=error, reason="no")), reply_to=message)


def run(answer: Answer, agreed: Plan, nodes: int = 4, observers: tuple[Observer, ...] = ()) -> RunResult:
    """The run of sites 1, 2, 3, ... that answer so."""
    return run_rounds(PostOffice(range(1, nodes + 1), answer), Setup(task=TASK, plan=agreed, observers=observers))


def start(agreed: Plan) -> Vector:
    return initial_vector(TASK, agreed.seed)[1]


def moved(result: RunResult) -> list[float]:
    """How far the run moved its model."""
    return (result.vector - start(result.plan)).tolist()


def refusals(record: RoundRecord) -> list[tuple[str, str]]:
    return [(one.site, one.error) for one in record.refused]
