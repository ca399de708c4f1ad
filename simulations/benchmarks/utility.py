"""`fedseal bench utility`: test accuracy at epsilon 1, 3, 8 and without privacy, federated against centralised.

Federated: ten alike sites, each of which adds its own noise, so that epsilon is each site's alone. Centralised: the
same training under the same epsilon and delta where one site holds all records. Seeds are folds: each record is tested
on once, a fifth of all validates, three fifths train. Of a few recipes the one that is best on validation records is
tested; test records are taken away before. The search itself is not charged to epsilon, as is usual in the field.

What the numbers are not: free of hindsight. The features of the tasks, and which few recipes are tried, were chosen by
looking at other divisions of the same records. Goals are accuracies measured before with a hand-written Opacus loop on
plainer features and random divisions, so that reaching them says "as good as", not "better than".
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from federation.plan import Plan, Scalar
from federation.reading import read_plan
from federation.rows import Rows
from federation.task import Task, load_task
from simulations.benchmarks.harness import Figure, Findings, Goal
from simulations.pooled_task import PooledTask
from simulations.simulate import simulate

EPSILONS: tuple[float | None, ...] = (1.0, 3.0, 8.0, None)  # None: without privacy
_FOLDS = 5
_FEDERATED, _CENTRALISED = 10, 1
_FOLDING_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Records with a task.

    reach:       accuracies that federated training should reach, in %, in the order of `EPSILONS`
    quick_folds: how many folds of five `--quick` trains: all where a fold is too small to say much
    """

    name: str
    task: str
    delta: float
    reach: tuple[float, ...]
    quick_folds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Full-batch federated SGD with momentum 0.9 and averaged iterates: what is left to choose.

    max_grad_norm: L2 bound on a record's gradient, far below the usual norms; without privacy it plays no part
    learning_rate: of the sites; times max_grad_norm it is how far one record can pull
    """

    rounds: int
    max_grad_norm: float
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table: epsilon is None without privacy; one site is centralised training."""

    data: DataSet
    epsilon: float | None
    sites: int

    @property
    def name(self) -> str:
        """What the row is called."""
        training = "centralised" if self.sites == _CENTRALISED else f"{self.sites} sites"
        return f"{self.data.name} epsilon {_spoken(self.epsilon)}, {training}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Positions of the records that train, choose the recipe, and test; disjoint, together all."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model trained by one recipe on one fold, and its accuracy on validation records, in %."""

    recipe: Recipe
    model: nn.Module
    validation: float


BREAST_CANCER = DataSet(
    name="breast-cancer",
    task="simulations.scenarios.breast_cancer:task",
    delta=1e-3,
    reach=(93.5, 96.5, 97.2, 97.2),
    quick_folds=5,
)
DIGITS = DataSet(
    name="digits",
    task="simulations.scenarios.digits:linear",
    delta=1e-4,
    reach=(75.4, 89.6, 92.1, 96.8),
    quick_folds=2,
)


def _recipes(*rows: tuple[int, float, float]) -> tuple[Recipe, ...]:
    return tuple(Recipe(rounds=rounds, max_grad_norm=bound, learning_rate=rate) for rounds, bound, rate in rows)


# The first of each did well over other divisions of the records; `--quick` trains by it alone.
_RECIPES: Mapping[tuple[str, int, float | None], tuple[Recipe, ...]] = {
    ("breast-cancer", _FEDERATED, 1.0): _recipes((15, 0.1, 20), (15, 0.3, 7), (25, 0.1, 10)),
    ("breast-cancer", _FEDERATED, 3.0): _recipes((20, 0.1, 40), (20, 0.3, 7), (25, 0.3, 13)),
    ("breast-cancer", _FEDERATED, 8.0): _recipes((30, 0.1, 40), (30, 0.3, 7), (40, 0.3, 13)),
    ("breast-cancer", _FEDERATED, None): _recipes((30, 1, 2), (50, 1, 1), (50, 1, 3)),
    ("breast-cancer", _CENTRALISED, 1.0): _recipes((25, 0.1, 40), (25, 0.3, 13), (50, 0.1, 10)),
    ("breast-cancer", _CENTRALISED, 3.0): _recipes((25, 0.3, 13), (50, 0.1, 10), (50, 0.3, 13)),
    ("breast-cancer", _CENTRALISED, 8.0): _recipes((25, 0.3, 13), (50, 0.1, 10), (50, 0.3, 13)),
    ("breast-cancer", _CENTRALISED, None): _recipes((30, 1, 2), (50, 1, 1), (50, 1, 3)),
    ("digits", _FEDERATED, 1.0): _recipes((25, 0.1, 20), (15, 0.1, 20), (40, 0.1, 10)),
    ("digits", _FEDERATED, 3.0): _recipes((40, 0.1, 20), (25, 0.1, 20), (25, 0.3, 13)),
    ("digits", _FEDERATED, 8.0): _recipes((25, 0.1, 80), (40, 0.1, 40), (40, 0.3, 27)),
    ("digits", _FEDERATED, None): _recipes((40, 1, 30), (50, 1, 10), (50, 1, 30)),
    ("digits", _CENTRALISED, 1.0): _recipes((50, 0.1, 20), (50, 0.1, 10), (50, 0.3, 3)),
    ("digits", _CENTRALISED, 3.0): _recipes((50, 0.1, 40), (50, 0.3, 13), (50, 0.1, 20)),
    ("digits", _CENTRALISED, 8.0): _recipes((50, 0.3, 27), (50, 0.1, 80), (50, 0.1, 40)),
    ("digits", _CENTRALISED, None): _recipes((40, 1, 30), (50, 1, 10), (50, 1, 30)),
}


def utility(quick: bool) -> Findings:
    """Measures every setting; quick takes one recipe instead of a search, and fewer folds."""
    settings = [
        Setting(data=data, epsilon=epsilon, sites=sites)
        for data in (DIGITS, BREAST_CANCER)
        for epsilon in EPSILONS
        for sites in (_FEDERATED, _CENTRALISED)
    ]
    works = [
        (setting, recipe, range(setting.data.quick_folds if quick else _FOLDS))
        for setting in settings
        for recipe in _tried(setting, quick)
    ]
    found: dict[Setting, list[Sequence[Candidate]]] = {setting: [] for setting in settings}
    for setting, candidates in _all_trained(works):
        found[setting].append(candidates)
    accuracies = {
        setting: tested(setting.data, [best(of_fold) for of_fold in zip(*of_recipes, strict=True)])
        for setting, of_recipes in found.items()
    }
    return Findings(
        benchmark="utility",
        rows=[{"name": setting.name, **_figures(of_folds)} for setting, of_folds in accuracies.items()],
        goals={
            f"{setting.data.name} epsilon {_spoken(setting.epsilon)} accuracy": _goal(setting, of_folds)
            for setting, of_folds in accuracies.items()
            if setting.sites == _FEDERATED
        },
    )


def divide(records: int, fold: int) -> Division:
    """Fold `fold` of five tests, the next one validates, the other three train."""
    folds = np.array_split(np.random.default_rng([_FOLDING_SEED, records]).permutation(records), _FOLDS)
    turned = [folds[(fold + step) % _FOLDS] for step in range(_FOLDS)]
    return Division(test=turned[0], validation=turned[1], train=np.concatenate(turned[2:]))


def site_rows(pool: Rows, division: Division, sites: int) -> list[Rows]:
    """Training records in equal parts, validation records held out at the first site, test records nowhere."""
    parts = [pool.take(torch.from_numpy(positions)) for positions in np.array_split(division.train, sites)]
    validation = pool.take(torch.from_numpy(division.validation))
    return [_joined(parts[0], validation), *(_joined(part, validation.take(torch.arange(0))) for part in parts[1:])]


def trained(setting: Setting, recipe: Recipe, folds: Iterable[int]) -> list[Candidate]:
    """One candidate a fold, each by a simulated run of the real apps."""
    torch.set_num_threads(1)
    pool = _pool(setting.data)
    task = load_task(setting.data.task)
    candidates = []
    for fold in folds:
        sites = site_rows(pool, divide(len(pool), fold), setting.sites)
        result = simulate(task, _plan(setting, recipe, fold), sites)
        validation = result.rounds[-1].figures["accuracy"] * 100
        candidates.append(Candidate(recipe=recipe, model=result.model, validation=validation))
    return candidates


def best(candidates: Iterable[Candidate]) -> Candidate:
    """The candidate of highest validation accuracy; of equal ones the first."""
    return max(candidates, key=lambda candidate: candidate.validation)


def tested(data: DataSet, chosen: Sequence[Candidate]) -> list[float]:
    """Accuracies in % of the chosen candidates, one a fold from fold 0, on test records."""
    task, pool = load_task(data.task), _pool(data)
    return [
        _accuracy(task, candidate.model, pool.take(torch.from_numpy(divide(len(pool), fold).test)))
        for fold, candidate in enumerate(chosen)
    ]


def _tried(setting: Setting, quick: bool) -> Sequence[Recipe]:
    recipes = _RECIPES[setting.data.name, setting.sites, setting.epsilon]
    return recipes[:1] if quick else recipes


def _all_trained(
    works: Sequence[tuple[Setting, Recipe, Iterable[int]]],
) -> Iterable[tuple[Setting, list[Candidate]]]:
    """Every work's candidates in the order of the works, made by one process a core while a bar moves."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(trained, *work) for work in works]
        for _ in track(
            as_completed(futures), "training", total=len(futures), console=Console(stderr=True), transient=True
        ):
            pass
    return [(work[0], future.result()) for work, future in zip(works, futures, strict=True)]


