"""Our epsilon against every independent reference we know of, and the noise calibrated from it."""

from __future__ import annotations

import math
from itertools import permutations

import dp_accounting
import pytest
from dp_accounting import pld
from opacus.accountants import PRVAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from privacy.accountant import Budget, accountant_name, calibrate, epsilon, epsilon_by_rdp
from privacy.errors import MechanismUnsound, PlanInvalid
from privacy.mechanism import Mechanism

# (sample rate, noise multiplier, steps, delta)
SAMPLED = [
    (0.01, 1.0, 1000, 1e-5),
    (0.01, 4.0, 10_000, 1e-5),
    (256 / 60_000, 1.1, 14_062, 1e-5),
    (0.1, 2.0, 100, 1e-3),
    (0.1, 1.0, 50, 1e-5),
    (0.5, 4.0, 40, 1e-4),
    (0.2, 8.0, 10, 1e-4),
    (0.001, 0.8, 5000, 1e-6),
]
FULL = [(1.0, 5.0, 20, 1e-5), (1.0, 1.0, 1, 1e-5), (1.0, 20.0, 40, 1e-3), (1.0, 0.5, 3, 1e-6), (1.0, 300.0, 1, 1e-5)]
MIXED = (
    Mechanism(noise_multiplier=2.0, sample_rate=0.1, steps=50, max_grad_norm=1.0),
    Mechanism(noise_multiplier=20.0, sample_rate=1.0, steps=10, max_grad_norm=0.3),
    Mechanism(noise_multiplier=1.0, sample_rate=0.01, steps=500, max_grad_norm=1.0),
)


def gaussian(sample_rate: float, noise_multiplier: float, steps: int) -> Mechanism:
    return Mechanism(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps, max_grad_norm=1.0)


def event(mechanism: Mechanism) -> dp_accounting.DpEvent:
    one = dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
    if mechanism.sample_rate < 1:
        one = dp_accounting.PoissonSampledDpEvent(mechanism.sample_rate, one)
    return dp_accounting.SelfComposedDpEvent(one, mechanism.steps)


def fine_pld(events: dp_accounting.DpEvent, delta: float) -> float:
    """dp-accounting at a grid of 1e-4, fed by us and not by the code under test."""
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    accountant = pld.PLDAccountant(relation, value_discretization_interval=1e-4)
    return accountant.compose(events).get_epsilon(delta)


def analytic_gaussian_epsilon(noise_multiplier: float, steps: int, delta: float) -> float:
    """Balle and Wang 2018, theorem 8, for `steps` full-batch releases: one Gaussian of sigma / sqrt(steps)."""
    sigma = noise_multiplier / math.sqrt(steps)

    def delta_at(at: float) -> float:
        return norm.cdf(0.5 / sigma - at * sigma) - math.exp(at + norm.logcdf(-0.5 / sigma - at * sigma))

    return brentq(lambda at: delta_at(at) - delta, 0.0, 200.0, xtol=1e-12) if delta_at(0.0) > delta else 0.0


def one_sampled_step_epsilon(rate: float, sigma: float, delta: float) -> float:
    """The exact cost of one Poisson-sampled step: N(0, s²) against (1-q) N(0, s²) + q N(1, s²), the worse way."""

    def delta_at(at: float) -> float:
        growth = math.exp(at)
        right = sigma**2 * math.log((growth - 1 + rate) / rate) + 0.5
        remove = (1 - rate - growth) * norm.sf(right / sigma) + rate * norm.sf((right - 1) / sigma)
        shrunk = math.exp(-at) - 1 + rate
        if shrunk <= 0:
            return remove
        left = sigma**2 * math.log(shrunk / rate) + 0.5
        add = norm.cdf(left / sigma) * (1 - growth * (1 - rate)) - growth * rate * norm.cdf((left - 1) / sigma)
        return max(remove, add)

    return brentq(lambda at: delta_at(at) - delta, 0.0, 100.0, xtol=1e-12)


@pytest.mark.parametrize(("rate", "sigma", "steps", "delta"), SAMPLED + FULL[:3])
def test_epsilon_is_dp_accountings_own_at_a_fine_grid(rate: float, sigma: float, steps: int, delta: float) -> None:
    mechanism = gaussian(rate, sigma, steps)
    assert epsilon([mechanism], delta) == pytest.approx(fine_pld(event(mechanism), delta), rel=0.01)


