"""The round loop: ask, add, advance, record; until the plan's rounds are done or nobody may go on.

Our own loop over Flower's Grid, because Flower's `Strategy.start` has no quorum, no early stop and no validation that
lets a round survive one broken site. It holds one sum in memory, however many sites report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from federation.credentials import Credentials
from federation.plan import Plan
from federation.seeding import initial_vector
from federation.task import Task
from privacy.errors import RunFailed
from server.cohort import cohort
from server.conduct import Conduct, Seen
from server.desk import Desk, Tally
from server.encrypted_run import EncryptedRun
from server.plain_run import PlainRun
from server.records import Observer, RoundRecord, RunResult
from server.witness import Witness

Judge = Callable[[NDArray[np.float32], tuple[float, ...]], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a run needs besides sites.

    judge:       figures of a model vector, under what the statistics say, that only a simulator can compute; None in
                 deployments
    insight:     the sites' own model in an encrypted run, which only a simulator can see; None in deployments
    witness:     what the server has seen of the sites' ledgers
    credentials: who the server is, as the authority certified it; needed for encrypted runs only
    """

    task: Task
    plan: Plan
    observers: Sequence[Observer] = ()
    judge: Judge | None = None
    insight: Callable[[], Seen] | None = None
    witness: Witness = field(default_factory=Witness)
    credentials: Credentials | None = None


def run_rounds(grid: Grid, setup: Setup) -> RunResult:
    """Runs the plan over the grid's nodes and returns what came of it.

    Raises:
        RunFailed: fewer sites than the quorum came online before the deadline, or a round could not go on; what was
            finished is handed to the observers first, as it is when a person interrupts.
    """
    run = _Run(grid, setup)
    nodes = run.wait_for_quorum()
    for observer in setup.observers:
        observer.run_started(run.desk.run, setup.plan, nodes)
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


class _Run:
    """The steps of one run, whoever conducts it."""

    def __init__(self, grid: Grid, setup: Setup) -> None:
        self._setup = setup
        self._plan = setup.plan
        layout, vector = initial_vector(setup.task, setup.plan.seed)
        self.desk = Desk(grid, setup, layout)
        self._conduct: Conduct = (
            EncryptedRun(self.desk, vector, setup.credentials, setup.insight)
            if setup.plan.is_encrypted
            else PlainRun(self.desk, vector)
        )
        self._next = Tally()

    def wait_for_quorum(self) -> int:
        quorum = self._plan.cohort.quorum
        online = len(self.desk.exchange.nodes(quorum))
        if online < quorum:
            raise RunFailed(
                f"{online} sites came online within {self._plan.cohort.deadline_seconds:g} s, but the plan's quorum is "
                f"{quorum}: start more sites, or lower cohort.quorum"
            )
        return online

    def gather_statistics(self) -> None:
        """Has the sites release the task's statistics, once, where the plan says so.

        What it took (bytes, refusals, time) counts with the first round.

        Raises:
            RunFailed: plan and task do not agree, or fewer sites than the quorum released statistics that can be used.
        """
        started = time.perf_counter()
        if self._plan.statistics == "none" and not self._setup.task.statistics:
            return
        nodes = self._conduct.assemble(self._able(), 1, self._next)
        self._conduct.gather_statistics(nodes, self._next)
        self._next.seconds["statistics"] = time.perf_counter() - started
        seen = self._conduct.seen()
        if seen is not None:
            for observer in self._setup.observers:
                observer.statistics_gathered(seen.statistics)

    def round(self, number: int) -> tuple[RoundRecord, str]:
        """Runs one round; the second value says why the run ends with it, empty while it goes on."""
        started = time.perf_counter()
        tally, self._next = self._next, Tally()
        able = self._conduct.assemble(self._able(), number, tally)
        asked = cohort(self._plan, number, able)
        self._conduct.train(number, asked, tally)
        if len(tally.answered) >= self._plan.cohort.quorum:
            self._conduct.advance(number, tally)
            self._show(number)
        trained = time.perf_counter()
        figures, source = self._figures(number, asked, tally)
        evaluated = time.perf_counter()
        ended = self._why_stop(number, able, len(tally.answered))
        if ended:
            trouble = self._conduct.finish(self.desk.exchange.nodes(0), tally)
            ended = f"{ended}; {trouble}" if trouble else ended
            if self._plan.is_encrypted and self._plan.release == "server":
                self._show(number)
        record = RoundRecord(
            round=number,
            cohort=len(asked),
            answered=tuple(sorted(tally.answered)),
            refused=tuple(tally.refused),
            figures=figures,
            figures_source=source,
            epsilon=self.desk.roster.spending.by_site(),
            seconds={
                **tally.seconds,
                "train": trained - started,
                "evaluate": evaluated - trained,
                **({"hand out": time.perf_counter() - evaluated} if ended and self._plan.is_encrypted else {}),
            },
            bytes_down=tally.bytes_down,
            bytes_up=tally.bytes_up,
            seeded=tally.seeded,
            encryption=tally.encryption,
        )
        return record, ended

    def result(self, records: tuple[RoundRecord, ...], ended: str) -> RunResult:
        seen = self._conduct.seen()
        return RunResult(
            run=self.desk.run,
            plan=self._plan,
            ended=ended,
            rounds=records,
            sites=self.desk.roster.site_records(),
            vector=None if seen is None else seen.state.average,
            layout=self.desk.layout,
        )

    def _able(self) -> list[int]:
        online = self.desk.exchange.nodes(self._plan.cohort.quorum)
        return [node for node in online if node not in self.desk.roster.out_of_budget]

    def _show(self, number: int) -> None:
        seen = self._conduct.seen()
        if seen is not None:
            for observer in self._setup.observers:
                observer.model_advanced(number, self.desk.layout, seen.state)

    def _figures(self, number: int, asked: list[int], tally: Tally) -> tuple[Mapping[str, float], str]:
        if self._plan.metrics != "none":
            return self._conduct.figures(number, asked, tally)
        seen = self._conduct.seen()
        if self._setup.judge is not None and seen is not None:
            return self._setup.judge(seen.state.average, seen.statistics), "simulation only"
        return {}, "none"

    def _why_stop(self, number: int, able: list[int], good: int) -> str:
        if able and all(node in self.desk.roster.out_of_budget for node in able):
            return "no site has privacy budget left for another round"
        if good < self._plan.cohort.quorum:
            return f"quorum not reached: {good} good reports, the plan asks for {self._plan.cohort.quorum}"
        return "all planned rounds are done" if number == self._plan.rounds else ""
