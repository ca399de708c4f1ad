"""What a plan promises is what its releases cost: updates, metrics and statistics together, and not much less."""

from __future__ import annotations

import pytest

from federation.plan import Plan, Scalar
from federation.promise import (
    METRICS_BOUND,
    metrics_mechanism,
    round_mechanism,
    round_releases,
    rounds_within_budget,
    run_releases,
    statistics_mechanism,
)
from privacy.accountant import epsilon
from privacy.errors import PlanInvalid
from tests.client_builders import plan

FULL: dict[str, Scalar] = {"rounds": 6, "privacy.epsilon": 2.0}
SAMPLED: dict[str, Scalar] = {**FULL, "training.sample_rate": 0.2, "training.steps": 3}
CLIENT: dict[str, Scalar] = {**SAMPLED, "privacy.unit": "client"}
METRICS: dict[str, Scalar] = {"metrics": "private"}
STATISTICS: dict[str, Scalar] = {"statistics": "private"}
PLANS = {"full batches": FULL, "sampled batches": SAMPLED, "clients": CLIENT}
BESIDE = {"metrics": METRICS, "statistics": STATISTICS, "both": {**METRICS, **STATISTICS}}


def cost(agreed: Plan, rounds: int) -> float:
    return epsilon(run_releases(agreed, rounds), agreed.privacy.delta)


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("settings", PLANS.values(), ids=PLANS)
def test_all_that_a_run_releases_costs_its_epsilon_and_nearly_all_of_it(
    settings: dict[str, Scalar], beside: dict[str, Scalar]
) -> None:
    agreed = plan({**settings, **beside})
    assert 0.99 * agreed.privacy.epsilon < cost(agreed, agreed.rounds) <= agreed.privacy.epsilon
    assert cost(agreed, agreed.rounds + 1) > agreed.privacy.epsilon
    assert rounds_within_budget(agreed) == agreed.rounds


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_what_is_released_beside_updates_is_paid_with_their_noise(beside: dict[str, Scalar]) -> None:
    alone, together = (round_mechanism(plan({**FULL, **more})).noise_multiplier for more in ({}, beside))
    assert alone < together < 1.5 * alone


def test_a_plan_that_releases_updates_only_has_the_noise_that_it_always_had() -> None:
    before = {
        (): 6.21893310546875,
        (("training.sample_rate", 0.1), ("training.steps", 3)): 1.42205810546875,
    }
    for changes, noise_multiplier in before.items():
        agreed = plan(dict(changes))
        assert round_mechanism(agreed).noise_multiplier == noise_multiplier
        assert round_releases(agreed) == [round_mechanism(agreed)]
        assert (metrics_mechanism(agreed), statistics_mechanism(agreed, 1.0)) == (None, None)


def test_plain_metrics_cost_nothing_and_are_promised_nothing() -> None:
    agreed = plan({**FULL, "metrics": "plain"})
    assert metrics_mechanism(agreed) is None
    assert round_mechanism(agreed) == round_mechanism(plan(FULL))


def test_rounds_within_budget_count_metrics_and_statistics() -> None:
    fixed: dict[str, Scalar] = {"rounds": 90, "privacy.epsilon": 2.0, "privacy.noise_multiplier": 15.0}
    fixed |= {"privacy.metrics_share": 0.4, "privacy.statistics_share": 0.5}
    counts = [rounds_within_budget(plan({**fixed, **more})) for more in ({}, METRICS, STATISTICS, BESIDE["both"])]
    for more, count in zip(({}, *BESIDE.values()), counts, strict=True):
        agreed = plan({**fixed, **more})
        assert cost(agreed, count) <= 2.0 < cost(agreed, count + 1)
    assert counts[0] > max(counts[1:3]) >= min(counts[1:3]) > counts[3] > 0


def test_statistics_alone_may_be_all_that_a_budget_covers() -> None:
    agreed = plan({**FULL, **STATISTICS, "privacy.noise_multiplier": 0.5, "privacy.statistics_share": 0.9})
    assert rounds_within_budget(agreed) == 0
    assert cost(agreed, 0) == epsilon([statistics_mechanism(agreed, 1.0)], 1e-5)  # type: ignore[list-item]


@pytest.mark.parametrize("settings", PLANS.values(), ids=PLANS)
def test_metrics_and_statistics_cost_their_share_at_their_own_bound(settings: dict[str, Scalar]) -> None:
    agreed = plan({**settings, **BESIDE["both"], "privacy.metrics_share": 0.3, "privacy.statistics_share": 0.2})
    metrics, statistics = metrics_mechanism(agreed), statistics_mechanism(agreed, 4.5)
    assert metrics is not None
    assert statistics is not None
    assert epsilon([metrics] * 6, 1e-5) == pytest.approx(0.6, rel=1e-2)
    assert epsilon([statistics], 1e-5) == pytest.approx(0.4, rel=1e-2)
    assert (metrics.max_grad_norm, statistics.max_grad_norm) == (METRICS_BOUND, 4.5)
    for found in (metrics, statistics):
        assert (found.sample_rate, found.steps, found.unit) == (1.0, 1, agreed.privacy.unit)
    assert statistics.noise_multiplier == statistics_mechanism(agreed, 1.0).noise_multiplier  # type: ignore[union-attr]


def test_noise_is_calibrated_for_the_rounds_that_a_site_may_join() -> None:
    agreed = plan({**FULL, **BESIDE["both"], "privacy.rounds_per_site": 2})
    assert 0.99 * 2.0 < cost(agreed, 2) <= 2.0
    assert rounds_within_budget(agreed) == 2


def test_the_noise_of_metrics_may_be_given() -> None:
    agreed = plan({**FULL, **METRICS, "privacy.metrics_noise_multiplier": 40.0})
    assert metrics_mechanism(agreed).noise_multiplier == 40.0  # type: ignore[union-attr]
    assert 0.99 * 2.0 < cost(agreed, 6) <= 2.0


def test_metrics_that_leave_nothing_for_updates_are_refused() -> None:
    with pytest.raises(PlanInvalid, match="no noise multiplier up to"):
        round_mechanism(plan({**FULL, **METRICS, "privacy.metrics_noise_multiplier": 0.5}))
    with pytest.raises(PlanInvalid, match="leave no epsilon for the updates"):
        plan({**FULL, **BESIDE["both"], "privacy.metrics_share": 0.6, "privacy.statistics_share": 0.4})
    plan({**FULL, **METRICS, "privacy.metrics_share": 0.6, "privacy.statistics_share": 0.9})


@pytest.mark.parametrize("beside", [METRICS, STATISTICS])
def test_without_privacy_there_are_no_private_metrics_or_statistics(beside: dict[str, Scalar]) -> None:
    with pytest.raises(PlanInvalid, match=r"but privacy\.unit is 'none'"):
        plan({"privacy.unit": "none", **beside})
