"""Simulations that protect groups: they repeat, declare groups, spend what the plan says, and still learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from federation.groups import held_out_groups
from federation.plan import Scalar
from federation.promise import round_mechanism
from federation.rows import Rows
from privacy.accountant import epsilon
from privacy.errors import DataInvalid
from server.records import RoundRecord
from simulations.simulate import Options, Result, simulate
from tests.client_builders import PRIVATE, GivenTask, plan

TASK = GivenTask(lambda: nn.Linear(2, 2))


def patients(seed: int, count: int = 40, visits: int = 3) -> Rows:
    """Records whose first column tells their class, of patients with the same number of visits each."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count * visits) % 2
    inputs = torch.randn(count * visits, 2, generator=generator)
    inputs[:, 0] += 4.0 * labels - 2
    return Rows(fields={"x": inputs, "y": labels}, units=torch.arange(count * visits) * 7 % count)


SITES = [patients(seed) for seed in range(4)]


def simulated(changes: dict[str, Scalar], options: Options | None = None) -> Result:
    agreed = plan({**PRIVATE, "privacy.unit": "group", "rounds": 3, **changes})
    return simulate(TASK, agreed, SITES, options)


def facts(result: Result) -> list[RoundRecord]:
    """The rounds without what a clock says."""
    return [replace(record, seconds={}) for record in result.rounds]


SAMPLED: dict[str, Scalar] = {"training.sample_rate": 0.5, "training.steps": 2, "privacy.records_per_group": 2}


def test_two_runs_that_protect_groups_are_the_same_bit_for_bit() -> None:
    first, second = simulated(SAMPLED), simulated(SAMPLED, Options(workers=2))
    assert first.run.vector.tobytes() == second.run.vector.tobytes()
    assert facts(first) == facts(second)


def test_a_simulated_site_divides_its_groups_as_the_plans_seed_says_and_declares_how_many_it_trains_on() -> None:
    """Gradients are divided by the groups: six times as many records make no six times larger step."""
    changes: dict[str, Scalar] = {"rounds": 1, "privacy.noise_multiplier": 0.5}
    vectors = []
    for visits in (1, 6):
        rows = patients(1, visits=visits)
        rows = rows.replace(x=1 + 1e-3 * rows["x"], y=torch.ones(len(rows), dtype=torch.int64))
        agreed = plan({**PRIVATE, "privacy.unit": "group", "privacy.delta": 1e-3, **changes})
        vectors.append(simulate(TASK, agreed, [rows, rows]).run.vector)
        train = float((~held_out_groups(rows, 0.2, 0)).double().mean())
        assert 0.6 < train < 1
    start = TASK.model().weight.detach().numpy().ravel()  # type: ignore[operator, union-attr]
    small, large = (((vector[:4] - start) ** 2).sum() ** 0.5 for vector in vectors)
    assert 0 < small < large < 3 * small


def test_the_spending_of_groups_is_the_accountants() -> None:
    agreed = plan({**PRIVATE, "privacy.unit": "group", "rounds": 3, **SAMPLED})
    mechanism = round_mechanism(agreed)
    assert mechanism.unit == "group"
    result = simulate(TASK, agreed, SITES)
    assert {site.epsilon for site in result.sites} == {epsilon([mechanism] * 3, agreed.privacy.delta)}


def test_a_run_that_protects_groups_learns() -> None:
    changes: dict[str, Scalar] = {"rounds": 10, "training.learning_rate": 0.5, "privacy.epsilon": 8.0}
    agreed = plan({"privacy.unit": "group", "privacy.delta": 1e-3, **changes})
    assert simulate(TASK, agreed, SITES).rounds[-1].figures["accuracy"] > 0.9


def test_rows_without_groups_are_refused_before_anything_is_trained() -> None:
    with pytest.raises(DataInvalid, match="give Rows their units"):
        simulate(TASK, plan({**PRIVATE, "privacy.unit": "group"}), [Rows(fields=rows.fields) for rows in SITES])


def test_rows_that_know_their_groups_train_by_record_as_if_they_did_not() -> None:
    agreed = plan({**PRIVATE, "rounds": 2})
    known = simulate(TASK, agreed, SITES).run.vector
    bare = simulate(TASK, agreed, [Rows(fields=rows.fields) for rows in SITES]).run.vector
    assert known.tobytes() == bare.tobytes()
