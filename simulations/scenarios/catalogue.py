"""The scenarios by name: a task, how many sites, and the settings that win on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from federation.plan import Scalar
from privacy.errors import PlanInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A federation to run by name.

    settings:   the plan, as dotted keys; what is not named has the plan's default
    needs_data: whether `--data DIR` must name a folder that holds the records
    """

    name: str
    summary: str
    sites: int
    settings: Mapping[str, Scalar]
    needs_data: bool = False


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="breast-cancer",
            summary="8 hospitals, 569 biopsies with 30 measurements (scikit-learn): malignant or benign; linear model",
            sites=8,
            settings={
                "task": "simulations.scenarios.breast_cancer:task",
                "rounds": 20,
                "privacy.epsilon": 3.0,
                "privacy.delta": 1e-3,
                "privacy.max_grad_norm": 0.1,
                "training.learning_rate": 40.0,
                "aggregation.optimizer": "fedavgm",
                "aggregation.iterate_averaging": 0.9,
            },
        ),
        Scenario(
            name="digits",
            summary="20 clients with uneven classes, 1,797 digits of 8 x 8 pixels (scikit-learn); small CNN",
            sites=20,
            settings={
                "task": "simulations.scenarios.digits:task",
                "rounds": 30,
                "privacy.epsilon": 8.0,
                "privacy.delta": 1e-4,
                "privacy.max_grad_norm": 0.3,
                "training.learning_rate": 5.0,
                "aggregation.weights": "declared",
                "aggregation.optimizer": "fedavgm",
                "aggregation.iterate_averaging": 0.9,
                "data.partition": "dirichlet",
                "data.alpha": 0.5,
            },
        ),
        Scenario(
            name="mnist",
            summary="100 clients, 70,000 handwritten digits of 28 x 28 pixels; MLP 784-64-64-10",
            sites=100,
            settings={
                "task": "simulations.scenarios.mnist:task",
                "rounds": 20,
                "privacy.epsilon": 8.0,
                "privacy.delta": 1e-5,
                "privacy.max_grad_norm": 0.1,
                "training.sample_rate": 0.25,
                "training.learning_rate": 10.0,
                "aggregation.optimizer": "fedavgm",
                "aggregation.iterate_averaging": 0.8,
                "encryption.bits": 14,
            },
            needs_data=True,
        ),
        Scenario(
            name="credit",
            summary="100 banks, 30,000 credit-card customers: default next month or not; MLP on 29 columns",
            sites=100,
            settings={
                "task": "simulations.scenarios.credit:task",
                "rounds": 20,
                "privacy.epsilon": 3.0,
                "privacy.delta": 1e-4,
                "privacy.max_grad_norm": 2.0,
                "training.learning_rate": 0.5,
                "aggregation.optimizer": "fedavgm",
                "aggregation.iterate_averaging": 0.8,
                "encryption.bits": 14,
            },
            needs_data=True,
        ),
        Scenario(
            name="synthetic",
            summary="any number of sites, 50 records each, drawn from two Gaussians; for trying out scale",
            sites=1000,
            settings={
                "task": "simulations.scenarios.synthetic:task",
                "rounds": 5,
                "privacy.epsilon": 3.0,
                "privacy.delta": 1e-3,
                "privacy.max_grad_norm": 0.1,
                "training.learning_rate": 5.0,
                "aggregation.optimizer": "fedavgm",
                "cohort.share": 0.1,
                "encryption.bits": 14,
            },
        ),
    )
}


def scenario(name: str) -> Scenario:
    """The scenario of that name.

    Raises:
        PlanInvalid: there is none; says which is nearest.
    """
    if name not in SCENARIOS:
        near = get_close_matches(name, SCENARIOS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise PlanInvalid(
            f"there is no scenario {name!r}; {hint}`fedseal scenarios` lists them: {', '.join(SCENARIOS)}"
        )
    return SCENARIOS[name]