def _plan(setting: Setting, recipe: Recipe, fold: int) -> Plan:
    flat: dict[str, Scalar] = {
        "name": "utility",
        "task": setting.data.task,
        "seed": fold,
        "rounds": recipe.rounds,
        "training.learning_rate": recipe.learning_rate,
        "aggregation.optimizer": "fedavgm",
        "aggregation.iterate_averaging": 0.9,
        "cohort.quorum": setting.sites,
        "encryption.scheme": "none",  # changes no figure: `fedseal bench encryption` trains the demo both ways
    }
    if setting.epsilon is None:
        return read_plan({**flat, "privacy.unit": "none"})
    privacy = {"epsilon": setting.epsilon, "delta": setting.data.delta, "max_grad_norm": recipe.max_grad_norm}
    return read_plan({**flat, **{f"privacy.{name}": value for name, value in privacy.items()}})


def _pool(data: DataSet) -> Rows:
    task = load_task(data.task)
    assert isinstance(task, PooledTask)
    return task.pool(None)


def _joined(train: Rows, held_out: Rows) -> Rows:
    return Rows(
        fields={name: torch.cat([train[name], held_out[name]]) for name in train.fields},
        held_out=torch.arange(len(train) + len(held_out)) >= len(train),
    )


def _accuracy(task: Task, model: nn.Module, rows: Rows) -> float:
    with torch.no_grad():
        return task.figures(task.metrics(model, task.prepare(rows)))["accuracy"] * 100


def _figures(accuracies: Sequence[float]) -> dict[str, Figure]:
    return {
        "accuracy_percent": round(mean(accuracies), 1),
        "sd_percent": round(stdev(accuracies), 1),
        "folds": len(accuracies),
    }


def _goal(setting: Setting, accuracies: Sequence[float]) -> Goal:
    return Goal(value=mean(accuracies), reach=f">= {setting.data.reach[EPSILONS.index(setting.epsilon)]}")


def _spoken(epsilon: float | None) -> str:
    return "none" if epsilon is None else f"{epsilon:g}"
