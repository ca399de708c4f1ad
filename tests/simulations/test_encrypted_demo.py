"""The demo with and without encryption: the same figures, and models as near as rounding allows."""

from __future__ import annotations

import numpy as np
import pytest

from federation.plan import Plan
from federation.reading import read_plan
from federation.task import load_task
from simulations.scenarios.catalogue import scenario
from simulations.simulate import Options, Result, simulate

DEMO = scenario("breast-cancer")


def trained(**changes: str | int) -> Result:
    flat = {f"encryption.{name}": value for name, value in changes.items()}
    plan: Plan = read_plan({"name": DEMO.name, **DEMO.settings, **flat})
    return simulate(load_task(plan.task), plan, DEMO.sites, Options())


@pytest.fixture(scope="module")
def clear() -> Result:
    return trained(scheme="none")


@pytest.mark.parametrize(("bits", "apart"), [(12, 0.02), (16, 0.002), (24, 0.0001)])
def test_the_demo_gives_the_same_accuracy_encrypted(clear: Result, bits: int, apart: float) -> None:
    found = trained(scheme="bfv", bits=bits)
    assert found.run.vector is not None
    assert clear.run.vector is not None
    assert found.rounds[-1].figures["accuracy"] == clear.rounds[-1].figures["accuracy"]
    assert np.abs(found.run.vector - clear.run.vector).max() <= apart * np.abs(clear.run.vector).max()
    assert [site.epsilon for site in found.sites] == [site.epsilon for site in clear.sites]
    assert all(record.encryption and record.encryption.same_model == DEMO.sites for record in found.rounds)
