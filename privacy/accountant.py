"""Epsilon of any list of mechanisms, and the noise that a target epsilon needs.

Interprets facts and stores nothing. The figure is Google dp-accounting's privacy loss distribution (PLD; Doroshenko et
al. 2022, "Connect the Dots", pessimistic estimate, so never below the truth), or, where every batch is full, the exact
cost of the one Gaussian that the releases amount to (Balle and Wang 2018, theorem 8). Rényi DP (Mironov 2017) is the
cross-check. Neighbouring relation: add-or-remove-one. Gaussian DP / CLT is never offered: it lies below the proven
lower bound. Heterogeneous lists compose: the accountant is never reset between rounds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import TypeAlias

import dp_accounting
from dp_accounting import pld, rdp
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

from privacy.errors import MechanismUnsound, PlanInvalid
from privacy.mechanism import Mechanism

Composition: TypeAlias = tuple[tuple[float, float, int], ...]  # (noise multiplier, sample rate, steps), sorted

_COARSEST_GRID, _FINEST_GRID, _GRID_PER_EPSILON = 1e-2, 1e-4, 2e-4
_LEAST_NOISE, _MOST_NOISE, _MOST_STEPS = 1e-2, 1e9, 10**9  # beyond them nobody asks in earnest
_LARGEST_PLD = 2_000.0  # epsilon by RDP beyond which a PLD takes minutes and gigabytes
_ROOT_TOLERANCE = 1e-9  # added, so that the library's root finding never lands below the truth
_WHOLE_ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 384, 512, 1024)
_FRACTIONAL_ORDERS = tuple(
    1 + tenth / 10 for tenth in range(1, 10)
)  # only the unsampled Gaussian has them in closed form


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be spent: epsilon > 0 at 0 < delta < 1."""

    epsilon: float
    delta: float


def accountant_name() -> str:
    """Which accountant gives the figures, with its version, for reports."""
    return f"dp-accounting {version('dp-accounting')} PLD, exact Gaussian at sample rate 1"


def epsilon(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """The epsilon that these mechanisms cost together at `delta`, by PLD. Zero for none.

    Raises:
        MechanismUnsound: the mechanisms hide different units, or delta is not in (0, 1).
    """
    return _pld_epsilon(_composition(mechanisms), _checked(delta))


def epsilon_by_rdp(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """The same by Rényi DP: looser, independent of the PLD's grid; the cross-check.

    Raises:
        MechanismUnsound: as `epsilon`.
    """
    return _rdp_epsilon(_composition(mechanisms), _checked(delta))


@lru_cache(maxsize=256)
def calibrate(budget: Budget, sample_rate: float, steps: int, beside: tuple[Mechanism, ...] = ()) -> float:
    """The smallest noise multiplier (to 1e-4) for which `steps` steps at `sample_rate` cost at most the budget.

    beside: what else is released, and paid from the same budget

    Raises:
        PlanInvalid: no noise multiplier up to 10,000 is enough.
    """
    others = _composition(beside)

    def composition(noise_multiplier: float) -> Composition:
        return tuple(sorted(((noise_multiplier, sample_rate, steps), *others)))

    def price(noise_multiplier: float) -> float:
        return _pld_epsilon(composition(noise_multiplier), delta)

    delta = _checked(budget.delta)
    enough = 1.0
    while enough < 5_000 and _rdp_epsilon(composition(enough), delta) > budget.epsilon:
        enough *= 2  # by the cheap bound: a PLD of a cost far beyond the budget takes minutes and says no more
    while price(enough) > budget.epsilon:
        enough *= 2
        if enough > 10_000:
            raise PlanInvalid(
                f"no noise multiplier up to 10,000 keeps {steps} steps at sample rate {sample_rate} within "
                f"epsilon {budget.epsilon} at delta {budget.delta}: raise privacy.epsilon or plan fewer steps"
            )
    too_little = enough / 2
    while price(too_little) <= budget.epsilon:
        enough, too_little = too_little, too_little / 2
        if enough < 0.02:
            return enough
    while enough - too_little > 1e-4:
        middle = (enough + too_little) / 2
        if price(middle) <= budget.epsilon:
            enough = middle
        else:
            too_little = middle
    return enough


def _composition(mechanisms: Iterable[Mechanism]) -> Composition:
    steps: Counter[tuple[float, float]] = Counter()
    units = set()
    for mechanism in mechanisms:
        units.add(mechanism.unit)
        steps[mechanism.noise_multiplier, mechanism.sample_rate] += mechanism.steps
    if len(units) > 1:
        raise MechanismUnsound(
            f"mechanisms that hide different units ({', '.join(sorted(units))}) have no common epsilon"
        )
    return tuple(sorted((sigma, rate, count) for (sigma, rate), count in steps.items()))


def _checked(delta: float) -> float:
    if not 0 < delta < 1:
        raise MechanismUnsound(f"delta is {delta!r}, but must be in (0, 1)")
    return delta


def _event(composition: Composition) -> dp_accounting.DpEvent:
    return dp_accounting.ComposedDpEvent(
        [
            dp_accounting.SelfComposedDpEvent(
                dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
                if rate < 1
                else dp_accounting.GaussianDpEvent(sigma),
                count,
            )
            for sigma, rate, count in composition
        ]
    )


@lru_cache(maxsize=65_536)
def _rdp_epsilon(composition: Composition, delta: float) -> float:
    if not composition:
        return 0.0
    unsampled = all(rate == 1 for _, rate, _ in composition)
    orders = (*_FRACTIONAL_ORDERS, *_WHOLE_ORDERS) if unsampled else _WHOLE_ORDERS
    accountant = rdp.RdpAccountant(orders, dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    return float(accountant.compose(_event(composition)).get_epsilon(delta))


@lru_cache(maxsize=65_536)
def _pld_epsilon(composition: Composition, delta: float) -> float:
    if not composition:
        return 0.0
    if any(sigma < _LEAST_NOISE or sigma > _MOST_NOISE or count > _MOST_STEPS for sigma, _, count in composition):
        return math.inf
    if all(rate == 1 for _, rate, _ in composition):
        precision = math.fsum(count / sigma**2 for sigma, _, count in composition)
        return float(get_epsilon_gaussian(precision**-0.5, delta)) + _ROOT_TOLERANCE
    coarse = _rdp_epsilon(composition, delta)
    if not coarse < _LARGEST_PLD:
        return coarse if math.isfinite(coarse) else math.inf  # looser, and as much a bound
    accountant = pld.PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        value_discretization_interval=min(max(coarse * _GRID_PER_EPSILON, _FINEST_GRID), _COARSEST_GRID),
    )
    return float(accountant.compose(_event(composition)).get_epsilon(delta))
