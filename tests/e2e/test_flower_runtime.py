"""What `fedseal simulate` runs in one process, on Flower's own runtime: a SuperLink over TLS and two SuperNodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation_processes import FederationProcesses
from sklearn.datasets import load_wine

from clients.budgets import read_budget
from federation.model_files import read_model
from federation.new_app import write_app
from federation.reading import app_config, read_plan
from federation.rows import split
from federation.site_info import SiteInfo
from federation.task import load_task
from privacy.entries import Reserved, Settled
from privacy.key_stores import KeyFileStore
from privacy.ledger import Ledger
from privacy.passphrases import nobody_to_ask
from privacy.safe import Safe
from privacy.unlocking import KeyFileSettings
from simulations.simulate import Options, simulate
from simulations.simulated_federation import public_size

pytestmark = [
    pytest.mark.e2e,
    # Opacus hooks modules whose inputs need no gradient, which is what torch warns of.
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]

SITES = 2
SEED = 7
RUN_SECONDS = 400

BIOPSIES_PROJECT = f"""
[project]
name = "biopsies"
version = "0.1.0"
description = "Two hospitals tell malignant from benign"
license = "Apache-2.0"
dependencies = ["fedseal"]

[tool.flwr.app]
publisher = "hospitals"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"

[tool.flwr.app.config]
task = "task:task"
name = "biopsies"
rounds = 2
seed = {SEED}

[tool.flwr.app.config.privacy]
epsilon = 3.0
delta = 1e-3
noise_multiplier = 2.0

[tool.flwr.app.config.training]
sample_rate = 0.5
steps = 2

[tool.flwr.app.config.cohort]
quorum = 2

[tool.flwr.app.config.encryption]
scheme = "none"
"""

BIOPSIES_TASK = """
from torch import nn

from simulations.scenarios.breast_cancer import BreastCancer


class Biopsies(BreastCancer):
    def model(self):
        return nn.Sequential(nn.Linear(30, 4), nn.Tanh(), nn.Linear(4, 2))