@pytest.mark.filterwarnings("ignore:Optimal order is the largest alpha:UserWarning")  # Opacus' RDP only sets the domain
@pytest.mark.parametrize(("rate", "sigma", "steps", "delta"), SAMPLED)
def test_epsilon_agrees_with_opacus_prv_and_stays_above_its_lower_bound(
    rate: float, sigma: float, steps: int, delta: float
) -> None:
    ours = epsilon([gaussian(rate, sigma, steps)], delta)
    prv = PRVAccountant()
    prv.history = [(sigma, rate, steps)]
    error = 0.005 * ours
    below, middle, above = prv._get_dprv(error, delta / 1000).compute_epsilon(delta, delta / 1000, error)
    assert above == prv.get_epsilon(delta, eps_error=error)
    assert below <= ours
    assert ours == pytest.approx(middle, rel=0.01)
    assert ours == pytest.approx(above, rel=0.01)


@pytest.mark.parametrize(("rate", "sigma", "steps", "delta"), FULL)
def test_full_batches_cost_what_the_analytic_gaussian_mechanism_costs_and_never_less(
    rate: float, sigma: float, steps: int, delta: float
) -> None:
    exact = analytic_gaussian_epsilon(sigma, steps, delta)
    ours = epsilon([gaussian(rate, sigma, steps)], delta)
    assert exact <= ours + 1e-9
    assert ours == pytest.approx(exact, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(("rate", "sigma"), [(0.5, 1.0), (0.1, 0.7), (0.01, 0.5), (0.9, 2.0)])
def test_one_sampled_step_costs_its_exact_hockey_stick_and_never_less(rate: float, sigma: float) -> None:
    exact = one_sampled_step_epsilon(rate, sigma, 1e-5)
    ours = epsilon([gaussian(rate, sigma, 1)], 1e-5)
    assert exact <= ours + 1e-9
    assert ours == pytest.approx(exact, rel=0.002)


@pytest.mark.parametrize(("rate", "sigma", "steps", "delta"), SAMPLED + FULL)
def test_renyi_never_costs_less_than_pld(rate: float, sigma: float, steps: int, delta: float) -> None:
    mechanism = gaussian(rate, sigma, steps)
    assert epsilon_by_rdp([mechanism], delta) >= epsilon([mechanism], delta)


@pytest.mark.parametrize(
    ("rate", "sigma", "steps", "published"),
    [
        (0.01, 4.0, 10_000, 1.26),  # Abadi et al. 2016, section 3: moments accountant
        (256 / 60_000, 1.1, 60 * 60_000 // 256, 3.01),  # TensorFlow Privacy's MNIST tutorial: RDP
    ],
)
def test_published_bounds_are_kept_and_bettered(rate: float, sigma: float, steps: int, published: float) -> None:
    mechanism = gaussian(rate, sigma, steps)
    assert 0.5 * published < epsilon([mechanism], 1e-5) < epsilon_by_rdp([mechanism], 1e-5) <= published


def test_a_mixed_list_costs_what_dp_accountings_composed_event_costs() -> None:
    composed = dp_accounting.ComposedDpEvent([event(mechanism) for mechanism in MIXED])
    assert epsilon(MIXED, 1e-5) == pytest.approx(fine_pld(composed, 1e-5), rel=0.01)


def test_a_mixed_list_costs_more_than_any_of_its_parts_and_no_more_than_their_sum() -> None:
    parts = [epsilon([mechanism], 1e-5 / 3) for mechanism in MIXED]
    assert max(epsilon([mechanism], 1e-5) for mechanism in MIXED) < epsilon(MIXED, 1e-5) < sum(parts)


def test_the_order_of_rounds_does_not_matter() -> None:
    assert {epsilon(order, 1e-5) for order in permutations(MIXED)} == {epsilon(MIXED, 1e-5)}
    assert {epsilon_by_rdp(order, 1e-5) for order in permutations(MIXED)} == {epsilon_by_rdp(MIXED, 1e-5)}


def test_two_halves_cost_what_the_whole_costs() -> None:
    half, whole = gaussian(0.1, 2.0, 50), gaussian(0.1, 2.0, 100)
    assert epsilon([half, half], 1e-5) == epsilon([whole], 1e-5)
    assert epsilon([half], 1e-5) < epsilon([whole], 1e-5)


def test_the_accountant_is_not_reset_by_a_round_of_another_kind() -> None:
    first, other = gaussian(0.1, 2.0, 50), gaussian(1.0, 20.0, 1)
    assert epsilon([first, other, first], 1e-5) > epsilon([first, first], 1e-5)


def test_the_clipping_bound_does_not_change_the_price() -> None:
    loose = Mechanism(noise_multiplier=2.0, sample_rate=0.1, steps=50, max_grad_norm=100.0)
    assert epsilon([loose], 1e-5) == epsilon([gaussian(0.1, 2.0, 50)], 1e-5)


def test_nothing_costs_nothing() -> None:
    assert epsilon([], 1e-5) == 0.0
    assert epsilon_by_rdp([], 1e-5) == 0.0


def test_hardly_any_noise_costs_a_great_deal() -> None:
    assert epsilon([gaussian(1.0, 0.05, 10)], 1e-5) >= 1000


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0, math.nan, math.inf])
def test_a_delta_that_is_no_probability_is_refused(delta: float) -> None:
    for price in (epsilon, epsilon_by_rdp):
        with pytest.raises(MechanismUnsound, match=r"delta is .*, but must be in \(0, 1\)"):
            price(MIXED, delta)
    with pytest.raises(MechanismUnsound, match="delta"):
        calibrate(Budget(epsilon=1.0, delta=delta), 1.0, 1)


