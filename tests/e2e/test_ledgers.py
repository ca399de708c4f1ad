"""Ledgers of deployed sites: a budget that lasts for two rounds, a ledger of yesterday, and a deleted entry."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from federation_processes import FederationProcesses
from sklearn.datasets import load_wine

from clients.backup import back_up, restore
from clients.budgets import read_budget
from clients.importing import Import, import_table
from federation.new_app import write_app
from federation.plan import Plan
from federation.promise import round_mechanism
from federation.reading import app_config, read_plan
from privacy.accountant import epsilon
from privacy.entries import Reserved, Settled
from privacy.key_stores import KeyFileStore
from privacy.passphrases import nobody_to_ask
from privacy.safe import LEDGER, Safe
from privacy.unlocking import KeyFileSettings

pytestmark = [
    pytest.mark.e2e,
    # Opacus hooks modules whose inputs need no gradient, which is what torch warns of.
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]

ROUNDS, POOR = 4, 2
IN_THE_CLEAR = '[tool.flwr.app.config.encryption]\nscheme = "none"\n'
DELTA = 1e-3


@dataclass(frozen=True, slots=True)
class Vineyards:
    """Three sites with sealed wines, the last of which can afford two rounds, and the app that they train."""

    folder: Path
    app: Path
    plan: Plan
    processes: FederationProcesses

    def safe(self, index: int) -> Safe:
        return Safe.unlock(self.folder / f"vineyard-{index}", nobody_to_ask)

    def backup(self, index: int) -> Path:
        return self.folder / f"yesterday-{index}.tar"

    def rounds(self) -> list[dict[str, object]]:
        """What the server noted in the run that it ran last."""
        lines = (self.processes.runs / "latest" / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def vineyards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vineyards]:
    folder = tmp_path_factory.mktemp("vineyards")
    app = folder / "wines"
    write_app(app)
    project = app / "pyproject.toml"
    text = project.read_text(encoding="utf-8").replace("rounds = 15", f"rounds = {ROUNDS}")
    project.write_text(f"{text}\n[tool.flwr.app.config.cohort]\nquorum = 2\n{IN_THE_CLEAR}", encoding="utf-8")
    plan = read_plan(app_config(app))
    KeyFileStore.create(folder / "keys" / "site.key")
    sites: list[dict[str, str | int]] = []
    for index in range(3):
        a_site(folder, index, two_rounds(plan) if index == POOR else 100.0)
        back_up(folder / f"vineyard-{index}", folder / f"yesterday-{index}.tar")
        home = str(folder / f"vineyard-{index}")
        sites.append({"site-name": f"vineyard-{index}", "safe": home, "data-set": "wines", "simulation-seed": 7})
    with FederationProcesses(folder=folder / "processes", sites=sites) as running:
        yield Vineyards(folder, app, plan, running)
        print(running.log_tails())


def a_site(folder: Path, index: int, budget: float) -> None:
    """Every third wine, sealed, with a budget for ever."""
    name = f"vineyard-{index}"
    safe = Safe.create(folder / name, name, KeyFileSettings(path=folder / "keys" / "site.key"), nobody_to_ask)
    safe.ledger().set_budget(read_budget({"epsilon": budget, "delta": DELTA, "allow": ["record", "plain-updates"]}))
    inputs, labels = load_wine(return_X_y=True)
    lines = [",".join([*(f"c{column}" for column in range(inputs.shape[1])), "class"])]
    lines += [",".join(map(str, [*values, label])) for values, label in zip(inputs, labels, strict=True)][index::3]
    table = folder / f"{name}.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    import_table(safe, Import(table=table, name="wines", label="class"), lambda _: None)


def two_rounds(plan: Plan) -> float:
    """A budget between what two rounds and three rounds cost."""
    mechanism = round_mechanism(plan)
    return (epsilon([mechanism] * 2, DELTA) + epsilon([mechanism] * 3, DELTA)) / 2


def test_budgets_and_histories_hold_over_runs(vineyards: Vineyards) -> None:
    """One story, because processes are dear: a first run, what happens to two ledgers overnight, and a second run."""
    run = vineyards.processes.submit(vineyards.app, seconds=400)
    assert run.status == "finished:completed"
    a_site_leaves_when_its_budget_is_spent(vineyards)

    yesterday_is_put_back(vineyards, 0)
    the_newest_entry_is_deleted(vineyards, 1)
    vineyards.processes.submit(vineyards.app, seconds=400)

    (record,) = vineyards.rounds()
    assert record["answered"] == []
    refused = {(each["site"], each["error"]) for each in record["refused"]}  # type: ignore[attr-defined]
    assert refused == {
        ("vineyard-0", "LedgerRolledBack"),
        ("vineyard-1", "LedgerCorrupt"),
        ("vineyard-2", "BudgetExhausted"),
    }
    assert "the server knows" in vineyards.processes.log("supernode-0")  # the site's own engineer reads why


def a_site_leaves_when_its_budget_is_spent(vineyards: Vineyards) -> None:
    rounds = vineyards.rounds()
    everybody = ["vineyard-0", "vineyard-1", "vineyard-2"]
    assert [record["answered"] for record in rounds] == [everybody, everybody, everybody[:2], everybody[:2]]
    (no,) = rounds[2]["refused"]  # type: ignore[misc]
    assert (no["site"], no["error"]) == ("vineyard-2", "BudgetExhausted")
    for words in ("the site's data set", "spent", "left"):
        assert words in no["reason"]
    assert "wines" not in no["reason"]  # how a site calls its data sets stays in its own log
    assert "data set 'wines'" in vineyards.processes.log("supernode-2")
    mechanism = round_mechanism(vineyards.plan)
    for index, joined in ((0, 4), (1, 4), (2, 2)):
        ledger = vineyards.safe(index).ledger()
        entries = ledger.entries()
        assert sum(isinstance(entry, Reserved) for entry in entries) == joined
        assert sum(isinstance(entry, Settled) for entry in entries) == joined
        data = next(account for account, name in ledger.books().names.items() if name == "wines")
        recorded = ledger.books().spent(data).epsilon(DELTA)
        assert recorded >= epsilon([mechanism] * joined, DELTA)
        assert rounds[-1]["epsilon"][f"vineyard-{index}"] == pytest.approx(recorded, rel=1e-9)  # type: ignore[index]


def yesterday_is_put_back(vineyards: Vineyards, index: int) -> None:
    folder = vineyards.folder / f"vineyard-{index}"
    shutil.rmtree(folder)
    restore(vineyards.backup(index), folder, nobody_to_ask)


def the_newest_entry_is_deleted(vineyards: Vineyards, index: int) -> None:
    with closing(sqlite3.connect(vineyards.folder / f"vineyard-{index}" / LEDGER)) as ledger, ledger:
        ledger.execute("DELETE FROM entry WHERE i = (SELECT max(i) FROM entry)")
