"""The round loop: order, admit, add, advance, record; until the plan's rounds are done or nobody may go on.

Our own loop over Flower's Grid, because Flower's `Strategy.start` has no quorum, no early stop and no validation that
lets a round survive one broken site. It holds one sum in memory, however many sites report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from numpy.typing import NDArray

from federation import statistics
from federation.layout import Layout
from federation.messages import payload_bytes, shown_with, write_order
from federation.orders import Address, Expectation, Order, Refusal, SumsReport, TrainReport
from federation.plan import Plan
from federation.promise import prices
from federation.seeding import first_model
from federation.task import Task, informed
from privacy.entries import Purpose
from privacy.errors import ReportRefused, RunFailed
from server.admission import Admission, Admitted
from server.aggregation import Aggregate, aggregate
from server.cohort import cohort
from server.exchange import Exchange
from server.figures import figures_of
from server.metric_pool import MetricPool
from server.optimizers import ServerState, advance
from server.records import Observer, Refused, RoundRecord, RunResult
from server.roster import Roster
from server.survey import summed_statistics, wanted_statistics
from server.witness import Witness

_Answer = TypeVar("_Answer", Admitted[TrainReport], Admitted[SumsReport])

Judge = Callable[[NDArray[np.float32], tuple[float, ...]], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a run needs besides sites.

    judge:   figures of a model vector, under what the statistics say, that only a simulator can compute; None in
             deployments
    witness: what the server has seen of the sites' ledgers
    """

    task: Task
    plan: Plan
    observers: Sequence[Observer] = ()
    judge: Judge | None = None
    witness: Witness = field(default_factory=Witness)


def run_rounds(grid: Grid, setup: Setup) -> RunResult:
    """Runs the plan over the grid's nodes and returns what came of it.

    Raises:
        RunFailed: fewer sites than the quorum came online before the deadline, or a round could not go on; what was
            finished is handed to the observers first, as it is when a person interrupts.
    """
    run = _Run(grid, setup)
    nodes = run.wait_for_quorum()
    for observer in setup.observers:
        observer.run_started(run.id, setup.plan, nodes)
    records: list[RoundRecord] = []
    ended = ""
    stopped: BaseException | None = None
    try:
        run.gather_statistics()
    except (RunFailed, KeyboardInterrupt) as error:
        stopped, ended = error, f"stopped before the first round: {str(error) or 'interrupted'}"
    while not ended:
        try:
            record, ended = run.round(len(records) + 1)
        except (RunFailed, KeyboardInterrupt) as error:
            stopped, ended = error, f"stopped in round {len(records) + 1}: {str(error) or 'interrupted'}"
            continue
        records.append(record)
        for observer in setup.observers:
            observer.round_finished(record)
    result = run.result(tuple(records), ended)
    for observer in setup.observers:
        observer.run_finished(result)
    if stopped is not None:
        raise stopped
    return result


def initial_vector(task: Task, seed: int) -> tuple[Layout, NDArray[np.float32]]:
    """The layout and the first model vector, drawn from the plan's public seed."""
    model = first_model(task, seed)
    layout = Layout.of(model)
    return layout, layout.flatten(model)


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What one round's replies came to."""

    total: Aggregate
    answered: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    bytes_down: int = 0
    bytes_up: int = 0
    seeded: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


