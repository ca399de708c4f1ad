"""The noise of a step is sigma times the bound over the denominator, whatever a site holds, and never another's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from federation.layout import Layout
from federation.rows import Rows
from privacy.noise import RandomStream
from tests.client_builders import (
    ALARM,
    PRIVATE,
    DotTask,
    GivenTask,
    Vector,
    dots,
    heard,
    mechanism,
    order,
    plan,
    private_update,
    protection,
    site,
    training,
)


def has_sigma(sample: Vector, sigma: float) -> bool:
    """A two-sided chi-square test of the variance about zero."""
    statistic = float((sample.astype(np.float64) ** 2).sum()) / sigma**2
    return bool(stats.chi2.ppf(ALARM, len(sample)) < statistic < stats.chi2.isf(ALARM, len(sample)))


class Indifferent(GivenTask):
    """A loss that no parameter moves."""

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        return model(batch["x"]).sum(dim=1) * 0


@pytest.mark.parametrize(
    ("noise_multiplier", "bound", "denominator", "learning_rate", "steps"),
    [(1.0, 1.0, 1.0, 1.0, 1), (0.5, 4.0, 20.0, 0.1, 1), (2.0, 0.1, 0.5, 3.0, 9)],
)
@pytest.mark.parametrize("mode", ["hooks", "ew"])
def test_the_noise_is_sigma_times_bound_over_denominator(
    noise_multiplier: float, bound: float, denominator: float, learning_rate: float, steps: int, mode: str
) -> None:
    facts = mechanism(noise_multiplier=noise_multiplier, max_grad_norm=bound, steps=steps)
    settings = heard(RandomStream.from_seed(2), training(learning_rate=learning_rate), grad_sample_mode=mode)
    task = Indifferent(lambda: nn.Linear(40, 200))
    rows = Rows(fields={"x": torch.ones(3, 40)})
    update = private_update(task, rows, protection(facts, denominator), settings)
    sigma = noise_multiplier * bound / denominator * learning_rate * steps**0.5
    for part in Layout.of(task.model()).parts(update):
        assert has_sigma(part.ravel(), sigma)
        if part.size > 1000:
            assert not has_sigma(part.ravel(), sigma * 2 / 3)
            assert not has_sigma(part.ravel(), sigma * 3 / 2)


def test_noise_does_not_shrink_with_more_records_or_more_physical_batches() -> None:
    task = Indifferent(lambda: nn.Linear(40, 200))
    for records, physical in ((1, 1024), (30, 1024), (30, 4)):
        settings = heard(RandomStream.from_seed(records, physical), max_physical_batch=physical)
        assert has_sigma(private_update(task, Rows(fields={"x": torch.ones(records, 40)}), settings=settings), 1.0)


def test_noise_of_two_sites_is_not_the_same() -> None:
    agreed = plan(PRIVATE)
    task = DotTask(50, dots(*torch.zeros(9, 50).tolist()))
    updates = [site(task, agreed, seed=seed).train(order(task, agreed)).update for seed in (1, 2, None, None)]
    for first in range(4):
        for second in range(first):
            assert not np.isin(updates[first], updates[second]).any()


@pytest.mark.parametrize("records", [0, 3])
def test_a_step_that_draws_nobody_is_noise_alone(records: int) -> None:
    facts = mechanism(sample_rate=1e-12, noise_multiplier=2.0)
    update = private_update(
        DotTask(4), Rows(fields={"x": torch.ones(records, 4)}), protection(facts, 8), heard(RandomStream.from_seed(4))
    )
    expected = RandomStream.from_seed(4)
    expected.coins(records, 1e-12)
    expected.uniforms(1)  # seeds the step's augmentation
    assert update.tolist() == pytest.approx((-expected.normals(4) * 2.0 / 8).tolist(), abs=1e-7)
