"""Simulations with private metrics and statistics: they repeat, learn, and cost what the sites' own ledgers say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from federation.model_files import read_model
from federation.plan import Plan, Scalar
from federation.promise import run_releases
from federation.rows import Rows
from federation.site_info import SiteInfo
from federation.statistics import Histogram, Moments
from federation.task import load_task
from privacy.accountant import epsilon
from privacy.budget import WHOLE_SITE
from privacy.safe import Safe
from server.records import RoundRecord
from simulations.simulate import Options, Result, simulate
from tests.client_builders import PRIVATE, GivenTask, plan
from tests.command_builders import app_in, done
from tests.federation.table_builders import csv_file
from tests.privacy.vault_builders import key_file, nobody

LOWER, UPPER = (0.0, 0.0), (1000.0, 1000.0)
UNITS = ["record", "group", "client"]
ASKED: dict[str, Scalar] = {**PRIVATE, "rounds": 3, "metrics": "private", "statistics": "private"}


class Scaling(GivenTask):
    """Two columns of a scale that only the sites' statistics tell."""

    statistics = (
        Moments(field="x", lower=LOWER, upper=UPPER),
        Histogram(field="x", lower=LOWER, upper=UPPER, bins=20),
    )

    def prepare(self, rows: Rows) -> Rows:
        assert self.learned is not None
        return rows.replace(x=(rows["x"] - self.learned.mean("x")) / self.learned.deviation("x"))


TASK = Scaling(lambda: nn.Linear(2, 2))


def hospital(seed: int, count: int = 120) -> Rows:
    """Records whose first column tells their class, around 500; three visits of each patient."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    cells = torch.randn(count, 2, generator=generator) * torch.tensor([40.0, 100.0]) + 500
    cells[:, 0] += 200 * labels - 100
    return Rows(fields={"x": cells, "y": labels}, units=torch.arange(count) * 7 % (count // 3))


SITES = [hospital(seed) for seed in range(4)]


def agreed_on(unit: str, **changes: Scalar) -> Plan:
    return plan({**ASKED, "privacy.unit": unit, **changes})


def facts(result: Result) -> list[RoundRecord]:
    """The rounds without what a clock says."""
    return [replace(record, seconds={}) for record in result.rounds]


def cost(agreed: Plan, rounds: int) -> float:
    return epsilon(run_releases(agreed, rounds), agreed.privacy.delta)


@pytest.mark.parametrize("unit", UNITS)
def test_two_runs_with_statistics_are_the_same_bit_for_bit(unit: str) -> None:
    agreed = agreed_on(unit)
    first, second = simulate(TASK, agreed, SITES), simulate(TASK, agreed, SITES, Options(workers=2))
    assert first.run.vector.tobytes() == second.run.vector.tobytes()
    assert facts(first) == facts(second)
    other = simulate(TASK, agreed_on(unit, seed=1), SITES)
    assert other.run.vector.tobytes() != first.run.vector.tobytes()


@pytest.mark.parametrize("unit", UNITS)
def test_epsilon_is_what_the_sites_own_ledgers_say(tmp_path: Path, unit: str) -> None:
    agreed = agreed_on(unit)
    options = Options(out=tmp_path, key_file=key_file(tmp_path / "keys/run.key").path, keep_sites=True)
    result = simulate(TASK, agreed, SITES, options)
    assert result.folder is not None
    assert not any(record.refused for record in result.rounds)
    for number, record in enumerate(result.rounds, start=1):
        assert set(record.epsilon.values()) == {cost(agreed, number)}
    for site in result.sites:
        books = Safe.unlock(result.folder / "sites" / site.site, nobody).ledger().books()
        (account,) = books.by_account
        assert (account == WHOLE_SITE) is (unit == "client")
        assert books.spent(account).releases == 1 + 2 * 3
        assert site.epsilon == books.spent(account).epsilon(agreed.privacy.delta) == cost(agreed, 3)


@pytest.mark.parametrize("unit", ["record", "group"])
def test_what_sites_prepare_by_noisy_statistics_learns(unit: str) -> None:
    sites = [hospital(seed, 1500) for seed in range(4)]
    settings: dict[str, Scalar] = {"privacy.unit": unit, "privacy.delta": 1e-5, "privacy.epsilon": 20.0, "rounds": 8}
    settings |= {"statistics": "private", "privacy.statistics_share": 0.3, "training.learning_rate": 1.0}
    exact = simulate(TASK, plan(settings), sites).rounds[-1]
    assert exact.figures_source == "simulation only"
    assert exact.figures["accuracy"] > 0.95
    noisy = simulate(TASK, plan({**settings, "metrics": "private", "privacy.metrics_share": 0.4}), sites).rounds[-1]
    assert noisy.figures_source == "noisy sums from sites"
    assert noisy.figures["noise"] < 0.03
    assert abs(noisy.figures["accuracy"] - exact.figures["accuracy"]) < 4 * noisy.figures["noise"] + 0.04


def test_given_records_and_those_of_the_tasks_own_make_the_same_run() -> None:
    class Own(Scaling):
        def rows(self, site: SiteInfo) -> Rows:
            return SITES[site.index]

    agreed = agreed_on("record")
    given, own = simulate(TASK, agreed, SITES), simulate(Own(lambda: nn.Linear(2, 2)), agreed, 4)
    assert given.run.vector.tobytes() == own.run.vector.tobytes()
    assert facts(given) == facts(own)


def test_a_task_learns_nothing_for_good() -> None:
    simulate(TASK, agreed_on("record"), SITES)
    assert TASK.learned is None


SCALED = """
import torch
from torch import nn
from federation.statistics import Moments
from federation.task import Task


class Scaled(Task):
    statistics = (Moments(field="x", lower=(0.0, 0.0), upper=(1000.0, 1000.0)),)

    def model(self):
        return nn.Linear(2, 2)

    def rows(self, site):
        raise NotImplementedError

    def prepare(self, rows):
        return rows.replace(x=(rows["x"] - self.learned.mean("x")) / self.learned.deviation("x"))


task = Scaled()
"""


def test_a_runs_model_brings_the_statistics_by_which_new_rows_are_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = app_in(tmp_path, "scaled_of_an_app", SCALED)
    task = load_task("scaled_of_an_app:task", app)
    changes: dict[str, Scalar] = {"rounds": 12, "privacy.epsilon": 50.0, "training.learning_rate": 1.0}
    agreed = plan({**changes, "statistics": "private", "task": "scaled_of_an_app:task"})
    options = Options(out=tmp_path / "runs", key_file=key_file(tmp_path / "keys/run.key").path, export=True)
    result = simulate(task, agreed, SITES, options)
    assert result.folder is not None
    wanted = json.loads((result.folder / "run.json").read_text())["statistics"]
    assert len(wanted) == 6
    new = ("--data", "new.csv", "--label-column", "y", "--app", app)
    csv_file(tmp_path, "a,b,y\n400,500,0\n600,500,1\n380,540,0\n", "new.csv")
    (tmp_path / "plain").mkdir()
    clear = (result.folder / "model.safetensors").rename(tmp_path / "plain/model.safetensors")
    for model in (result.folder, clear):
        stored = read_model(model, nobody)
        assert json.loads(stored.notes["statistics"]) == wanted
        assert "accuracy 1\n" in done("model", "evaluate", model, *new)
        lines = done("model", "predict", model, *new).splitlines()[1:]
        assert [line.split(",")[1] for line in lines] == ["0", "1", "0"]
