"""A run in the clear: the server reads each update as it arrives, adds it, and holds the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from flwr.app import Message, MessageType
from numpy.typing import NDArray

from federation import statistics
from federation.messages import write_order
from federation.optimizers import ModelState, advance
from federation.orders import Order
from federation.task import informed
from federation.wire import shown_with
from privacy.entries import Purpose
from server.admission import Admission
from server.aggregation import Aggregate, aggregate
from server.conduct import Seen
from server.desk import Desk, Tally
from server.figures import figures_of
from server.metric_pool import MetricPool
from server.survey import summed_statistics, wanted_statistics


class PlainRun:
    """The state that rounds hand on: the model and its moments, and the sites' statistics."""

    def __init__(self, desk: Desk, vector: NDArray[np.float32]) -> None:
        self._desk = desk
        self._state = ModelState.start(vector, desk.plan.aggregation)
        self._total = self._fresh_total()
        self._statistics: tuple[float, ...] = ()
        statistics.width(desk.task.statistics)  # refuses what no message holds

    def assemble(self, nodes: Sequence[int], number: int, tally: Tally) -> list[int]:
        """Whoever is online can take part."""
        return list(nodes)

    def gather_statistics(self, nodes: Sequence[int], tally: Tally) -> None:
        """Adds up the noisy sums that every site releases."""
        wanted = wanted_statistics(self._desk.task, self._desk.plan)
        if wanted:
            pool = self._pooled(0, nodes, "statistics", tally)
            self._statistics = summed_statistics(pool, wanted, self._desk.plan.cohort.quorum, tally.refused)

    def train(self, number: int, asked: Sequence[int], tally: Tally) -> None:
        """Adds each admitted update with its site's weight."""
        admission = self._admission(number, asked)
        self._total = self._fresh_total()
        replies = self._desk.watched(
            number, len(asked), self._replies(admission, self._state.vector, MessageType.TRAIN, tally)
        )
        for node, admitted in self._desk.admitted(replies, admission.admit, tally):
            name, weight = self._desk.roster.took_part(node, admitted, admitted.report.declared_rows)
            self._total.add(admitted.report.update, weight)
            tally.answered.append(name)
            tally.seeded |= admitted.report.seeded
        self._desk.witness.save()

    def advance(self, number: int, tally: Tally) -> None:
        """Moves the model by the mean of the updates."""
        self._state = advance(self._state, self._total.result(), self._desk.plan.aggregation)

    def figures(self, number: int, asked: Sequence[int], tally: Tally) -> tuple[Mapping[str, float], str]:
        """What the plan has sites report of their held-out records."""
        plan = self._desk.plan
        if plan.metrics == "none":
            return {}, "none"
        source = "plain sums from sites" if plan.metrics == "plain" else "noisy sums from sites"
        pool = self._pooled(number, asked, "metrics", tally)
        task = informed(self._desk.task, self._statistics)
        return figures_of(pool, task, plan, self._desk.expectation(number).prices["metrics"]), source

    def seen(self) -> Seen:
        """The server's own model."""
        return Seen(state=self._state, statistics=self._statistics)

    def finish(self, nodes: Sequence[int], tally: Tally) -> str:
        """The server has the model already."""
        return ""

    def _pooled(self, number: int, asked: Sequence[int], purpose: Purpose, tally: Tally) -> MetricPool:
        """The sums that sites report for this purpose, added up."""
        pool, desk = MetricPool(), self._desk
        kind = MessageType.QUERY if purpose == "statistics" else MessageType.EVALUATE
        admission = self._admission(number, asked)
        replies = self._replies(admission, self._state.average, kind, tally)
        admit = partial(admission.admit_sums, purpose=purpose)
        for node, admitted in desk.admitted(replies, admit, tally):
            desk.roster.spent(node, admitted)
            tally.seeded |= admitted.report.seeded
            pool.add(node, admitted.report.sums)
        desk.witness.save()
        for node, outvoted in pool.outvoted():
            tally.refused.append(desk.roster.failed(node, type(outvoted).__name__, str(outvoted)))
        return pool

    def _replies(
        self, admission: Admission, vector: NDArray[np.float32], kind: str, tally: Tally
    ) -> Iterator[tuple[int, Message]]:
        address, asked = admission.expected.address, admission.asked
        plain = write_order(Order(address=address, cohort=len(asked), vector=vector, statistics=self._statistics))
        orders = {node: shown_with(plain, shown) for node, shown in asked.items()}
        return self._desk.replies(orders, kind, address.round, tally)

    def _admission(self, number: int, asked: Sequence[int]) -> Admission:
        witness = self._desk.witness
        return Admission(expected=self._desk.expectation(number), witness=witness, asked=witness.shown_to(asked))

    def _fresh_total(self) -> Aggregate:
        return aggregate(self._desk.plan.aggregation, self._desk.layout.length)
