"""The command as a person meets it: what it prints, what it writes, how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


def fedseal(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder of its own, as a person would."""
    command = [sys.executable, "-m", "fedseal", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of `fedseal simulate`, run once."""
    folder = tmp_path_factory.mktemp("demo")
    done = fedseal("simulate", "--rounds", "4", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_demo_prints_a_line_a_round_with_sites_accuracy_auroc_and_epsilon(demo: tuple[Path, str]) -> None:
    lines = [line.split() for line in demo[1].splitlines()]
    header = next(words for words in lines if words[:1] == ["round"])
    assert header == ["round", "sites", "accuracy", "auroc", "loss", "ε", "min", "ε", "med", "ε", "max", "seconds"]
    rounds = [words for words in lines if len(words) == 9 and words[1] == "8/8"]
    assert [words[0] for words in rounds] == ["1", "2", "3", "4"]
    spent = [float(words[7]) for words in rounds]
    assert spent == sorted(spent)
    assert spent[-1] <= 3.0


def test_demo_prints_a_row_for_every_site(demo: tuple[Path, str]) -> None:
    assert sum("│ site-" in line for line in demo[1].splitlines()) == 8


def test_demo_writes_what_it_promises(demo: tuple[Path, str]) -> None:
    run = demo[0] / "runs" / "latest"
    assert {path.name for path in run.iterdir()} == {
        "run.json",
        "rounds.jsonl",
        "model.safetensors",
        "report.html",
        "vault",
    }
    facts = json.loads((run / "run.json").read_text())
    assert {"plan", "plan_hash", "versions", "machine", "seeds", "totals", "sites", "ended"} <= facts.keys()
    assert len((run / "rounds.jsonl").read_text().splitlines()) == 4
    assert str(run.resolve().name) in demo[1]


def test_demo_says_that_seeded_noise_protects_nobody(demo: tuple[Path, str]) -> None:
    assert "a rehearsal, no protection" in demo[1]


def test_training_without_privacy_is_said_loudly(tmp_path: Path) -> None:
    done = fedseal("simulate", "--rounds", "1", "--set", "privacy.unit=none", folder=tmp_path)
    assert "WITHOUT privacy" in done.stdout
    assert "none" in done.stdout


def test_json_holds_the_run_and_nothing_else(tmp_path: Path) -> None:
    done = fedseal("simulate", "--rounds", "2", "--sites", "3", "--seed", "5", "--json", folder=tmp_path)
    facts = json.loads(done.stdout)
    assert facts["plan"]["seed"] == 5
    assert [line["cohort"] for line in facts["rounds"]] == [3, 3]
    assert Path(tmp_path, facts["folder"], "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["simulate", "--set", "privacy.epsilonn=3"], "did you mean 'privacy.epsilon'?"),
        (["simulate", "--set", "privacy.epsilon=-3"], "privacy.epsilon is -3, but must be greater than 0"),
        (["simulate", "--set", "aggregation.rule=mediann"], "did you mean 'median'?"),
        (["simulate", "--set", "privacy.epsilon"], "write KEY=VALUE"),
        (["simulate", "--scenario", "breastcancer"], "did you mean 'breast-cancer'?"),
        (["simulate", "--scenario", "mnist"], "add --data DIR"),
        (["simulate", "--scenario", "mnist", "--data", "nowhere"], "can't be read"),
        (["simulate", "--sites", "1"], "cohort.quorum is 3, but only 1 sites"),
        (["simulate", "nowhere"], "nowhere is no app"),
        (["plan", "check", "nowhere"], "nowhere is no app"),
        (["bench", "nonsense"], "choose one of encryption, engine, ledger, storage, utility"),
    ],
)
def test_refusals_are_one_line_that_says_what_to_do(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = fedseal(*arguments, folder=tmp_path)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_wrong_usage_exits_with_two(tmp_path: Path) -> None:
    assert fedseal("simulate", "--nonsense", folder=tmp_path).returncode == 2


def test_version_is_the_projects(tmp_path: Path) -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert fedseal("--version", folder=tmp_path).stdout.strip() == f"fedseal {project['version']}"


@pytest.mark.parametrize(
    "command", [[], ["simulate"], ["scenarios"], ["new"], ["plan", "show"], ["plan", "check"], ["bench"]]
)
def test_every_command_has_help(command: list[str], tmp_path: Path) -> None:
    done = fedseal(*command, "--help", folder=tmp_path)
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_a_new_app_checks_and_runs(tmp_path: Path) -> None:
    assert fedseal("new", "wine", folder=tmp_path).returncode == 0
    checked = fedseal("plan", "check", "wine", folder=tmp_path)
    assert "the plan is right" in checked.stdout
    ran = fedseal("simulate", "wine", "--rounds", "8", "--set", "privacy.epsilon=8", "--json", folder=tmp_path)
    assert json.loads(ran.stdout)["rounds"][-1]["figures"]["accuracy"] > 0.8


def test_new_never_writes_into_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "wine").mkdir()
    (tmp_path / "wine" / "task.py").write_text("precious")
    done = fedseal("new", "wine", folder=tmp_path)
    assert done.returncode == 1
    assert [path.name for path in (tmp_path / "wine").iterdir()] == ["task.py"]
    assert (tmp_path / "wine" / "task.py").read_text() == "precious"


def test_plan_show_lists_every_setting_and_marks_what_was_changed(tmp_path: Path) -> None:
    shown = fedseal("plan", "show", "--set", "privacy.epsilon=1", folder=tmp_path).stdout
    assert "privacy.epsilon = 1.0  (default 3.0)" in shown
    assert "aggregation.rule = mean" in shown
    assert "plan hash" in shown
    assert "the server reads every update" in fedseal(
        "plan", "show", "--set", "encryption.scheme=none", folder=tmp_path
    ).stdout.replace("\n", " ")