def test_mechanisms_that_hide_different_units_have_no_common_epsilon() -> None:
    foreign = gaussian(1.0, 5.0, 1)
    object.__setattr__(foreign, "unit", "group")
    with pytest.raises(MechanismUnsound, match=r"different units \(group, record\)"):
        epsilon([gaussian(1.0, 5.0, 1), foreign], 1e-5)


@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps"),
    [(3.0, 1e-3, 1.0, 40), (8.0, 1e-5, 0.1, 100), (1.0, 1e-5, 0.01, 1000), (100.0, 1e-5, 1.0, 1)],
)
def test_calibrated_noise_keeps_the_budget_and_one_percent_less_breaks_it(
    target: float, delta: float, rate: float, steps: int
) -> None:
    sigma = calibrate(Budget(epsilon=target, delta=delta), rate, steps)
    assert epsilon([gaussian(rate, sigma, steps)], delta) <= target
    assert epsilon([gaussian(rate, 0.99 * sigma, steps)], delta) > target


def test_calibrated_noise_is_the_analytic_one_for_full_batches() -> None:
    sigma = calibrate(Budget(epsilon=3.0, delta=1e-3), 1.0, 40)
    exact = brentq(lambda at: analytic_gaussian_epsilon(at, 40, 1e-3) - 3.0, 1.0, 100.0)
    assert sigma == pytest.approx(exact, rel=1e-3)
    assert sigma >= exact - 1e-9


def test_noise_calibrated_for_a_whole_run_keeps_the_budget_when_the_run_is_split_over_rounds() -> None:
    sigma = calibrate(Budget(epsilon=3.0, delta=1e-3), 1.0, 40)
    rounds = [gaussian(1.0, sigma, 2)] * 20
    assert epsilon(rounds, 1e-3) == epsilon([gaussian(1.0, sigma, 40)], 1e-3)
    assert epsilon(rounds, 1e-3) <= 3.0 < epsilon([*rounds, gaussian(1.0, sigma, 2)], 1e-3)


def test_a_budget_that_no_noise_can_keep_is_refused_with_a_remedy() -> None:
    with pytest.raises(PlanInvalid, match=r"no noise multiplier up to 10,000 .* raise privacy.epsilon or plan fewer"):
        calibrate(Budget(epsilon=0.01, delta=1e-9), 1.0, 1_000_000)


def test_the_accountant_and_its_version_are_named() -> None:
    assert accountant_name().startswith("dp-accounting 0.6")
    assert "PLD" in accountant_name()
