"""The round loop against broken, lying, silent and late sites: each costs its own report, and the sum is numpy's.

Sites here answer with what the test says; a `PostOffice` is a Flower Grid that delivers it, once, twice, late or never.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor, nn

from federation.layout import Layout
from federation.messages import read_order, write_evaluation, write_refusal, write_report
from federation.orders import EvaluateReport, Order, Refusal, TrainReport
from federation.plan import Plan
from federation.promise import round_mechanism
from privacy.accountant import epsilon
from privacy.errors import RunFailed
from privacy.mechanism import Mechanism
from server.records import Observer, RoundRecord, RunResult
from server.rounds import Setup, initial_vector, run_rounds
from tests.client_builders import PLAIN, PRIVATE, GivenTask, Vector, plan

TASK = GivenTask(lambda: nn.Linear(2, 2, bias=False))
LAYOUT = Layout.of(TASK.model())
Answer = Callable[[int, Message], Iterable[Message]]


class PostOffice(Grid):
    """Delivers what `answer` says to each message, as it is pulled; remembers who was asked what."""

    def __init__(self, nodes: Sequence[int], answer: Answer) -> None:
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
    """An honest report on this order, with these changes."""
    update = np.broadcast_to(np.asarray(values, dtype=np.float32), LAYOUT.length)
    node = message.metadata.dst_node_id
    made = TrainReport(
        address=order_of(message).address,
        site=f"site-{node}",
        update=update,
        mechanism=None,
        declared_rows=0,
        seeded=False,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


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


# A broken report costs itself only


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


HASTY = {**PLAIN, "rounds": 2, "cohort.deadline_seconds": 0.05}


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


# Who takes part


def test_a_silent_site_is_recorded_and_the_round_ends_at_its_deadline() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [] if node == 3 else [sent(message, 1.0)]

    result = run(answer, plan(HASTY), nodes=3)
    assert [refusals(record) for record in result.rounds] == [[("node 3", "DeadlinePassed")]] * 2
    assert moved(result) == pytest.approx([2.0] * 4, abs=1e-6)


def test_a_run_without_its_quorum_ends_with_the_model_it_has() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        number = order_of(message).address.round
        return [refused(message)] if number == 3 and node > 1 else [sent(message, 1.0)]

    result = run(answer, plan({**PLAIN, "rounds": 9, "cohort.quorum": 2}), nodes=3)
    assert len(result.rounds) == 3
    assert result.ended == "quorum not reached: 1 good reports, the plan asks for 2"
    assert moved(result) == pytest.approx([2.0] * 4, abs=1e-6)  # the third round's lone report is not applied


def test_too_few_sites_at_the_start_fail_the_run_and_ask_nobody() -> None:
    grid = PostOffice([1, 2], agreeable)
    agreed = plan({**PLAIN, "cohort.quorum": 3, "cohort.deadline_seconds": 0.01})
    with pytest.raises(RunFailed, match=r"2 sites came online .* quorum is 3"):
        run_rounds(grid, Setup(task=TASK, plan=agreed))
    assert not grid.asked


def test_a_site_whose_budget_is_spent_is_not_asked_again_and_the_run_goes_on() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        spent = node == 2 and order_of(message).address.round == 2
        return [refused(message, "BudgetExhausted") if spent else sent(message, 1.0)]

    grid = PostOffice([1, 2, 3], answer)
    result = run_rounds(grid, Setup(task=TASK, plan=plan({**PLAIN, "rounds": 4})))
    assert result.ended == "all planned rounds are done"
    assert [number for _, number in grid.asked[2]] == [1, 2]
    assert [number for _, number in grid.asked[3]] == [1, 2, 3, 4]
    assert [record.cohort for record in result.rounds] == [3, 3, 2, 2]


def test_a_site_that_refuses_for_another_reason_is_asked_again() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [refused(message) if node == 2 else sent(message, 1.0)]

    grid = PostOffice([1, 2, 3], answer)
    run_rounds(grid, Setup(task=TASK, plan=plan({**PLAIN, "rounds": 3})))
    assert [number for _, number in grid.asked[2]] == [1, 2, 3]


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_run_whose_every_budget_is_spent_stops_and_says_so(share: float) -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [refused(message, "BudgetExhausted") if order_of(message).address.round > 1 else sent(message, 1.0)]

    agreed = plan({**PLAIN, "rounds": 9, "cohort.share": share, "cohort.quorum": 4})
    result = run(answer, agreed, nodes=4)
    assert result.ended == "no site has privacy budget left for another round"
    assert len(result.rounds) == 2
    assert moved(result) == pytest.approx([1.0] * 4, abs=1e-6)


# What sites say of themselves


def test_two_nodes_of_one_name_get_different_names() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [sent(message, 1.0, site="north")]

    result = run(answer, plan({**PLAIN, "rounds": 2}), nodes=3)
    names = ("north", "north (node 2)", "north (node 3)")
    assert [record.answered for record in result.rounds] == [names, names]
    assert [(site.site, site.rounds) for site in result.sites] == [(name, 2) for name in names]


@pytest.mark.parametrize("name", ["north (node 3)", "node 3", ""])
def test_a_site_can_not_take_the_name_that_the_server_would_give_to_another(name: str) -> None:
    claims = {1: name, 2: "north", 3: "north"}

    def answer(node: int, message: Message) -> list[Message]:
        return [sent(message, 1.0, site=claims[node])]

    result = run(answer, plan({**PLAIN, "rounds": 2}), nodes=3)
    assert len(set(result.rounds[0].answered)) == 3
    assert [site.rounds for site in result.sites] == [2, 2, 2]


def test_a_site_that_was_silent_before_it_gave_its_name_is_one_site() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        silent = node == 1 and order_of(message).address.round == 1
        return [] if silent else [sent(message, 1.0)]

    result = run(answer, plan(HASTY), nodes=3)
    found = [(site.site, site.rounds, site.refusals) for site in result.sites]
    assert found == [("site-1", 1, 1), ("site-2", 2, 0), ("site-3", 2, 0)]


def test_declared_weights_are_capped_and_silence_counts_one() -> None:
    declared = {1: 10**9, 2: 300, 3: 0}

    def answer(node: int, message: Message) -> list[Message]:
        return [sent(message, float(node), declared_rows=declared[node])]

    agreed = plan({**PLAIN, "aggregation.weights": "declared", "aggregation.weight_cap": 1000})
    result = run(answer, agreed, nodes=3)
    expected = np.average([1.0, 2.0, 3.0], weights=[1000, 300, 1])
    assert moved(result) == pytest.approx([expected] * 4, abs=1e-6)
    assert [site.declared_rows for site in result.sites] == [10**9, 300, 0]


def test_the_first_declaration_counts_in_every_round() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        later = order_of(message).address.round > 1
        return [sent(message, float(node), declared_rows=1000 if node == 2 and later else 1)]

    result = run(answer, plan({**PLAIN, "rounds": 2, "aggregation.weights": "declared"}), nodes=2)
    assert moved(result) == pytest.approx([3.0] * 4, abs=1e-6)  # the plain mean of 1 and 2, twice


def test_declarations_weigh_nothing_where_weights_are_uniform() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [sent(message, float(node), declared_rows=node * 1000)]

    assert moved(run(answer, plan(PLAIN), nodes=3)) == pytest.approx([2.0] * 4, abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"aggregation.rule": "median"},
        {"aggregation.rule": "trimmed-mean", "aggregation.trimmed_share": 0.2},
        {"aggregation.rule": "krum", "cohort.quorum": 5},
    ],
)
def test_a_robust_rule_holds_against_a_poisoning_site(settings: dict[str, float | str]) -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [sent(message, 1e30 if node == 3 else 1.0 + node / 100)]

    result = run(answer, plan({**PLAIN, **settings}), nodes=5)
    assert all(1.0 < value < 1.1 for value in moved(result))
    assert max(moved(run(answer, plan(PLAIN), nodes=5))) > 1e29  # the mean does not


def test_epsilon_is_counted_by_site_for_admitted_reports_only() -> None:
    agreed = plan({**PRIVATE, "rounds": 3})
    mechanism = round_mechanism(agreed)

    def answer(node: int, message: Message) -> list[Message]:
        absent = node == 2 and order_of(message).address.round == 2
        return [refused(message) if absent else sent(message, 1.0, mechanism=mechanism)]

    result = run(answer, agreed, nodes=3)
    delta = agreed.privacy.delta
    one, two, three = (epsilon([mechanism] * rounds, delta) for rounds in (1, 2, 3))
    assert one < two < three
    assert result.rounds[0].epsilon == {"site-1": one, "site-2": one, "site-3": one}
    assert result.rounds[1].epsilon == {"site-1": two, "site-2": one, "site-3": two}
    assert [site.epsilon for site in result.sites] == [three, two, three]


@pytest.mark.parametrize("seeded", [True, False])
def test_a_round_says_whether_any_noise_came_from_a_seed(seeded: bool) -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [sent(message, 1.0, seeded=seeded and node == 2)]

    assert run(answer, plan(PLAIN)).rounds[0].seeded is seeded


def test_rounds_start_from_the_model_of_the_round_before() -> None:
    seen: dict[int, list[Vector]] = defaultdict(list)

    def answer(node: int, message: Message) -> list[Message]:
        seen[order_of(message).address.round].append(order_of(message).vector)
        return [sent(message, 0.25)]

    result = run(answer, plan({**PLAIN, "rounds": 3}), nodes=2)
    first = start(result.plan)
    for number, vectors in seen.items():
        assert vectors[0].tolist() == vectors[1].tolist()
        assert vectors[0] == pytest.approx(first + 0.25 * (number - 1), abs=1e-6)


# Plain metrics

PLAIN_METRICS = plan({**PLAIN, "metrics": "plain"})


def sums(count: float, correct: float, **more: list[float]) -> dict[str, Tensor]:
    """Sums of a site: `more` puts other names beside the usual ones."""
    usual = {
        "count": count,
        "correct": correct,
        "loss": 2 * count,
        "positives": [0.0, count],
        "negatives": [count, 0.0],
    }
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in {**usual, **more}.items()}


def measured(answers: dict[int, dict[str, Tensor] | None]) -> RunResult:
    """A run of one round whose sites report these sums; None refuses."""

    def answer(node: int, message: Message) -> list[Message]:
        if message.metadata.message_type == MessageType.TRAIN:
            return [sent(message, 1.0)]
        found = answers[node]
        if found is None:
            return [refused(message, "OrderRefused")]
        made = EvaluateReport(address=order_of(message).address, site=f"site-{node}", sums=found)
        return [Message(write_evaluation(made), reply_to=message)]

    return run(answer, PLAIN_METRICS, nodes=len(answers))


def test_plain_metrics_are_pooled_over_sites_and_labelled() -> None:
    (record,) = measured({1: sums(10, 9), 2: sums(30, 11), 3: None}).rounds
    assert record.figures == {"accuracy": 20 / 40, "auroc": 1.0, "loss": 2.0}
    assert record.figures_source == "plain sums from sites"
    assert refusals(record) == [("site-3", "OrderRefused")]
    assert record.answered == ("site-1", "site-2", "site-3")


ODD = {
    "another name": sums(1000, 1000, extra=[1.0]),
    "another shape": sums(1000, 1000, positives=[1.0, 2.0, 3.0]),
    "a name missing": {"count": torch.tensor(1000.0, dtype=torch.float64)},
    "a NaN": sums(1000, float("nan")),
}


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_site_of_other_metrics_is_refused_wherever_it_stands(odd: dict[str, Tensor], place: int) -> None:
    (record,) = measured({**dict.fromkeys((1, 2, 3), sums(10, 9)), place: odd}).rounds
    assert record.figures["accuracy"] == 0.9
    error = "NotFinite" if odd is ODD["a NaN"] else "WrongShape"
    assert refusals(record) == [(f"site-{place}", error)]


def test_metrics_that_the_task_can_not_read_do_not_end_the_run() -> None:
    result = measured({node: {"nonsense": torch.ones(1, dtype=torch.float64)} for node in (1, 2)})
    assert result.ended == "all planned rounds are done"
    assert result.rounds[0].figures == {}


def test_without_metrics_nobody_is_asked_to_evaluate() -> None:
    grid = PostOffice([1, 2], agreeable)
    result = run_rounds(grid, Setup(task=TASK, plan=plan(PLAIN)))
    assert grid.asked == {1: [(MessageType.TRAIN, 1)], 2: [(MessageType.TRAIN, 1)]}
    assert (result.rounds[0].figures, result.rounds[0].figures_source) == ({}, "none")


def test_what_only_a_simulator_can_see_is_labelled_so() -> None:
    grid = PostOffice([1, 2], agreeable)
    setup = Setup(task=TASK, plan=plan(PLAIN), judge=lambda vector: {"total": float(vector.sum())})
    (record,) = run_rounds(grid, setup).rounds
    assert record.figures_source == "simulation only"
    assert record.figures["total"] == pytest.approx(float(start(plan(PLAIN)).sum()) + 4.0, abs=1e-5)


# Memory


def test_the_mean_of_many_sites_holds_a_few_replies_at_a_time() -> None:
    alive: weakref.WeakSet[Message] = weakref.WeakSet()
    most = [0]

    def answer(node: int, message: Message) -> Iterable[Message]:
        reply = sent(message, float(node))
        alive.add(reply)
        most[0] = max(most[0], len(alive))
        yield reply

    result = run(answer, plan(PLAIN), nodes=200)
    assert moved(result) == pytest.approx([100.5] * 4, abs=1e-4)
    assert most[0] <= 4


def test_observers_hear_of_every_reply_and_every_round() -> None:
    heard: list[tuple[str, int]] = []

    class Listener(Observer):
        def run_started(self, run: str, plan: Plan, nodes: int) -> None:
            heard.append((f"run {run}", nodes))

        def reply_arrived(self, round_number: int, done: int, cohort: int) -> None:
            heard.append((f"{round_number}: {done} of {cohort}", 0))

        def round_finished(self, record: RoundRecord) -> None:
            heard.append(("round", record.round))

        def run_finished(self, result: RunResult) -> None:
            heard.append(("end", len(result.rounds)))

    run(agreeable, plan(PLAIN), nodes=2, observers=(Listener(),))
    assert heard == [("run 17", 2), ("1: 1 of 2", 0), ("1: 2 of 2", 0), ("round", 1), ("end", 1)]
