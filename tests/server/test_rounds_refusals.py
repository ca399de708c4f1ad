"""A broken, lying, doubled or late report costs itself only, and the others are summed as numpy sums them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from federation.messages import write_report
from federation.orders import Order
from federation.promise import round_mechanism
from privacy.mechanism import Mechanism
from privacy.receipts import Receipt
from server.rounds import Setup, run_rounds
from tests.client_builders import PLAIN, PRIVATE, plan
from tests.server_builders import (
    HASTY,
    LAYOUT,
    LEDGERS,
    NO_RECEIPT,
    TASK,
    PostOffice,
    moved,
    order_of,
    refusals,
    refused,
    report,
    run,
    sent,
    start,
)


def poisoned(value: float) -> Callable[[Message], RecordDict]:
    def broken(message: Message) -> RecordDict:
        update = np.full(LAYOUT.length, 8, dtype=np.float32)
        update[1] = value
        return write_report(report(message, update))

    return broken


def without_tensor(message: Message) -> RecordDict:
    content = write_report(report(message, 8.0))
    del content["vector"]
    return content


def with_two_vectors_glued(message: Message) -> RecordDict:
    return write_report(report(message, 8.0, update=np.full(2 * LAYOUT.length, 8, dtype=np.float32)))


def with_pickled_arrays(message: Message) -> RecordDict:
    content = write_report(report(message, 8.0))
    content["vector"] = ArrayRecord({"vector": ArrayRecord([np.full(LAYOUT.length, 8, np.float32)])["0"]})
    return content


def at(**where: object) -> Callable[[Message], RecordDict]:
    """A report of another run, plan, round or layout."""

    def broken(message: Message) -> RecordDict:
        return write_report(report(message, 8.0, address=replace(order_of(message).address, **where)))  # type: ignore[arg-type]

    return broken


def with_mechanism(message: Message) -> RecordDict:
    stated = Mechanism(noise_multiplier=0.1, sample_rate=1.0, steps=1, max_grad_norm=1.0)
    return write_report(report(message, 8.0, mechanism=stated))


def with_receipt(receipt: Callable[[Message], Receipt]) -> Callable[[Message], RecordDict]:
    """An honest report but for its receipt."""
    return lambda message: write_report(report(message, 8.0, receipt=receipt(message)))


def of_another_site(message: Message) -> Receipt:
    return LEDGERS.receipt(99, order_of(message), report(message, 8.0, receipt=NO_RECEIPT, site="site-99"))


def of_another_update(message: Message) -> Receipt:
    return report(message, 7.0).receipt


def without_entries(message: Message) -> Receipt:
    return replace(report(message, 8.0).receipt, revealed=())


BROKEN = {
    "NaN": (poisoned(float("nan")), "NotFinite"),
    "infinity": (poisoned(float("inf")), "NotFinite"),
    "two vectors glued": (with_two_vectors_glued, "WrongShape"),
    "numpy's own serialisation": (with_pickled_arrays, "WrongShape"),
    "no tensor": (without_tensor, "MissingTensor"),
    "a foreign run": (at(run="18"), "WrongRun"),
    "a foreign plan": (at(plan="0" * 64), "WrongPlan"),
    "a foreign model": (at(layout="0" * 64), "WrongShape"),
    "a round of tomorrow": (at(round=2), "LateReport"),
    "another mechanism": (with_mechanism, "WrongMechanism"),
    "no receipt": (with_receipt(lambda _: NO_RECEIPT), "MalformedReceipt"),
    "another site's receipt": (with_receipt(of_another_site), "WrongReserve"),
    "an update that the ledger did not settle": (with_receipt(of_another_update), "WrongReserve"),
    "a round that the ledger did not reserve": (with_receipt(without_entries), "WrongReserve"),
    "nothing at all": (lambda _: RecordDict(), "MalformedReport"),
}


@pytest.mark.parametrize(("broken", "error"), BROKEN.values(), ids=BROKEN)
def test_a_broken_report_is_refused_by_name_and_the_others_are_summed(
    broken: Callable[[Message], RecordDict], error: str
) -> None:
    def answer(node: int, message: Message) -> list[Message]:
        if node == 2:
            return [Message(broken(message), reply_to=message)]
        return [sent(message, [node, -node, 0.5, 3])]

    result = run(answer, plan(PLAIN))
    (record,) = result.rounds
    assert refusals(record) == [("node 2", error)]
    assert record.answered == ("site-1", "site-3", "site-4")
    mean = np.mean([[node, -node, 0.5, 3] for node in (1, 3, 4)], axis=0).astype(np.float32)
    assert result.vector.tolist() == (start(result.plan) + mean).tolist()


@pytest.mark.parametrize(
    "stated",
    [
        None,
        {"noise_multiplier": 0.5},
        {"sample_rate": 0.5},
        {"steps": 2},
        {"max_grad_norm": 2.0},
    ],
)
def test_a_site_that_adds_another_noise_than_the_plan_asks_is_refused(stated: dict[str, float] | None) -> None:
    agreed = plan(PRIVATE)
    honest = round_mechanism(agreed)
    lie = None if stated is None else replace(honest, **stated)  # type: ignore[arg-type]

    def answer(node: int, message: Message) -> list[Message]:
        return [sent(message, 8.0 if node == 2 else 1.0, mechanism=lie if node == 2 else honest)]

    result = run(answer, agreed)
    assert refusals(result.rounds[0]) == [("node 2", "WrongMechanism")]
    assert moved(result) == pytest.approx([1.0] * 4, abs=1e-6)


def test_flowers_own_errors_are_refusals() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        if node == 2:
            return [Message(Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason="gone"), reply_to=message)]
        return [sent(message, 1.0)]

    assert refusals(run(answer, plan(PLAIN)).rounds[0]) == [("node 2", "MalformedReport")]


def test_a_second_reply_to_one_order_is_a_duplicate_and_counts_once() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [sent(message, float(node))] * (3 if node == 1 else 1)

    result = run(answer, plan(PLAIN))
    assert refusals(result.rounds[0]) == [("site-1", "DuplicateReport")] * 2
    assert moved(result) == pytest.approx([2.5] * 4, abs=1e-6)


class Procrastinator:
    """Site 1 answers its first order only together with its second."""

    def __init__(self, late: Callable[[Message], Message]) -> None:
        self._late = late
        self._kept: list[Message] = []

    def __call__(self, node: int, message: Message) -> list[Message]:
        if node != 1:
            return [sent(message, 1.0)]
        if not self._kept:
            self._kept.append(message)
            return []
        return [self._late(self._kept[0]), sent(message, 5.0)]


class Relay(PostOffice):
    """Delivers old replies, too, when new ones are pulled: the ids asked for must still hold the old order's."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = set(message_ids)
        for reply in super().pull_messages(wanted):
            assert reply.metadata.reply_to_message_id in wanted
            yield reply


