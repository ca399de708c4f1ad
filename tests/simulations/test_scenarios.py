"""Ready-made federations: each runs as it stands, and learns."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from federation.contradictions import refuse_large_cohort
from federation.plan import Scalar, flatten
from federation.reading import read_plan
from federation.task import load_task
from privacy.errors import DataInvalid, PlanInvalid
from server.cohort import cohort_size
from simulations.scenarios.catalogue import SCENARIOS, scenario
from simulations.simulate import Options, Result, simulate

_ROOT = Path(__file__).parents[2]
_DATA = _ROOT.parent / "shared" / "data"
needs_shared_data = pytest.mark.skipif(not _DATA.is_dir(), reason=f"{_DATA} is not on this machine")


def run(name: str, sites: int, **changes: Scalar) -> Result:
    """The scenario with some settings changed; a double underscore stands for the dot."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    plan = read_plan({**scenario(name).settings, **changed})
    return simulate(load_task(plan.task), plan, sites, Options(data_folder=_DATA))


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenarios_plan_is_right_and_its_task_loads(name: str) -> None:
    plan = read_plan(scenario(name).settings)
    assert plan.is_private
    refuse_large_cohort(plan, cohort_size(plan, scenario(name).sites))
    assert load_task(plan.task).model() is not None


def test_breast_cancer_as_it_stands_beats_the_majority_class_by_far() -> None:
    result = run("breast-cancer", sites=8)
    assert result.rounds[-1].figures["accuracy"] > 0.93
    assert result.rounds[-1].figures["auroc"] > 0.97
    assert max(site.epsilon or 0 for site in result.sites) <= 3


def test_digits_as_it_stands_learns_under_uneven_classes() -> None:
    result = run("digits", sites=20)
    assert result.rounds[-1].figures["accuracy"] > 0.85


def test_synthetic_serves_any_number_of_sites() -> None:
    result = run("synthetic", sites=300, rounds=3)
    assert result.rounds[-1].cohort == 30
    assert result.rounds[-1].figures["accuracy"] > 0.9


@needs_shared_data
def test_mnist_without_privacy_passes_96_67_percent_on_the_canonical_test_images() -> None:
    result = run(
        "mnist",
        sites=10,
        privacy__unit="none",
        rounds=5,
        training__optimizer="momentum",
        training__sample_rate=0.01,
        training__steps=200,
        training__learning_rate=0.1,
        aggregation__momentum=0.4,
        aggregation__iterate_averaging=0.0,
    )
    assert result.rounds[-1].figures["accuracy"] > 0.9667


@needs_shared_data
def test_credit_tells_defaulters_from_payers() -> None:
    result = run("credit", sites=20, rounds=10)
    assert result.rounds[-1].figures["auroc"] > 0.68


@pytest.mark.parametrize("name", [name for name in SCENARIOS if SCENARIOS[name].needs_data])
def test_missing_data_is_said_with_the_option_that_names_it(name: str, tmp_path: Path) -> None:
    plan = read_plan(scenario(name).settings)
    with pytest.raises(DataInvalid, match="--data DIR"):
        simulate(load_task(plan.task), plan, 10, Options(data_folder=tmp_path))


def test_an_unknown_scenario_names_the_nearest() -> None:
    with pytest.raises(PlanInvalid, match="did you mean 'digits'"):
        scenario("digit")


def test_the_projects_own_flower_app_is_the_breast_cancer_scenario() -> None:
    config = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    expected = {"name": "breast-cancer", **SCENARIOS["breast-cancer"].settings}
    assert expected.items() <= flatten(config).items()
    assert read_plan(flatten(config)).data.rows_per_site is not None
