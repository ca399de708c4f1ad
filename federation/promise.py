"""What a plan promises: the mechanisms of one round, and what they cost. Each side computes it for itself."""

from __future__ import annotations

from dataclasses import replace

from federation.plan import Plan
from federation.statistics import bound
from federation.task import Task
from privacy.accountant import Budget, calibrate, epsilon
from privacy.entries import Permission, Purpose
from privacy.mechanism import Mechanism

# A unit counts one, is right by at most one, and loses at most one: federation/private_metrics.py
METRICS_BOUND = 3**0.5


def budget(plan: Plan) -> Budget:
    """What each site may spend over the whole run."""
    return Budget(epsilon=plan.privacy.epsilon, delta=plan.privacy.delta)


def permissions(plan: Plan) -> tuple[Permission, ...]:
    """What a site's budget must allow besides the plan's unit of privacy, because the server could read it."""
    if not plan.is_encrypted or plan.encryption.simulate == "sizes":
        return ("plain-updates",)
    return ("server-release",) if plan.release == "server" else ()


def round_mechanism(plan: Plan) -> Mechanism:
    """The mechanism of every round's update in a private plan, calibrated once over all steps that a site may join.

    Private metrics and statistics that the plan asks for are paid from the same budget. Under unit client a round is
    one release of the whole update: how it was trained and who was asked changes nothing.

    Raises:
        ValueError: the plan is not private.
        PlanInvalid: no noise is enough for its epsilon.
    """
    if not plan.is_private:
        raise ValueError("a plan without privacy has no mechanism")
    whole = plan.privacy.unit == "client"
    sample_rate, steps = (1.0, 1) if whole else (plan.training.sample_rate, plan.training.steps)
    noise_multiplier = plan.privacy.noise_multiplier
    if noise_multiplier is None:
        metrics, statistics = metrics_mechanism(plan), statistics_mechanism(plan, 1.0)
        repeated = None if metrics is None else replace(metrics, steps=_rounds(plan))
        beside = tuple(mechanism for mechanism in (repeated, statistics) if mechanism is not None)
        noise_multiplier = calibrate(budget(plan), sample_rate, steps * _rounds(plan), beside)
    return Mechanism(
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
        max_grad_norm=plan.privacy.max_grad_norm,
        unit=plan.privacy.unit,
    )


def metrics_mechanism(plan: Plan) -> Mechanism | None:
    """The mechanism of every round's metrics; None where the plan asks for none, or for exact ones.

    Raises:
        PlanInvalid: no noise is enough for their share of epsilon.
    """
    if plan.metrics != "private":
        return None
    noise_multiplier = plan.privacy.metrics_noise_multiplier
    if noise_multiplier is None:
        share = Budget(epsilon=plan.privacy.epsilon * plan.privacy.metrics_share, delta=plan.privacy.delta)
        noise_multiplier = calibrate(share, 1.0, _rounds(plan))
    return _one_release(plan, noise_multiplier, METRICS_BOUND)


def statistics_mechanism(plan: Plan, bound: float) -> Mechanism | None:
    """The mechanism of the one release of statistics before the first round; None where the plan asks for none.

    bound: on the L2 norm of what one unit contributes, as `federation.statistics.bound` gives it

    Raises:
        PlanInvalid: no noise is enough for their share of epsilon.
    """
    if plan.statistics != "private":
        return None
    share = Budget(epsilon=plan.privacy.epsilon * plan.privacy.statistics_share, delta=plan.privacy.delta)
    return _one_release(plan, calibrate(share, 1.0, 1), bound)


def prices(plan: Plan, task: Task) -> dict[Purpose, Mechanism | None]:
    """The mechanism of each purpose for which a run of this plan releases anything; None: it is exact.

    Raises:
        PlanInvalid: no noise is enough for its epsilon.
    """
    found: dict[Purpose, Mechanism | None] = {"update": round_mechanism(plan) if plan.is_private else None}
    if plan.metrics != "none":
        found["metrics"] = metrics_mechanism(plan)
    if plan.statistics != "none" and task.statistics:
        found["statistics"] = statistics_mechanism(plan, bound(task.statistics))
    return found


def run_releases(plan: Plan, rounds: int) -> list[Mechanism]:
    """All that a site releases that joins so many rounds. Raises as `round_mechanism`."""
    statistics = statistics_mechanism(plan, 1.0)
    repeated = [replace(mechanism, steps=mechanism.steps * rounds) for mechanism in round_releases(plan) if rounds]
    return repeated if statistics is None else [statistics, *repeated]


def round_releases(plan: Plan) -> list[Mechanism]:
    """All that one round of a private plan releases of a site. Raises as `round_mechanism`."""
    metrics = metrics_mechanism(plan)
    return [round_mechanism(plan)] if metrics is None else [round_mechanism(plan), metrics]


def rounds_within_budget(plan: Plan) -> int:
    """How many rounds one site may join before its budget refuses; at most the planned ones."""
    fits, beyond = 0, plan.rounds + 1
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        cost = epsilon(run_releases(plan, middle), plan.privacy.delta)
        fits, beyond = (middle, beyond) if cost <= plan.privacy.epsilon else (fits, middle)
    return fits


def _one_release(plan: Plan, noise_multiplier: float, bound: float) -> Mechanism:
    """The Gaussian mechanism, once, on a sum to which every unit adds a vector of at most this L2 norm."""
    return Mechanism(
        noise_multiplier=noise_multiplier, sample_rate=1.0, steps=1, max_grad_norm=bound, unit=plan.privacy.unit
    )


def _rounds(plan: Plan) -> int:
    """The rounds for which noise is calibrated."""
    return plan.privacy.rounds_per_site or plan.rounds
