"""Facts in, facts out, and no mechanism that an accountant can't price."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import MechanismUnsound
from privacy.mechanism import KIND, NEIGHBOURING, Mechanism

GOOD = {"noise_multiplier": 1.5, "sample_rate": 0.25, "steps": 4, "max_grad_norm": 0.5, "unit": "record"}
NOT_POSITIVE = [0, 0.0, -1.0, math.nan, math.inf, -math.inf, None, "1", True, [1.0], 10**400]


def test_facts_name_the_kind_the_relation_and_every_value() -> None:
    assert Mechanism(**GOOD).facts() == {
        "kind": "poisson-sampled-gaussian/1",
        "neighbouring": "add-or-remove-one",
        "noise_multiplier": 1.5,
        "sample_rate": 0.25,
        "steps": 4,
        "max_grad_norm": 0.5,
        "unit": "record",
    }


def test_facts_hold_no_epsilon() -> None:
    assert not [name for name in Mechanism(**GOOD).facts() if "epsilon" in name or "delta" in name]


@given(
    st.floats(min_value=1e-300, max_value=1e300),
    st.floats(min_value=0, max_value=1, exclude_min=True),
    st.integers(min_value=1, max_value=2**60),
    st.floats(min_value=1e-300, max_value=1e300),
)
@settings(deadline=None, max_examples=50)
def test_facts_come_back_from_json_as_the_same_mechanism(sigma: float, rate: float, steps: int, norm: float) -> None:
    mechanism = Mechanism(noise_multiplier=sigma, sample_rate=rate, steps=steps, max_grad_norm=norm)
    assert Mechanism.from_facts(json.loads(json.dumps(mechanism.facts()))) == mechanism


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("noise_multiplier", value) for value in NOT_POSITIVE],
        *[("max_grad_norm", value) for value in NOT_POSITIVE],
        *[("sample_rate", value) for value in [*NOT_POSITIVE, 1.0000001, 2]],
        *[("steps", value) for value in (0, -1, 1.0, 2.5, math.nan, math.inf, None, "1", True, Fraction(1))],
        *[("unit", value) for value in ("", "patient", "none", "Record", None, 1, ["record"])],
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_value_that_cannot_be_priced_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(MechanismUnsound, match=f"^mechanism {name} is .*, but must be "):
        Mechanism(**{**GOOD, name: value})
    with pytest.raises(MechanismUnsound, match=f"^mechanism {name} is .*, but must be "):
        Mechanism.from_facts({"kind": KIND, "neighbouring": NEIGHBOURING, **GOOD, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "poisson-sampled-gaussian/2"),
        ("kind", "poisson-sampled-gaussian"),
        ("kind", "fixed-size-sampled-gaussian/1"),
        ("kind", None),
        ("neighbouring", "replace-one"),
        ("neighbouring", ""),
    ],
)
def test_an_unknown_kind_version_or_relation_is_refused_not_guessed(name: str, value: object) -> None:
    with pytest.raises(MechanismUnsound, match="can't be priced here"):
        Mechanism.from_facts({**Mechanism(**GOOD).facts(), name: value})


@pytest.mark.parametrize("name", ["kind", "neighbouring", *GOOD])
def test_a_missing_fact_is_refused(name: str) -> None:
    facts = Mechanism(**GOOD).facts()
    del facts[name]
    with pytest.raises(MechanismUnsound):
        Mechanism.from_facts(facts)


def test_an_added_fact_is_refused() -> None:
    with pytest.raises(MechanismUnsound, match="missing or unknown"):
        Mechanism.from_facts({**Mechanism(**GOOD).facts(), "epsilon": 0.0})


def test_a_mechanism_cannot_be_changed_after_it_was_checked() -> None:
    mechanism = Mechanism(**GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        mechanism.noise_multiplier = 0.001  # type: ignore[misc]


def test_the_ends_of_the_ranges_are_allowed() -> None:
    assert Mechanism(**{**GOOD, "sample_rate": 1, "steps": 1}).sample_rate == 1


@pytest.mark.parametrize("unit", ["group", "client"])
def test_groups_and_clients_are_units_and_say_so_in_the_facts(unit: str) -> None:
    mechanism = Mechanism(**{**GOOD, "unit": unit})
    assert mechanism.facts()["unit"] == unit
    assert Mechanism.from_facts(mechanism.facts()) == mechanism != Mechanism(**GOOD)
