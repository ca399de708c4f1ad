"""What a run leaves on disk: each file holds the facts, in valid JSON, also when a run is killed or figures are NaN."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from torch import nn

from federation.layout import Layout
from federation.plan import Plan
from federation.promise import round_mechanism
from server.optimizers import ServerState
from server.records import Refused, RoundRecord, RunResult, SiteRecord
from server.run_folder import RunFolder
from tests.client_builders import PLAIN, PRIVATE, plan

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
        folder.model_advanced(number, LAYOUT, ServerState.start(VECTOR, agreed.aggregation))
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