task = Biopsies()
"""

SECRET_CELL = "0815.4711-Anna-Blau"


@pytest.fixture(scope="module")
def biopsies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app as a user writes it: a plan and a task, no server and no client of its own."""
    folder = tmp_path_factory.mktemp("biopsies")
    (folder / "pyproject.toml").write_text(BIOPSIES_PROJECT, encoding="utf-8")
    (folder / "task.py").write_text(BIOPSIES_TASK, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def wines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `fedseal new` writes, for one round that reports plain metrics and needs one site."""
    folder = tmp_path_factory.mktemp("apps") / "wines"
    write_app(folder)
    project = folder / "pyproject.toml"
    text = project.read_text(encoding="utf-8").replace("rounds = 15", 'rounds = 1\nmetrics = "plain"')
    tables = "[tool.flwr.app.config.cohort]\nquorum = 1\n[tool.flwr.app.config.encryption]\nscheme = 'none'\n"
    project.write_text(f"{text}\n{tables}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def hospitals(biopsies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FederationProcesses]:
    """A running federation whose second site has a broken table of wines."""
    folder = tmp_path_factory.mktemp("federation")
    plan = read_plan(app_config(biopsies))
    task = load_task(plan.task, biopsies)
    sites: list[dict[str, str | int]] = []
    for index in range(SITES):
        info = SiteInfo(name=f"hospital-{index}", index=index, count=SITES, plan=plan)
        train, _ = split(task.rows(info), plan.data.test_share, plan.seed)
        data = folder / f"data-{index}"
        data.mkdir()
        sites.append(
            {
                "site-name": info.name,
                "partition-id": index,
                "num-partitions": SITES,
                "declared-rows": public_size(len(train)),
                "simulation-seed": SEED,
                "data-folder": str(data),
                "safe": str(safe_with_budget(folder / info.name).folder),
            }
        )
    write_wines(folder / "data-0" / "records.csv")
    write_wines(folder / "data-1" / "records.csv", last_line=f"1,{SECRET_CELL},3\n")
    with FederationProcesses(folder=folder / "processes", sites=sites) as running:
        yield running


@pytest.fixture
def federation(hospitals: FederationProcesses) -> Iterator[FederationProcesses]:
    """The running federation; pytest shows what its processes wrote when the test fails."""
    yield hospitals
    print(hospitals.log_tails())


def test_real_processes_train_the_model_that_one_process_trains(
    federation: FederationProcesses, biopsies: Path, tmp_path: Path
) -> None:
    plan = read_plan(app_config(biopsies))
    expected = simulate(load_task(plan.task, biopsies), plan, SITES, Options(out=tmp_path, export=True)).folder
    assert expected is not None

    run = federation.submit(biopsies, seconds=RUN_SECONDS)

    assert run.status == "finished:completed"
    written = federation.runs / "latest"
    facts, rounds = read_json(written / "run.json"), read_rounds(written)
    assert facts["ended"] == "all planned rounds are done"
    assert facts["plan_hash"] == read_json(expected / "run.json")["plan_hash"]
    assert [record["answered"] for record in rounds] == [["hospital-0", "hospital-1"]] * 2
    assert [record["refused"] for record in rounds] == [[], []]
    assert [record["seeded"] for record in rounds] == [True, True]
    assert [sorted(record["epsilon"].values()) for record in rounds] == [
        sorted(record["epsilon"].values()) for record in read_rounds(expected)
    ]
    trained, wanted = (read_model(path, nobody_to_ask).tensors for path in (written, expected))
    assert not (written / "model.safetensors").exists()
    assert trained.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_allclose(trained[name], tensor, rtol=0, atol=1e-6, err_msg=name)
    assert "round finished round=2 answered=2 of=2" in run.shown
    assert [released(federation, index, facts["run"]) for index in range(SITES)] == [["update", "update"]] * SITES
    known = {line["note"] for line in json.loads((federation.runs / "ledgers.json").read_text(encoding="utf-8"))}
    assert known == {ledger_of(federation, index).checkpoint() for index in range(SITES)}


def test_broken_site_is_left_out_and_its_records_stay_at_home(federation: FederationProcesses, wines: Path) -> None:
    run = federation.submit(wines, seconds=RUN_SECONDS)

    assert run.status == "finished:completed"
    written = federation.runs / "latest"
    (record,) = read_rounds(written)
    assert record["answered"] == ["hospital-0"]
    assert {(refused["site"], refused["error"]) for refused in record["refused"]} == {("hospital-1", "DataInvalid")}
    assert record["figures_source"] == "plain sums from sites"
    assert record["figures"] == pytest.approx(figures_of_first_site(federation, wines, written), abs=1e-6)
    assert not files_that_hold(SECRET_CELL, federation.folder)
    run_id = read_json(written / "run.json")["run"]
    assert released(federation, 0, run_id) == ["update", "metrics"]
    # Counted before a record is read; its last ones stay open for ever.
    assert released(federation, 1, run_id) == ["update", "metrics"]
    assert open_releases(federation, 0) == []
    assert open_releases(federation, 1) == [run_id, run_id]


def figures_of_first_site(federation: FederationProcesses, app: Path, written: Path) -> dict[str, float]:
    """The run's model on the held-out records of the only site that could report."""
    plan = read_plan(app_config(app))
    task = load_task(plan.task, app)
    data = Path(str(federation.sites[0]["data-folder"]))
    _, test = split(task.rows(SiteInfo(name="hospital-0", data_folder=data)), plan.data.test_share, plan.seed)
    model = read_model(written, nobody_to_ask).module(task)
    figures: dict[str, float] = task.figures(task.metrics(model, task.prepare(test)))
    return figures


def safe_with_budget(folder: Path) -> Safe:
    """A site's safe, locked by a key file, whose ledger allows what the two apps ask for."""
    key_file = folder.parent / "keys" / f"{folder.name}.key"
    KeyFileStore.create(key_file)
    safe = Safe.create(folder, folder.name, KeyFileSettings(path=key_file), nobody_to_ask)
    allowed = ["record", "plain-metrics", "plain-updates"]
    safe.ledger().set_budget(read_budget({"epsilon": 50.0, "delta": 1e-5, "allow": allowed}))
    return safe


def ledger_of(federation: FederationProcesses, index: int) -> Ledger:
    return Safe.unlock(Path(str(federation.sites[index]["safe"])), nobody_to_ask).ledger()


def released(federation: FederationProcesses, index: int, run: str) -> list[str]:
    """What a site's ledger counts in a run, oldest first."""
    entries = ledger_of(federation, index).entries()
    return [entry.purpose for entry in entries if isinstance(entry, Reserved) and entry.run == run]


def open_releases(federation: FederationProcesses, index: int) -> list[str]:
    """The runs of releases that were reserved and never settled."""
    entries = ledger_of(federation, index).entries()
    settled = {entry.reserve for entry in entries if isinstance(entry, Settled)}
    return [entry.run for number, entry in enumerate(entries) if isinstance(entry, Reserved) and number not in settled]


def files_that_hold(secret: str, folder: Path) -> list[Path]:
    """Files of the federation's processes in which a site's record can be read."""
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def write_wines(path: Path, last_line: str = "") -> None:
    inputs, labels = load_wine(return_X_y=True)
    lines = [",".join([*(f"c{column}" for column in range(inputs.shape[1])), "class"])]
    lines += [",".join(map(str, [*values, label])) for values, label in zip(inputs, labels, strict=True)]
    path.write_text("\n".join(lines) + "\n" + last_line, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