class _Run:
    """The state that rounds hand on: model and moments, who is out of budget, messages under way."""

    def __init__(self, grid: Grid, setup: Setup) -> None:
        self.id = str(grid.run.run_id)
        self._setup = setup
        self._plan = setup.plan
        self._exchange = Exchange(grid=grid, deadline_seconds=setup.plan.cohort.deadline_seconds)
        self._layout, vector = initial_vector(setup.task, setup.plan.seed)
        self._state = ServerState.start(vector, setup.plan.aggregation)
        self._prices = prices(setup.plan, setup.task)
        statistics.width(setup.task.statistics)  # refuses what no message holds
        self._statistics: tuple[float, ...] = ()
        self._roster = Roster(setup.plan)
        self._next = self._fresh_tally()

    def wait_for_quorum(self) -> int:
        quorum = self._plan.cohort.quorum
        online = len(self._exchange.nodes(quorum))
        if online < quorum:
            raise RunFailed(
                f"{online} sites came online within {self._plan.cohort.deadline_seconds:g} s, but the plan's quorum is "
                f"{quorum}: start more sites, or lower cohort.quorum"
            )
        return online

    def gather_statistics(self) -> None:
        """Asks every site for the statistics of the task, once, where the plan says so.

        What it took (bytes, refusals, time) counts with the first round.

        Raises:
            RunFailed: plan and task do not agree, or fewer sites than the quorum released statistics that can be used.
        """
        started = time.perf_counter()
        wanted = wanted_statistics(self._setup.task, self._plan)
        if not wanted:
            return
        asked = list(self._exchange.nodes(self._plan.cohort.quorum))
        pool = self._pooled(self._admission(0, asked), "statistics", self._next)
        self._statistics = summed_statistics(pool, wanted, self._plan.cohort.quorum, self._next.refused)
        self._next.seconds["statistics"] = time.perf_counter() - started
        for observer in self._setup.observers:
            observer.statistics_gathered(self._statistics)

    def round(self, number: int) -> tuple[RoundRecord, str]:
        """Runs one round; the second value says why the run ends with it, empty while it goes on."""
        started = time.perf_counter()
        able = [
            node for node in self._exchange.nodes(self._plan.cohort.quorum) if node not in self._roster.out_of_budget
        ]
        asked = cohort(self._plan, number, able)
        tally, self._next = self._next, self._fresh_tally()
        self._train(number, asked, tally)
        if len(tally.answered) >= self._plan.cohort.quorum:
            self._state = advance(self._state, tally.total.result(), self._plan.aggregation)
            for observer in self._setup.observers:
                observer.model_advanced(number, self._layout, self._state)
        trained = time.perf_counter()
        figures, source = self._figures(number, asked, tally)
        record = RoundRecord(
            round=number,
            cohort=len(asked),
            answered=tuple(sorted(tally.answered)),
            refused=tuple(tally.refused),
            figures=figures,
            figures_source=source,
            epsilon=self._roster.spending.by_site(),
            seconds={**tally.seconds, "train": trained - started, "evaluate": time.perf_counter() - trained},
            bytes_down=tally.bytes_down,
            bytes_up=tally.bytes_up,
            seeded=tally.seeded,
        )
        return record, self._why_stop(number, able, len(tally.answered))

    def result(self, records: tuple[RoundRecord, ...], ended: str) -> RunResult:
        return RunResult(
            run=self.id,
            plan=self._plan,
            ended=ended,
            rounds=records,
            sites=self._roster.site_records(),
            vector=self._state.average,
            layout=self._layout,
        )

    def _train(self, number: int, asked: list[int], tally: _Tally) -> None:
        admission = self._admission(number, asked)
        replies = self._replies(admission, self._state.vector, MessageType.TRAIN, tally)
        for node, admitted in self._admitted(self._watched(number, len(asked), replies), admission.admit, tally):
            name, weight = self._roster.took_part(node, admitted)
            tally.total.add(admitted.report.update, weight)
            tally.answered.append(name)
            tally.seeded |= admitted.report.seeded
        self._setup.witness.save()

    def _watched(
        self, number: int, cohort: int, replies: Iterator[tuple[int, Message]]
    ) -> Iterator[tuple[int, Message]]:
        for arrived, reply in enumerate(replies, start=1):
            for observer in self._setup.observers:
                observer.reply_arrived(number, arrived, cohort)
            yield reply

    def _admitted(
        self,
        replies: Iterator[tuple[int, Message]],
        admit: Callable[[int, Message], _Answer | Refusal],
        tally: _Tally,
    ) -> Iterator[tuple[int, _Answer]]:
        """Yields the reports that the door lets in; notes the others, and the sites' refusals."""
        for node, reply in replies:
            try:
                answer = admit(node, reply)
            except ReportRefused as error:
                tally.refused.append(self._roster.failed(node, type(error).__name__, str(error)))
                continue
            if isinstance(answer, Refusal):
                tally.refused.append(self._roster.refused(node, answer))
            else:
                yield node, answer

    def _replies(
        self, admission: Admission, vector: NDArray[np.float32], kind: str, tally: _Tally
    ) -> Iterator[tuple[int, Message]]:
        """Sends every node asked its order; yields the replies, and notes the silent."""
        address, asked = admission.expected.address, admission.asked
        plain = write_order(Order(address=address, cohort=len(asked), vector=vector, statistics=self._statistics))
        tally.bytes_down += payload_bytes(plain) * len(asked)
        orders = {node: shown_with(plain, shown) for node, shown in asked.items()}
        for node, reply in self._exchange.ask(orders, kind, address.round):
            tally.bytes_up += payload_bytes(reply.content) if reply.has_content() else 0
            yield node, reply
        for node in sorted(self._exchange.silent):
            reason = f"no reply within {self._plan.cohort.deadline_seconds:g} s"
            tally.refused.append(self._roster.failed(node, "DeadlinePassed", reason))

    def _figures(self, number: int, asked: list[int], tally: _Tally) -> tuple[Mapping[str, float], str]:
        if self._plan.metrics != "none":
            source = "plain sums from sites" if self._plan.metrics == "plain" else "noisy sums from sites"
            pool = self._pooled(self._admission(number, asked), "metrics", tally)
            task = informed(self._setup.task, self._statistics)
            return figures_of(pool, task, self._plan, self._prices["metrics"]), source
        if self._setup.judge is not None:
            return self._setup.judge(self._state.average, self._statistics), "simulation only"
        return {}, "none"

    def _pooled(self, admission: Admission, purpose: Purpose, tally: _Tally) -> MetricPool:
        """The sums that sites report for this purpose, added up."""
        pool = MetricPool()
        kind = MessageType.QUERY if purpose == "statistics" else MessageType.EVALUATE
        replies = self._replies(admission, self._state.average, kind, tally)
        admit = partial(admission.admit_sums, purpose=purpose)
        for node, admitted in self._admitted(replies, admit, tally):
            self._roster.spent(node, admitted)
            tally.seeded |= admitted.report.seeded
            pool.add(node, admitted.report.sums)
        self._setup.witness.save()
        for node, outvoted in pool.outvoted():
            tally.refused.append(self._roster.failed(node, type(outvoted).__name__, str(outvoted)))
        return pool

    def _fresh_tally(self) -> _Tally:
        return _Tally(total=aggregate(self._plan.aggregation, self._layout.length))

    def _address(self, number: int) -> Address:
        return Address(run=self.id, round=number, plan=self._plan.digest, layout=self._layout.digest)

    def _admission(self, number: int, asked: list[int]) -> Admission:
        expected = Expectation(address=self._address(number), layout=self._layout, prices=self._prices)
        witness = self._setup.witness
        return Admission(expected=expected, witness=witness, asked=witness.shown_to(asked))

    def _why_stop(self, number: int, able: list[int], good: int) -> str:
        if able and all(node in self._roster.out_of_budget for node in able):
            return "no site has privacy budget left for another round"
        if good < self._plan.cohort.quorum:
            return f"quorum not reached: {good} good reports, the plan asks for {self._plan.cohort.quorum}"
        return "all planned rounds are done" if number == self._plan.rounds else ""
