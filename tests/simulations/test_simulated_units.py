"""Simulations that protect groups or clients: they repeat, spend what the plan says, and still learn."""

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
from privacy.errors import DataInvalid, ModelUnsupported
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


CROWD: dict[str, Scalar] = {"privacy.unit": "client", "rounds": 3, "privacy.epsilon": 8.0, "training.steps": 2}


def phones(count: int) -> list[Rows]:
    """Sites of a few records each; every tenth trains on none."""
    sites = [patients(seed, 5, 2) for seed in range(count)]
    return [
        Rows(fields=rows.fields, held_out=torch.ones(10, dtype=torch.bool) if number % 10 == 0 else None)
        for number, rows in enumerate(sites)
    ]


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_two_hundred_clients_train_and_each_spends_what_its_rounds_cost(share: float) -> None:
    agreed = plan({**CROWD, "cohort.share": share, "training.learning_rate": 1.0, "encryption.bits": 14})
    sites = phones(200)
    result = simulate(TASK, agreed, sites)
    assert [len(record.answered) for record in result.rounds] == [int(200 * share)] * 3
    assert not any(record.refused for record in result.rounds)
    mechanism = round_mechanism(agreed)
    price = [0.0, *(epsilon([mechanism] * rounds, agreed.privacy.delta) for rounds in (1, 2, 3))]
    assert price[3] == pytest.approx(8.0, abs=1e-2)
    assert price[3] <= 8.0
    assert all((site.epsilon or 0.0) == price[site.rounds] and site.declared_rows == 0 for site in result.sites)
    assert sum(site.rounds for site in result.sites) == int(200 * share) * 3
    if share == 1:
        assert result.rounds[-1].figures["accuracy"] > 0.9
        assert simulate(TASK, agreed, sites, Options(workers=2)).run.vector.tobytes() == result.run.vector.tobytes()


def test_clients_are_never_served_with_a_model_that_keeps_statistics_of_their_records() -> None:
    task = GivenTask(lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    with pytest.raises(ModelUnsupported, match="1 is BatchNorm1d; use GroupNorm"):
        simulate(task, plan(CROWD), phones(3))
