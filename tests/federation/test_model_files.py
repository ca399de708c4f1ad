"""A model from wherever one has it: a run's folder, a safe, a file. It must be the task's own, and stays private."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from os import umask
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from federation.checkpoints import Checkpoint, keep, notes_of
from federation.layout import Layout
from federation.model_files import StoredModel, read_model, write_safetensors
from federation.optimizers import ModelState
from federation.seeding import first_model
from federation.task import Task
from privacy.errors import DataInvalid, KeyRefused, ObjectDamaged, ObjectMissing, TaskInvalid, WrongKeyFile
from privacy.safe import Safe
from privacy.vault import Label
from server.run_folder import RunFolder
from tests.client_builders import PLAIN, GivenTask, perceptron, plan
from tests.privacy.vault_builders import key_file, nobody, object_file, safe_in

TASK = GivenTask(lambda: nn.Linear(2, 2, bias=False))
LAYOUT = Layout.of(TASK.model())
AGREED = plan({**PLAIN, "task": "hearts:task", "name": "hearts", "seed": 3, "rounds": 3})


def model(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((2, 2), value)}


def a_run(parent: Path, rounds: int = 3, export: bool = False) -> Path:
    """A run that was killed after these rounds; the model of round 2 holds only twos."""
    settings = key_file(parent / "keys/run.key")
    folder = RunFolder(parent / "runs", simulation_seed=None, key_file=settings.path, export=export)
    folder.run_started("17", AGREED, 3)
    for number in range(1, rounds + 1):
        vector = np.full(4, number, dtype=np.float32)
        folder.model_advanced(number, LAYOUT, ModelState.start(vector, AGREED.aggregation))
    return folder.path


def a_site(parent: Path) -> Path:
    """A site's safe that keeps a model of ones."""
    safe = safe_in(parent / "north", "north")
    with safe.changing() as vault:
        keep(vault, "hearts-17", 5, Checkpoint(model=model(1.0), state={}, notes=notes_of(AGREED, "17", 5)))
    return safe.folder


def a_file(parent: Path) -> Path:
    path = parent / "model.safetensors"
    write_safetensors(path, model(1.0), notes_of(AGREED, "17", 5))
    return path


def numbers(stored: StoredModel) -> list[list[float]]:
    assert set(stored.tensors) == {"weight"}
    found: list[list[float]] = stored.tensors["weight"].tolist()
    return found


