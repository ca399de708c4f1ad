"""What a run leaves on disk: each file holds the facts, in valid JSON, also when a run is killed or figures are NaN."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch import nn

from federation.checkpoints import newest, notes_of, opened
from federation.layout import Layout
from federation.model_files import read_model
from federation.optimizers import ModelState
from federation.plan import Plan
from federation.promise import round_mechanism
from privacy.errors import DataInvalid, FedSealError, KeyFileInvalid, ObjectMissing
from privacy.keys import KeyRing
from privacy.safe import Safe, is_safe
from privacy.vault import Vault
from server.records import Refused, RoundRecord, RunResult, SiteRecord
from server.run_folder import RunFolder
from tests.client_builders import PLAIN, PRIVATE, Vector, plan
from tests.privacy.vault_builders import every_death, key_file, nobody

LAYOUT = Layout.of(nn.Linear(2, 2))
VECTOR = np.arange(6, dtype=np.float32)


def a_round(number: int, **figures: float) -> RoundRecord:
    return RoundRecord(
        round=number,
        cohort=3,
        answered=("north", "south"),
        refused=(Refused(site="node 3", error="NotFinite", reason="the vector holds NaN or infinity"),),
        figures=figures or {"accuracy": 0.5},
        figures_source="simulation only",
        epsilon={"north": 0.5, "south": 0.25},
        seconds={"train": 1.0, "evaluate": 0.5},
        bytes_down=24,
        bytes_up=16,
        seeded=True,
    )


def result(agreed: Plan, rounds: int) -> RunResult:
    return RunResult(
        run="17",
        plan=agreed,
        ended="all planned rounds are done",
        rounds=tuple(a_round(number) for number in range(1, rounds + 1)),
        sites=(
            SiteRecord(site="north", rounds=rounds, refusals=0, declared_rows=1200, epsilon=0.5),
            SiteRecord(site="node 3", rounds=0, refusals=rounds, declared_rows=0, epsilon=None),
        ),
        vector=VECTOR,
        layout=LAYOUT,
    )


def written(parent: Path, agreed: Plan, rounds: int = 2) -> Path:
    """A whole run, written, its last model exported."""
    folder = RunFolder(parent, simulation_seed=agreed.seed, export=True)
    folder.run_started("17", agreed, 3)
    for number in range(1, rounds + 1):
        folder.model_advanced(number, LAYOUT, ModelState.start(VECTOR, agreed.aggregation))
        folder.round_finished(a_round(number))
    folder.run_finished(result(agreed, rounds))
    return folder.path


def strict(text: str) -> object:
    """JSON as the standard has it: without NaN and infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def facts(folder: Path) -> dict[str, object]:
    found = strict((folder / "run.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_a_finished_run_holds_its_files_and_a_vault(tmp_path: Path) -> None:
    folder = written(tmp_path, plan({**PRIVATE, "name": "two-hospitals"}))
    names = {path.name for path in folder.iterdir()}
    assert names == {"run.json", "rounds.jsonl", "model.safetensors", "report.html", "vault"}
    assert folder.parent == tmp_path
    assert folder.name.endswith("-two-hospitals")


def test_run_json_says_what_was_run_and_what_came_of_it(tmp_path: Path) -> None:
    agreed = plan({**PRIVATE, "rounds": 2, "seed": 5})
    found = facts(written(tmp_path, agreed))
    assert found["plan"] == agreed.model_dump()
    assert found["plan_hash"] == agreed.digest
    assert (found["run"], found["sites_online"]) == ("17", 3)
    assert found["seeds"] == {"plan": 5, "simulation": 5}
    assert found["ended"] == "all planned rounds are done"
    assert found["totals"] == {"rounds": 2, "seconds": 3.0, "bytes_down": 48, "bytes_up": 32, "parameters": 6}
    assert found["sites"] == [
        {"site": "north", "rounds": 2, "refusals": 0, "declared_rows": 1200, "epsilon": 0.5},
        {"site": "node 3", "rounds": 0, "refusals": 2, "declared_rows": 0, "epsilon": None},
    ]
    assert found["mechanism_of_a_round"] == round_mechanism(agreed).facts()
    assert "dp-accounting" in str(found["accountant"])
    assert {"python", "torch", "opacus", "flwr"} <= set(found["versions"])  # type: ignore[call-overload]
    assert "cores" in found["machine"]  # type: ignore[operator]


def test_a_run_without_privacy_names_no_accountant_and_no_mechanism(tmp_path: Path) -> None:
    found = facts(written(tmp_path, plan(PLAIN)))
    assert found["accountant"] is None
    assert found["mechanism_of_a_round"] is None


def test_a_deployment_has_no_simulation_seed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, simulation_seed=None)
    folder.run_started("17", plan(PRIVATE), 3)
    assert facts(folder.path)["seeds"] == {"plan": 0, "simulation": None}


def test_rounds_jsonl_holds_one_object_a_round(tmp_path: Path) -> None:
    lines = (written(tmp_path, plan(PRIVATE), rounds=3) / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    rounds = [strict(line) for line in lines]
    assert [one["round"] for one in rounds] == [1, 2, 3]  # type: ignore[index]
    assert rounds[0] == {
        "round": 1,
        "cohort": 3,
        "answered": ["north", "south"],
        "refused": [{"site": "node 3", "error": "NotFinite", "reason": "the vector holds NaN or infinity"}],
        "figures": {"accuracy": 0.5},
        "figures_source": "simulation only",
        "epsilon": {"north": 0.5, "south": 0.25},
        "seconds": {"train": 1.0, "evaluate": 0.5},
        "bytes_down": 24,
        "bytes_up": 16,
        "seeded": True,
        "encryption": None,
    }


def test_a_killed_run_leaves_the_rounds_that_it_finished(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, simulation_seed=None)
    folder.run_started("17", plan(PRIVATE), 3)
    folder.round_finished(a_round(1))
    assert len((folder.path / "rounds.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert "ended" not in facts(folder.path)
    assert not (folder.path / "model.safetensors").exists()


def test_figures_that_are_no_numbers_become_null(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, simulation_seed=None)
    folder.run_started("17", plan(PRIVATE), 3)
    folder.round_finished(a_round(1, accuracy=0.25, auroc=float("nan"), loss=float("inf")))
    found = strict((folder.path / "rounds.jsonl").read_text(encoding="utf-8"))
    assert found["figures"] == {"accuracy": 0.25, "auroc": None, "loss": None}  # type: ignore[index, call-overload]


def test_the_model_file_holds_the_named_tensors(tmp_path: Path) -> None:
    tensors = load_file(written(tmp_path, plan(PRIVATE)) / "model.safetensors")
    assert tensors["weight"].tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert tensors["bias"].tolist() == [4.0, 5.0]
    assert set(tensors) == {"weight", "bias"}


def test_latest_points_to_the_last_run(tmp_path: Path) -> None:
    for _ in range(2):
        folder = written(tmp_path, plan(PRIVATE))
        assert (tmp_path / "latest").resolve() == folder.resolve()
    assert (tmp_path / "latest").is_symlink()


def test_a_folder_that_somebody_called_latest_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    written(tmp_path, plan(PRIVATE))
    assert not (tmp_path / "latest").is_symlink()


def test_runs_of_one_second_and_one_name_do_not_share_a_folder(tmp_path: Path) -> None:
    folders = {written(tmp_path, plan(PRIVATE)) for _ in range(4)}
    assert len(folders) == 4
    assert all(len((folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()) == 2 for folder in folders)


HOSPITALS = plan({**PRIVATE, "name": "two-hospitals", "seed": 7})


def weights(number: int) -> Vector:
    """Six weights of a round that are found again wherever they are written: 1001.25, 1002.25, ..."""
    return np.arange(6, dtype=np.float32) + 1000.25 + number


def state(number: int) -> ModelState:
    """The server after a round: what it gives out, what it goes on from, and its moments, all different."""
    start = ModelState.start(weights(number), HOSPITALS.aggregation)
    return replace(start, vector=weights(number) * 2, first=weights(number) * 3, second=weights(number) * 5)


def advanced(parent: Path, key: Path | None, rounds: int, export: bool = False) -> RunFolder:
    """A run in the middle: so many rounds are done, the last one is not announced yet."""
    folder = RunFolder(parent / "runs", simulation_seed=None, key_file=key, export=export)
    folder.run_started("17", HOSPITALS, 3)
    for number in range(1, rounds + 1):
        folder.model_advanced(number, LAYOUT, state(number))
        folder.round_finished(a_round(number))
    return folder


def lying_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written_in_the_clear(folder: Path, rounds: int) -> list[str]:
    """Files that hold two neighbouring weights of any round, of the model or of the server's state."""
    vectors = [weights(number) * factor for number in range(1, rounds + 1) for factor in (1, 2, 3, 5)]
    needles = [vector[2:4].tobytes() for vector in vectors] + [str(float(vector[2])).encode() for vector in vectors]
    return sorted(name for name, held in lying_in(folder).items() if any(needle in held for needle in needles))


def test_each_rounds_model_opens_with_the_key_file_while_the_run_goes_on(tmp_path: Path) -> None:
    key = key_file(tmp_path / "usb/k").path
    for rounds in (1, 2, 3):
        run = advanced(tmp_path, key, rounds).path
        stored = read_model(run, nobody)
        assert stored.tensors["weight"].tolist() == weights(rounds)[:4].reshape(2, 2).tolist()
        assert stored.tensors["bias"].tolist() == weights(rounds)[4:].tolist()
        assert stored.notes == notes_of(HOSPITALS, "17", rounds)


def test_a_sealed_round_holds_what_the_server_needs_to_go_on(tmp_path: Path) -> None:
    run = advanced(tmp_path, key_file(tmp_path / "usb/k").path, 2).path
    vault = Safe.unlock(run / "vault", nobody).vault
    checkpoint = opened(vault, newest(vault))
    assert {name: tensor.tolist() for name, tensor in checkpoint.state.items()} == {
        "vector": (weights(2) * 2).tolist(),
        "first": (weights(2) * 3).tolist(),
        "second": (weights(2) * 5).tolist(),
    }


def test_the_newest_two_rounds_of_a_run_are_kept(tmp_path: Path) -> None:
    run = advanced(tmp_path, key_file(tmp_path / "usb/k").path, 4).path
    assert read_model(run, nobody, 3).tensors["bias"].tolist() == weights(3)[4:].tolist()
    for number in (1, 2, 5):
        with pytest.raises(ObjectMissing, match="kept are: 3, 4"):
            read_model(run, nobody, number)


@pytest.mark.parametrize("locked", [True, False])
def test_no_weight_is_in_a_runs_folder_in_the_clear(tmp_path: Path, locked: bool) -> None:
    folder = advanced(tmp_path, key_file(tmp_path / "usb/k").path if locked else None, 3)
    folder.run_finished(replace(result(HOSPITALS, 3), vector=weights(3)))
    assert not (folder.path / "model.safetensors").exists()
    assert written_in_the_clear(folder.path, 3) == []
    assert any(name.startswith("vault/") for name in lying_in(folder.path))


def test_weights_in_the_clear_would_be_found_by_these_tests(tmp_path: Path) -> None:
    folder = advanced(tmp_path, key_file(tmp_path / "usb/k").path, 3, export=True)
    folder.run_finished(replace(result(HOSPITALS, 3), vector=weights(3)))
    assert written_in_the_clear(folder.path, 3) == ["model.safetensors"]
    assert stat.S_IMODE((folder.path / "model.safetensors").stat().st_mode) == 0o600


def test_a_run_without_a_key_file_leaves_nothing_that_anybody_could_open(tmp_path: Path) -> None:
    run = advanced(tmp_path, None, 3).path
    assert not is_safe(run / "vault")
    names = sorted(lying_in(run / "vault"))
    assert [name for name in names if not name.startswith(("model.", ".lock"))] == []
    with pytest.raises(DataInvalid, match="threw its key away"):
        read_model(run, nobody)
    stranger = Vault(run / "vault", KeyRing.throw_away("two-hospitals"))
    for label in stranger.list():
        with pytest.raises(FedSealError):
            stranger.open(label)


def test_run_json_says_who_can_open_the_models(tmp_path: Path) -> None:
    locked = advanced(tmp_path, key_file(tmp_path / "usb/k").path, 1)
    assert facts(locked.path)["models"] == {
        "sealed_in": "vault",
        "locked_by": "key file",
        "exported_in_the_clear": None,
    }
    assert str(facts(advanced(tmp_path, None, 1).path)["models"]).count("thrown away") == 1
    key = (tmp_path / "usb/k").read_bytes().split()[1]
    assert not any(key in held for held in lying_in(tmp_path / "runs").values())


@pytest.mark.parametrize(
    "change", [Path.unlink, lambda path: path.chmod(0o644), lambda path: path.write_text("no key")]
)
def test_a_key_file_that_can_not_lock_ends_the_run_before_its_first_round(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    key = key_file(tmp_path / "usb/k").path
    change(key)
    with pytest.raises(KeyFileInvalid):
        advanced(tmp_path, key, 1)


def test_only_the_owner_may_enter_the_vault_of_a_run(tmp_path: Path) -> None:
    for key in (key_file(tmp_path / "usb/k").path, None):
        vault = advanced(tmp_path, key, 1).path / "vault"
        assert {stat.S_IMODE(path.stat().st_mode) for path in [vault, *vault.rglob("*")]} == {0o700, 0o600}


def test_a_run_that_is_killed_at_any_act_leaves_its_newest_finished_round(tmp_path: Path) -> None:
    key = key_file(tmp_path / "usb/k").path
    runs: list[RunFolder] = []

    def third_round(death: int) -> Callable[[], None]:
        runs.append(advanced(tmp_path / str(death), key, 2))
        return lambda: runs[-1].model_advanced(3, LAYOUT, state(3))

    found = []
    for _ in every_death(third_round):
        stored = read_model(runs[-1].path, nobody)
        number = int(stored.notes["round"])
        assert stored.tensors["bias"].tolist() == weights(number)[4:].tolist()
        found.append(number)
    assert found == sorted(found)
    assert set(found) == {2, 3}


def test_a_run_that_is_killed_before_its_first_round_says_that_there_is_no_model(tmp_path: Path) -> None:
    run = advanced(tmp_path, key_file(tmp_path / "usb/k").path, 0).path
    with pytest.raises(ObjectMissing, match="no round was finished"):
        read_model(run, nobody)