def test_a_late_report_is_refused_in_the_round_it_arrives_in_and_the_punctual_one_counts() -> None:
    grid = Relay([1, 2, 3], Procrastinator(lambda kept: sent(kept, 9.0)))
    result = run_rounds(grid, Setup(task=TASK, plan=plan(HASTY)))
    first, second = result.rounds
    assert refusals(first) == [("node 1", "DeadlinePassed")]
    assert refusals(second) == [("node 1", "LateReport")]
    assert second.answered == ("site-1", "site-2", "site-3")
    assert moved(result) == pytest.approx([1 + 7 / 3] * 4, abs=1e-5)


def test_a_late_refusal_does_not_keep_out_the_report_of_this_round() -> None:
    result = run(Procrastinator(refused), plan(HASTY), nodes=3)
    assert refusals(result.rounds[1]) == [("site-1", "DataInvalid")]
    assert result.rounds[1].answered == ("site-1", "site-2", "site-3")


def test_a_site_that_speaks_again_for_an_old_order_can_not_report_twice() -> None:
    """Both orders answered with reports of round 2."""
    newest: dict[int, Order] = {}

    def answer(node: int, message: Message) -> list[Message]:
        first = node not in newest
        newest[node] = order_of(message)
        if node == 1 and first:
            return []
        return [sent(message, 4.0), sent(message, 4.0)] if node == 1 else [sent(message, 1.0)]

    result = run(answer, plan(HASTY), nodes=3)
    assert refusals(result.rounds[1]) == [("site-1", "DuplicateReport")]
    assert moved(result) == pytest.approx([3.0] * 4, abs=1e-5)
