"""`simulate(task, plan, sites)`: a private federated run in this process, through the same apps as a deployment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from flwr.app import Context, RecordDict
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.app import client_app
from clients.data import DataSet
from clients.model_check import refuse_model
from clients.site import Site
from federation.contradictions import refuse_contradictions
from federation.evaluation import metric_sums
from federation.groups import divided
from federation.layout import Layout
from federation.plan import Plan, Scalar
from federation.rows import Rows, concatenate
from federation.seeding import first_model
from federation.site_info import SiteInfo
from federation.task import Task, informed
from privacy.errors import DataInvalid, PlanInvalid
from privacy.ledger import Ledger
from server.app import server_app
from server.records import Observer, RoundRecord, RunResult, SiteRecord
from server.rounds import Setup
from server.run_folder import RunFolder
from simulations.engine import InProcessGrid
from simulations.sealed_sites import MakeSafe, kept_safes, sealed_site, throw_away_safes

_SITES_KEPT = 256
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
    if plan.is_private:
        refuse_model(task.model(), plan.privacy.unit)
    folder = None
    if options.out:
        folder = RunFolder(options.out, simulation_seed=plan.seed, key_file=options.key_file, export=options.export)
    with _safes(folder, plan, options) as safe_of:
        federation = _Federation(task, plan, sites, options.data_folder, safe_of)
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


def _run(federation: _Federation, task: Task, plan: Plan, options: Options, folder: RunFolder | None) -> Result:
    keeper = _Keeper()
    setup = Setup(
        task=task,
        plan=plan,
        observers=(*([folder] if folder else []), *options.observers, keeper),
        judge=federation.judge,
    )
    app = client_app(federation.site)
    grid = InProcessGrid(app, federation.count, federation.node_config, plan.flat(), options.workers)
    context = Context(run_id=grid.run.run_id, node_id=0, node_config={}, state=RecordDict(), run_config=plan.flat())
    with _torch_threads(federation.parameters):
        server_app(lambda _: setup)(grid, context)
    model = first_model(task, plan.seed)
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


class _Federation:
    """All sites of a simulation: who they are, what they declare, their sealed records, and pooled held-out ones."""

    def __init__(self, task: Task, plan: Plan, sites: int, data_folder: Path | None, safe_of: MakeSafe) -> None:
        self._task = task
        self._plan = plan
        self.count = sites
        self._data_folder = data_folder
        self._declared: list[Mapping[str, Scalar]] = [{}] * sites
        self._sealed: list[tuple[DataSet, Ledger]] = []
        held_out: list[Rows] = []
        for index in range(sites):
            info = self._info(index)
            rows = task.rows(info)
            sides = divided(rows, plan)
            if plan.privacy.unit == "group":
                # What a site's vault would divide by is the group's keyed hash, whose key is drawn anew for each run.
                rows = Rows(fields=rows.fields, held_out=sides, units=rows.units)
            self._sealed.append(sealed_site(safe_of(info.name), rows, plan))
            self._declared[index] = _declared(rows, sides)
            if sides.any():
                held_out.append(rows.take(sides))
        if not held_out:
            raise DataInvalid("no site holds out a record to test on: raise data.test_share")
        self._pooled = concatenate(held_out)
        self._prepared_by: Task | None = None
        self._held_out = self._pooled
        self._model = first_model(task, plan.seed)
        self._layout = Layout.of(self._model)
        self.parameters = self._layout.length
        self._site = lru_cache(maxsize=_SITES_KEPT)(self._made)

    def node_config(self, index: int) -> Mapping[str, Scalar]:
        """What the engineer of this site would have written."""
        folder = {"data-folder": str(self._data_folder)} if self._data_folder else {}
        return {
            "site-name": f"site-{index:0{len(str(self.count - 1))}d}",
            "partition-id": index,
            "num-partitions": self.count,
            "simulation-seed": self._plan.seed,
            **self._declared[index],
            **folder,
        }

    def site(self, context: Context) -> Site:
        """The site that answers for a node; its sealed records are opened for each round and dropped after it."""
        return self._site(int(context.node_config["partition-id"]))

    def judge(self, vector: NDArray[np.float32], statistics: tuple[float, ...]) -> Mapping[str, float]:
        """Figures of a model vector on the pooled held-out records: simulation only."""
        task = informed(self._task, statistics)
        if self._prepared_by is not task:
            self._prepared_by, self._held_out = task, task.prepare(self._pooled)
        self._layout.load(self._model, vector)
        return task.figures(metric_sums(task, self._model.eval(), self._held_out))

    def _info(self, index: int) -> SiteInfo:
        return SiteInfo.from_node_config(self.node_config(index), self._plan)

    def _made(self, index: int) -> Site:
        data, ledger = self._sealed[index]
        return Site(task=self._task, info=self._info(index), plan=self._plan, ledger=ledger, data=data)


def _declared(rows: Rows, held_out: Tensor) -> Mapping[str, Scalar]:
    """What a site declares of its training records, and of their groups where it knows them."""
    train = rows.take(~held_out)
    groups = {} if train.units is None else {"declared-units": public_size(len(train.units.unique()))}
    return {"declared-rows": public_size(len(train)), **groups}


def public_size(records: int) -> int:
    """A site's declaration in a simulation: its number of training records to two significant digits, at least 1.

    Stands for what an engineer would declare once and publicly; epsilon does not cover it.
    """
    digits = len(str(records))
    return max(1, round(records, min(0, 2 - digits)))


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
