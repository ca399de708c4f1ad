"""What one private release did: the facts that an accountant prices. Facts only, never an epsilon.

One kind exists today: the Poisson-sampled Gaussian of DP-SGD (Abadi et al. 2016, "Deep Learning with Differential
Privacy", Algorithm 1) under add-or-remove-one neighbouring. Unknown kinds, versions and units are refused: a mechanism
that can't be priced exactly is not priced at all.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from privacy.errors import MechanismUnsound

KIND = "poisson-sampled-gaussian/1"
NEIGHBOURING = "add-or-remove-one"
UNITS = ("record", "group", "client")

_FACTS = ("noise_multiplier", "sample_rate", "steps", "max_grad_norm", "unit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """One private release: Poisson-sampled Gaussian, composed `steps` times.

    noise_multiplier: noise standard deviation / max_grad_norm, dimensionless, > 0
    sample_rate:      probability that one unit enters one step, in (0, 1]
    steps:            number of compositions, >= 1
    max_grad_norm:    L2 bound on what one unit adds to a step: its gradient, or a client's whole update, > 0
    unit:             whose presence is hidden: "record", "group" (all records of one patient or customer at a site), or
                      "client" (a whole site, which then holds its data or none)

    Raises:
        MechanismUnsound: a value is outside these ranges.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    max_grad_norm: float
    unit: str = "record"

    def __post_init__(self) -> None:
        _require(_positive(self.noise_multiplier), "noise_multiplier", self.noise_multiplier, "a finite number > 0")
        _require(_positive(self.max_grad_norm), "max_grad_norm", self.max_grad_norm, "a finite number > 0")
        _require(
            _positive(self.sample_rate) and self.sample_rate <= 1, "sample_rate", self.sample_rate, "a number in (0, 1]"
        )
        _require(
            isinstance(self.steps, int) and not isinstance(self.steps, bool) and self.steps >= 1,
            "steps",
            self.steps,
            "a whole number >= 1",
        )
        _require(self.unit in UNITS, "unit", self.unit, f"one of {', '.join(UNITS)}")

    def facts(self) -> dict[str, str | int | float]:
        """The mechanism as plain values, with its kind and neighbouring relation, for ledgers, messages and reports."""
        return {"kind": KIND, "neighbouring": NEIGHBOURING, **{name: getattr(self, name) for name in _FACTS}}

    @staticmethod
    def from_facts(facts: Mapping[str, object]) -> Mechanism:
        """Reads back what `facts` wrote.

        Raises:
            MechanismUnsound: the kind or relation is unknown, a fact is missing, or a value is out of range.
        """
        if facts.get("kind") != KIND or facts.get("neighbouring") != NEIGHBOURING:
            raise MechanismUnsound(
                f"mechanism of kind {facts.get('kind')!r} under {facts.get('neighbouring')!r} can't be priced here; "
                f"this version prices {KIND!r} under {NEIGHBOURING!r} only"
            )
        values = {name: value for name, value in facts.items() if name not in ("kind", "neighbouring")}
        if values.keys() != set(_FACTS):
            raise MechanismUnsound(f"mechanism with the facts {sorted(values)}: one is missing or unknown")
        return Mechanism(**values)  # type: ignore[arg-type]


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise MechanismUnsound(f"mechanism {name} is {value!r}, but must be {wanted}")
