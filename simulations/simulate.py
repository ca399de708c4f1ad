"""`simulate(task, plan, sites)`: a private federated run in this process, through the same apps as a deployment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from flwr.app import Context, RecordDict
from torch import Tensor, nn

from clients.app import client_app
from clients.model_check import refuse_model
from federation.contradictions import refuse_contradictions, refuse_large_cohort
from federation.plan import Plan
from federation.rows import Rows
from federation.seeding import first_model
from federation.site_info import SiteInfo
from federation.task import Task
from privacy.errors import PlanInvalid
from server.app import server_app
from server.cohort import cohort_size
from server.records import Observer, RoundRecord, RunResult, SiteRecord
from server.rounds import Setup
from server.run_folder import RunFolder
from simulations.engine import InProcessGrid
from simulations.sealed_sites import (
    MakeSafe,
    kept_safes,
    throw_away_safes,
)
from simulations.simulated_federation import SimulatedFederation

_LARGE_MODEL = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished simulation.

    run:    rounds, sites and why it ended
    model:  the trained model
    folder: where the run was written; None where it was not
    """

    run: RunResult
    model: nn.Module
    folder: Path | None

    @property
    def rounds(self) -> tuple[RoundRecord, ...]:
        """One record a round."""
        return self.run.rounds

    @property
    def sites(self) -> tuple[SiteRecord, ...]:
        """One record a site: rounds joined, refusals, epsilon spent."""
        return self.run.sites

    def rows(self) -> list[dict[str, float | int | str | None]]:
        """The rounds as flat rows: `pandas.DataFrame(result.rows())`."""
        return self.run.rows()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What changes where a simulation runs and what it writes, never its result.

    data_folder: what the task's sites read
    workers:     sites that train at once, in threads
    out:         the folder that run folders are made in; None writes nothing
    key_file:    what locks the run's models; None throws the key away with the process
    keep_sites:  whether the sites' safes stay in the run's folder, locked by the key file as well
    export:      whether the last model is also written in the clear
    observers:   who watches the run
    """

    data_folder: Path | None = None
    workers: int = 1
    out: Path | None = None
    key_file: Path | None = None
    keep_sites: bool = False
    export: bool = False
    observers: Sequence[Observer] = ()


def simulate(task: Task, plan: Plan, sites: int | Sequence[Rows], options: Options | None = None) -> Result:
    """Trains `task` under `plan` over simulated sites and returns rounds, spending and model.

    sites: how many (the task's `rows` is asked for each), or the records of each

    All draws, noise included, come from the plan's seed, so that the run repeats bit for bit; its records say so. The
    figures of each round are exact, on the pooled held-out records of all sites, and are labelled "simulation only".

    Raises:
        FedSealError: the plan, the task or the data can't make a run; nothing was trained.
    """
    options = options or Options()
    if not isinstance(sites, int):
        task, sites = _GivenRows(task, sites), len(sites)
    refuse_contradictions(plan)
    if sites < plan.cohort.quorum:
        raise PlanInvalid(
            f"plan: cohort.quorum is {plan.cohort.quorum}, but only {sites} sites are simulated: lower the quorum, or "
            "simulate more sites"
        )
    refuse_large_cohort(plan, cohort_size(plan, sites))
    if plan.is_private:
        refuse_model(task.model(), plan.privacy.unit)
    folder = None
    if options.out:
        folder = RunFolder(options.out, simulation_seed=plan.seed, key_file=options.key_file, export=options.export)
    with _safes(folder, plan, options) as safe_of:
        federation = SimulatedFederation(task, plan, sites, options.data_folder, safe_of)
        return _run(federation, task, plan, options, folder)


@contextmanager
def _safes(folder: RunFolder | None, plan: Plan, options: Options) -> Iterator[MakeSafe]:
    """Where the sites' safes are made: in the run's folder if they are kept, else where they go with the process."""
    if not options.keep_sites:
        with TemporaryDirectory(prefix="fedseal-") as vaults:
            yield throw_away_safes(Path(vaults))
        return
    if folder is None or options.key_file is None:
        raise PlanInvalid("sites are kept in a run's folder and locked by a key file: name both, or don't keep them")
    with folder.claimed(plan) as path:
        yield kept_safes(path / "sites", options.key_file)


def _run(federation: SimulatedFederation, task: Task, plan: Plan, options: Options, folder: RunFolder | None) -> Result:
    keeper = _Keeper()
    setup = Setup(
        task=task,
        plan=plan,
        observers=(*([folder] if folder else []), *options.observers, keeper),
        judge=federation.judge,
        insight=federation.insight,
        credentials=federation.server(),
    )
    app = client_app(federation.site)
    grid = InProcessGrid(app, federation.count, federation.node_config, plan.flat(), options.workers)
    context = Context(run_id=grid.run.run_id, node_id=0, node_config={}, state=RecordDict(), run_config=plan.flat())
    with _torch_threads(federation.parameters):
        server_app(lambda _: setup)(grid, context)
    model = first_model(task, plan.seed)
    assert keeper.result.vector is not None, "a simulator sees the sites' model"
    keeper.result.layout.load(model, keeper.result.vector)
    return Result(run=keeper.result, model=model.eval(), folder=folder.path if folder else None)


@contextmanager
def _torch_threads(parameters: int) -> Iterator[None]:
    """One thread an operation for small models: threads that wait for each other cost more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if parameters < _LARGE_MODEL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Keeper(Observer):
    """Keeps the result that Flower's ServerApp does not return."""

    result: RunResult

    def run_finished(self, result: RunResult) -> None:
        self.result = result


class _GivenRows(Task):
    """A task whose sites hold the records that the caller gave; all else is the inner task's."""

    def __init__(self, inner: Task, sites: Sequence[Rows]) -> None:
        self._inner = inner
        self._sites = sites
        self.statistics = inner.statistics

    def model(self) -> nn.Module:
        return self._inner.model()

    def rows(self, site: SiteInfo) -> Rows:
        return self._sites[site.index]

    def informed(self, values: tuple[float, ...]) -> Task:
        return _GivenRows(self._inner.informed(values), self._sites)

    def prepare(self, rows: Rows) -> Rows:
        return self._inner.prepare(rows)

    def augment(self, batch: Rows, generator: torch.Generator) -> Rows:
        return self._inner.augment(batch, generator)

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        return self._inner.loss(model, batch)

    def metrics(self, model: nn.Module, rows: Rows) -> dict[str, Tensor]:
        return self._inner.metrics(model, rows)

    def correct(self, model: nn.Module, rows: Rows) -> Tensor:
        return self._inner.correct(model, rows)

    def figures(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return self._inner.figures(sums)
