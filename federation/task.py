"""What is trained: a model, its loss, its metrics, and how a site's rows become tensors.

A user writes one class in `task.py`:

    class Heart(Task):
        def rows(self, site):    return read_table(site.data_folder / "heart.csv", label="outcome")
        def prepare(self, rows): return rows.replace(x=scale(rows["x"], LOWER, UPPER))
        def model(self):         return nn.Linear(30, 2)

    task = Heart()

and names it in the plan as `task = "task:task"`. The defaults below serve classification on fields `x` and `y`.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from federation.metrics import classification_figures, classification_sums
from federation.rows import Rows
from federation.schema import Schema
from federation.site_info import SiteInfo
from federation.statistics import Learned, Statistic
from privacy.errors import TaskInvalid


class Task(ABC):
    """One thing to train, the same object at every site and at the server.

    schema:     what a table must hold to be imported for this task; None: all columns are numbers, which may be missing
    statistics: what the sites release of their raw training records before the first round, with noise, for `prepare`;
                needs a plan with statistics = "private"
    learned:    what came of it; None before it is known, or where the task asks for none
    """

    schema: Schema | None = None
    statistics: tuple[Statistic, ...] = ()
    learned: Learned | None = None

    @abstractmethod
    def model(self) -> nn.Module:
        """A fresh model. Its weights are drawn from torch's global generator, which both sides seed from the plan."""

    @abstractmethod
    def rows(self, site: SiteInfo) -> Rows:
        """The site's records as they are, training and test together. Called at the site only."""

    def prepare(self, rows: Rows) -> Rows:
        """Cleans and encodes: a function of each record alone, of public constants, or of `self.learned`.

        `federation.preparation` has the pieces. Any other statistic of the records (a mean, a minimum) would be a
        release that nobody counts: use public bounds, or ask for it in `statistics`.
        """
        return rows

    def informed(self, values: tuple[float, ...]) -> Task:
        """The same task with what was learned of its statistics; itself where there is nothing to learn.

        Raises:
            TaskInvalid: these are not its statistics' values.
        """
        if not values and not self.statistics:
            return self
        known = copy(self)
        known.learned = Learned(self.statistics, values)
        return known

    def augment(self, batch: Rows, generator: torch.Generator) -> Rows:
        """Random changes to a batch's records, each on its own; called for each physical batch."""
        return batch

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        """Losses of a batch of B records, one each: shape (B,). A record's loss must not depend on the others."""
        return functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")  # (B, C) -> (B,)

    def metrics(self, model: nn.Module, rows: Rows) -> dict[str, Tensor]:
        """Sums over records that can be added over sites, float64 tensors of a fixed shape."""
        return classification_sums(model(rows["x"]), rows["y"])

    def correct(self, model: nn.Module, rows: Rows) -> Tensor:
        """How right the model is about each of B records, in [0, 1], for private metrics: shape (B,).

        Like the loss, it must not depend on the other records.
        """
        answers: Tensor = model(rows["x"])  # (B, C)
        return (answers.argmax(dim=1) == rows["y"]).double()

    def figures(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """What people read, computed from summed metrics: the first is the headline, e.g. accuracy in [0, 1]."""
        return classification_figures(sums)


def informed(task: Task, values: tuple[float, ...]) -> Task:
    """`task.informed`, the same object each time: thousands of simulated sites share one. Raises as it."""
    return _informed(_Itself(task), values) if values or task.statistics else task


def load_task(reference: str, folder: Path | None = None) -> Task:
    """The task that `reference` ("module:attribute") names, looked for in `folder` first.

    Raises:
        TaskInvalid: the module can't be imported, has no such attribute, or the attribute is no Task.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or module_name.startswith("."):
        raise TaskInvalid(f"task {reference!r}: it names no module; the plan's `task` is written module:attribute")
    if folder is not None:
        sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != str(folder))]
    if folder is not None and _foreign(module_name, folder):
        del sys.modules[module_name]
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise TaskInvalid(f"task {reference!r}: {error}; the plan's `task` is written module:attribute") from error
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise TaskInvalid(
            f"task {reference!r}: {type(error).__name__} while importing it, at {where.filename}:{where.lineno}"
        ) from error
    found = getattr(module, attribute or "task", None)
    if not isinstance(found, Task):
        raise TaskInvalid(
            f"task {reference!r}: {module_name} has no Task called {attribute or 'task'!r}; "
            "write `task = YourTask()` there, where YourTask is a subclass of federation.Task"
        )
    return found


def _foreign(module_name: str, folder: Path) -> bool:
    """Whether a module of that name was loaded from another folder that held one too."""
    loaded = sys.modules.get(module_name)
    source = getattr(loaded, "__file__", None)
    here = folder / f"{module_name}.py"
    return source is not None and here.exists() and Path(source).resolve() != here.resolve()


class _Itself:
    """A task as a key of a cache: equal to itself alone, whatever its author says of equality and hashes."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.task is self.task

    def __hash__(self) -> int:
        return id(self.task)


@lru_cache(maxsize=8)
def _informed(key: _Itself, values: tuple[float, ...]) -> Task:
    return key.task.informed(values)
