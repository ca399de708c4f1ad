"""Seeded training repeats bit for bit, unseeded never, and neither leaves a trace in torch's generator or the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clients.training import train_privately
from federation.rows import Rows
from federation.task import Task
from privacy.noise import RandomStream
from tests.client_builders import (
    FULL_STEP,
    DotTask,
    GivenTask,
    Quiet,
    dots,
    dropping,
    heard,
    mechanism,
    perceptron,
    plain_update,
    private_update,
    protection,
    quiet,
    tables,
    training,
)


class Shaky(GivenTask):
    """A task that adds random numbers to its batches."""

    def augment(self, batch: Rows, generator: torch.Generator) -> Rows:
        return batch.replace(x=batch["x"] + torch.rand(batch["x"].shape, generator=generator))


@pytest.mark.parametrize("task", [GivenTask(perceptron), GivenTask(dropping), Shaky(perceptron)])
@pytest.mark.parametrize("private", [True, False])
def test_seeded_training_repeats_bit_for_bit(task: Task, private: bool) -> None:
    def update(seed: int) -> list[float]:
        torch.rand(seed + 1)  # whatever the process drew before
        settings = heard(RandomStream.from_seed(seed), training(sample_rate=0.6, steps=3))
        facts = protection(mechanism(sample_rate=0.6, steps=3, noise_multiplier=0.1))
        trained = private_update(task, tables(), facts, settings) if private else plain_update(task, tables(), settings)
        return trained.tolist()  # type: ignore[no-any-return]

    assert update(1) == update(1)
    assert update(1) != update(2)


def test_dropout_differs_between_seeds_that_share_everything_else() -> None:
    updates = []
    for seed in (1, 2):
        stream = Quiet()
        stream.uniforms(seed)
        updates.append(private_update(GivenTask(dropping), tables(), settings=heard(stream)))
    assert not np.allclose(updates[0], updates[1])


def test_seeded_dropout_leaves_torchs_own_generator_as_it_was() -> None:
    task = GivenTask(dropping)
    model = task.model()
    torch.manual_seed(5)
    private_update(task, tables(), model=model)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


def test_noise_from_the_system_never_repeats() -> None:
    first, second = (
        private_update(DotTask(100), dots([0.0] * 100), settings=heard(RandomStream.from_system(), FULL_STEP))
        for _ in range(2)
    )
    assert not np.isin(first, second).any()


def test_an_augmented_batch_is_drawn_anew_each_step() -> None:
    seen: list[float] = []

    class Noting(Shaky):
        def loss(self, model: nn.Module, batch: Rows) -> Tensor:
            seen.append(float(batch["x"].sum()))
            return super().loss(model, batch)

    private_update(Noting(perceptron), tables(), protection(mechanism(steps=4)))
    assert len(set(seen)) == 4


def test_a_crash_in_the_loss_leaves_the_model_usable() -> None:
    class Breaking(GivenTask):
        broken = True

        def loss(self, model: nn.Module, batch: Rows) -> Tensor:
            losses = super().loss(model, batch)
            if self.broken:
                raise ZeroDivisionError
            return losses

    task = Breaking(perceptron)
    model = task.model()
    with pytest.raises(ZeroDivisionError):
        train_privately(task, model, tables(), protection(), quiet())
    task.broken = False
    assert private_update(task, tables(), model=model).tolist() == private_update(task, tables()).tolist()
