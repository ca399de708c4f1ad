"""What a plan promises: the mechanism of one round, and what it costs. Each side computes it for itself."""

from __future__ import annotations

from dataclasses import replace

from federation.plan import Plan
from privacy.accountant import Budget, calibrate, epsilon
from privacy.mechanism import Mechanism


def budget(plan: Plan) -> Budget:
    """What each site may spend over the whole run."""
    return Budget(epsilon=plan.privacy.epsilon, delta=plan.privacy.delta)


def round_mechanism(plan: Plan) -> Mechanism:
    """The mechanism of every round of a private plan, calibrated once over all steps that a site may join.

    Under unit client a round is one release of the whole update: how it was trained and who was asked changes nothing.

    Raises:
        ValueError: the plan is not private.
        PlanInvalid: no noise is enough for its epsilon.
    """
    if not plan.is_private:
        raise ValueError("a plan without privacy has no mechanism")
    whole = plan.privacy.unit == "client"
    sample_rate, steps = (1.0, 1) if whole else (plan.training.sample_rate, plan.training.steps)
    rounds = plan.privacy.rounds_per_site or plan.rounds
    noise_multiplier = plan.privacy.noise_multiplier
    if noise_multiplier is None:
        noise_multiplier = calibrate(budget(plan), sample_rate, steps * rounds)
    return Mechanism(
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
        max_grad_norm=plan.privacy.max_grad_norm,
        unit=plan.privacy.unit,
    )


def rounds_within_budget(plan: Plan) -> int:
    """How many rounds one site may join before its budget refuses; at most the planned ones."""
    mechanism = round_mechanism(plan)
    fits, beyond = 0, plan.rounds + 1
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        cost = epsilon([replace(mechanism, steps=mechanism.steps * middle)], plan.privacy.delta)
        fits, beyond = (middle, beyond) if cost <= plan.privacy.epsilon else (fits, middle)
    return fits
