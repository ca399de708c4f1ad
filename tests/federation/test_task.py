"""Finding the task that a plan names, and the defaults that serve classification."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from federation.rows import Rows
from federation.site_info import SiteInfo
from federation.statistics import Moments
from federation.task import Task, informed, load_task
from privacy.errors import TaskInvalid

SOURCE = """
from federation import Rows, Task
import torch

class Mine(Task):
    name = {name!r}
    def model(self): return torch.nn.Linear(2, 2)
    def rows(self, site): return Rows(fields={{"x": torch.zeros(1, 2)}})

task = Mine()
other = Mine()
not_a_task = Mine
"""


@pytest.fixture(autouse=True)
def _forget_modules() -> Iterator[None]:
    """Each test leaves Python's path and modules as it found them."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def app(folder: Path, name: str, module: str = "seal_task_of_a_test") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(SOURCE.format(name=name), encoding="utf-8")
    return folder


def name_of(task: Task) -> str:
    return str(task.name)  # type: ignore[attr-defined]


def test_a_task_is_found_in_the_apps_folder(tmp_path: Path) -> None:
    folder = app(tmp_path, "mine")
    task = load_task("seal_task_of_a_test:task", folder)
    assert isinstance(task, Task)
    assert name_of(task) == "mine"
    assert load_task("seal_task_of_a_test", folder) is task
    assert load_task("seal_task_of_a_test:other", folder) is not task


def test_a_task_of_a_package_needs_no_folder() -> None:
    assert isinstance(load_task("simulations.scenarios.breast_cancer:task"), Task)


def test_each_of_two_folders_gives_its_own_task_however_often_they_take_turns(tmp_path: Path) -> None:
    folders = {name: app(tmp_path / name, name) for name in ("first", "second")}
    for name in ("first", "second", "first", "first", "second"):
        assert name_of(load_task("seal_task_of_a_test:task", folders[name])) == name


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("seal_no_such_module:task", "No module named 'seal_no_such_module'"),
        ("simulations.scenarios.no_such:task", "No module named"),
        ("seal_task_of_a_test:missing", "has no Task called 'missing'"),
        ("seal_task_of_a_test:not_a_task", "has no Task called 'not_a_task'"),
        ("seal_task_of_a_test:torch", "has no Task called 'torch'"),
        ("json", "has no Task called 'task'"),
        ("", "module:attribute"),
        (":task", "module:attribute"),
        (".relative:task", "module:attribute"),
    ],
)
def test_a_reference_that_leads_to_no_task_is_refused(tmp_path: Path, reference: str, reason: str) -> None:
    with pytest.raises(TaskInvalid) as refused:
        load_task(reference, app(tmp_path, "mine"))
    assert str(refused.value).startswith(f"task {reference!r}: ")
    assert reason in str(refused.value)


def test_a_task_whose_own_import_is_missing_names_that_import(tmp_path: Path) -> None:
    (tmp_path / "seal_task_of_a_test.py").write_text("import seal_not_installed\n", encoding="utf-8")
    with pytest.raises(TaskInvalid, match="No module named 'seal_not_installed'"):
        load_task("seal_task_of_a_test:task", tmp_path)


class Plain(Task):
    def model(self) -> nn.Module:
        return nn.Linear(2, 2)

    def rows(self, site: SiteInfo) -> Rows:
        return Rows(fields={"x": torch.zeros(3, 2), "y": torch.tensor([0, 1, 1])})


def test_the_default_loss_is_one_cross_entropy_a_record() -> None:
    model = nn.Linear(2, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    losses = Plain().loss(model, Plain().rows(SiteInfo(name="a")))
    assert losses.tolist() == pytest.approx([torch.tensor(2.0).log().item()] * 3)


def test_the_defaults_change_no_record_and_report_accuracy_first() -> None:
    task = Plain()
    rows = task.rows(SiteInfo(name="a"))
    assert task.prepare(rows) is rows
    assert task.augment(rows, torch.Generator()) is rows
    assert next(iter(task.figures(task.metrics(task.model(), rows)))) == "accuracy"


def test_a_task_without_a_model_or_rows_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Task()  # type: ignore[abstract]


@dataclass
class Compared(Task):
    """A task whose author lets it be compared by value: such an object has no hash."""

    statistics: tuple[Moments, ...] = (Moments(field="x", lower=(0.0,), upper=(1.0,)),)

    def model(self) -> nn.Module:
        raise NotImplementedError

    def rows(self, site: SiteInfo) -> Rows:
        raise NotImplementedError


def test_a_task_learns_once_for_each_answer_and_stays_as_it_was() -> None:
    task, twin = Compared(), Compared()
    known = informed(task, (2.0, 1.0, 1.0))
    assert known is informed(task, (2.0, 1.0, 1.0))
    assert known is not informed(twin, (2.0, 1.0, 1.0))
    assert known.learned is not None
    assert known.learned.mean("x").tolist() == [0.5]
    assert task.learned is None
    assert informed(task, (4.0, 1.0, 1.0)).learned.mean("x").tolist() == [0.25]  # type: ignore[union-attr]


def test_a_task_that_asks_for_nothing_is_itself_and_takes_nothing() -> None:
    task = Compared(statistics=())
    assert informed(task, ()) is task
    with pytest.raises(TaskInvalid, match="have 0 values, but 1 came"):
        informed(task, (1.0,))