def test_a_runs_folder_its_vault_and_the_link_to_the_latest_name_its_last_model(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for path in (run, run / "vault", tmp_path / "runs/latest"):
        stored = read_model(path, nobody)
        assert numbers(stored) == [[3.0, 3.0], [3.0, 3.0]]
        assert stored.notes == notes_of(AGREED, "17", 3)


def test_a_round_that_was_kept_can_be_asked_for(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for number in (2, 3):
        stored = read_model(run, nobody, number)
        assert numbers(stored) == [[float(number)] * 2] * 2
        assert stored.notes["round"] == str(number)


@pytest.mark.parametrize("number", [0, 1, 4])
def test_a_round_that_was_not_kept_is_refused_and_those_that_are_kept_are_named(tmp_path: Path, number: int) -> None:
    with pytest.raises(ObjectMissing, match=f"round {number} of hearts is not kept; kept are: 2, 3"):
        read_model(a_run(tmp_path), nobody, number)


@pytest.mark.parametrize("made", [a_site, a_file])
def test_a_site_and_a_file_name_their_model(tmp_path: Path, made: Callable[[Path], Path]) -> None:
    stored = read_model(made(tmp_path), nobody)
    assert numbers(stored) == [[1.0, 1.0], [1.0, 1.0]]
    assert stored.notes == notes_of(AGREED, "17", 5)


def test_a_folder_with_nothing_but_an_exported_model_names_that(tmp_path: Path) -> None:
    a_file(tmp_path)
    assert numbers(read_model(tmp_path, nobody)) == [[1.0, 1.0], [1.0, 1.0]]


def test_a_run_whose_key_was_thrown_away_opens_only_by_what_it_exported(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, simulation_seed=1)
    folder.run_started("17", AGREED, 3)
    folder.model_advanced(1, LAYOUT, ModelState.start(np.ones(4, dtype=np.float32), AGREED.aggregation))
    with pytest.raises(DataInvalid, match="threw its key away"):
        read_model(folder.path, nobody)
    a_file(folder.path)
    assert numbers(read_model(folder.path, nobody)) == [[1.0, 1.0], [1.0, 1.0]]


def test_no_sealed_model_opens_with_another_key_file(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    key = tmp_path / "keys/run.key"
    key.write_bytes(key_file(tmp_path / "keys/other.key").path.read_bytes())
    with pytest.raises(WrongKeyFile):
        read_model(run, nobody)
    key.unlink()
    with pytest.raises(KeyRefused):
        read_model(run, nobody)


def test_a_changed_model_is_refused_and_the_round_before_still_opens(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    path = object_file(Safe.unlock(run / "vault", nobody).vault, Label("model", "hearts", 3))
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ObjectDamaged):
        read_model(run, nobody)
    assert numbers(read_model(run, nobody, 2)) == [[2.0, 2.0], [2.0, 2.0]]


@pytest.mark.parametrize("number", [-1, 10**9, 10**30])
def test_a_round_that_can_not_be_is_not_kept(tmp_path: Path, number: int) -> None:
    with pytest.raises(ObjectMissing, match="kept are: 2, 3"):
        read_model(a_run(tmp_path), nobody, number)


def test_another_round_than_that_in_a_file_is_not_given_out(tmp_path: Path) -> None:
    path = a_file(tmp_path)
    assert read_model(path, nobody, 5).notes["round"] == "5"
    with pytest.raises(ObjectMissing, match="holds round 5, not round 3"):
        read_model(path, nobody, 3)
    write_safetensors(path, model(1.0), {})
    with pytest.raises(ObjectMissing, match="holds round unknown, not round 3"):
        read_model(path, nobody, 3)


@pytest.mark.parametrize("seed", ["abc", "", "-3", "1.0", str(2**63), "\u00b2"])
def test_a_seed_that_no_plan_has_is_refused(tmp_path: Path, seed: str) -> None:
    write_safetensors(tmp_path / "m", model(1.0), {"seed": seed})
    with pytest.raises(DataInvalid, match="names a seed that no plan has"):
        read_model(tmp_path / "m", nobody).module(TASK)


def test_a_site_that_keeps_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing, match="holds no model"):
        read_model(safe_in(tmp_path / "north").folder, nobody)


@pytest.mark.parametrize("name", ["nowhere", "empty", "text"])
def test_what_holds_no_model_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no model, but long enough to look at")
    with pytest.raises(DataInvalid):
        read_model(tmp_path / name, nobody)


def test_the_tasks_model_takes_the_stored_weights_and_only_evaluates(tmp_path: Path) -> None:
    built = read_model(a_run(tmp_path), nobody).module(TASK)
    assert isinstance(built, nn.Linear)
    assert built.weight.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert not built.training


@pytest.mark.parametrize(
    "build",
    [
        perceptron,
        lambda: nn.Linear(2, 2),
        lambda: nn.Linear(2, 3, bias=False),
        lambda: nn.Linear(4, 1, bias=False),
        lambda: nn.Sequential(nn.Linear(2, 2, bias=False)),
    ],
    ids=["other layers", "more tensors", "more classes", "as many weights in another shape", "other names"],
)
def test_a_model_of_another_task_is_refused(tmp_path: Path, build: Callable[[], nn.Module]) -> None:
    stored = read_model(a_file(tmp_path), nobody)
    with pytest.raises(DataInvalid, match="it is another task's"):
        stored.module(GivenTask(build))


class Pretrained(Task):
    """A frozen random layer, a norm with running statistics, and a trainable layer."""

    def model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        model[0].requires_grad_(False)
        return model

    def rows(self, site: object) -> object:  # type: ignore[override]
        raise NotImplementedError


def test_what_was_frozen_comes_from_the_plans_seed_and_what_was_trained_from_the_file(tmp_path: Path) -> None:
    trained = first_model(Pretrained(), 3)
    trained.train()(torch.randn(20, 2, generator=torch.Generator().manual_seed(1)))  # moves the running statistics
    layout = Layout.of(trained)
    assert "0.weight" not in layout.names
    write_safetensors(tmp_path / "m", layout.named(layout.flatten(trained)), notes_of(AGREED, "17", 1))
    torch.manual_seed(99)
    inputs = torch.randn(5, 2)
    built = read_model(tmp_path / "m", nobody).module(Pretrained())
    assert torch.equal(built(inputs), trained.eval()(inputs))

    write_safetensors(tmp_path / "m", layout.named(layout.flatten(trained)), {"seed": "4"})
    other = read_model(tmp_path / "m", nobody).module(Pretrained())
    assert not torch.equal(other(inputs), built(inputs))


def test_building_a_model_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    stored = read_model(a_file(tmp_path), nobody)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    stored.module(TASK)
    assert torch.equal(torch.rand(3), expected)


def test_the_notes_name_the_task_and_it_is_looked_for_in_the_apps_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    stored = read_model(a_file(tmp_path), nobody)
    with pytest.raises(TaskInvalid, match="hearts:task"):
        stored.task(tmp_path)
    (tmp_path / "app").mkdir()
    (tmp_path / "app/hearts.py").write_text("from tests.server_builders import TASK as task\n")
    assert isinstance(stored.task(tmp_path / "app"), GivenTask)
    del sys.modules["hearts"]


def test_a_file_of_others_making_opens_and_names_no_task(tmp_path: Path) -> None:
    safetensors.torch.save_file(model(1.0), tmp_path / "foreign")
    foreign = read_model(tmp_path / "foreign", nobody)
    assert numbers(foreign) == [[1.0, 1.0], [1.0, 1.0]]
    with pytest.raises(DataInvalid, match="not of FedSeal's making"):
        foreign.task(None)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_a_model_in_the_clear_is_readable_by_its_owner_only(tmp_path: Path, mask: int) -> None:
    before = umask(mask)
    try:
        write_safetensors(tmp_path / "new/folder/model.safetensors", model(1.0), {})
    finally:
        umask(before)
    assert stat.S_IMODE((tmp_path / "new/folder/model.safetensors").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new/folder").stat().st_mode) == 0o700


def test_the_library_reads_a_model_in_the_clear_and_its_notes(tmp_path: Path) -> None:
    path = a_file(tmp_path)
    assert safetensors.torch.load_file(path)["weight"].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    with safetensors.safe_open(path, "pt") as opened:
        assert opened.metadata() == notes_of(AGREED, "17", 5)


def test_a_model_in_the_clear_replaces_an_older_one_and_keeps_it_private(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"an older one, readable by all")
    path.chmod(0o644)
    a_file(tmp_path)
    assert numbers(read_model(path, nobody)) == [[1.0, 1.0], [1.0, 1.0]]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_seed_of_five_thousand_digits_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "m", {"weight": torch.ones(2, 2)}, {"seed": "9" * 5000})
    with pytest.raises(DataInvalid, match="seed"):
        read_model(tmp_path / "m", nobody).module(TASK)
