"""A step's sum is that of gradients clipped record by record by hand, in every mode and physical batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clients.training import grad_sample_mode
from federation.layout import Layout
from privacy.noise import RandomStream
from tests.client_builders import (
    MODELS,
    MODES,
    NAMES,
    GivenTask,
    clipped_sum,
    convolution,
    heard,
    mechanism,
    perceptron,
    private_update,
    protection,
    quiet,
    tables,
)

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # Opacus' functorch on integer inputs


@pytest.mark.parametrize("bound", [0.05, 1.0, 1e4])
@pytest.mark.parametrize("mode", [*MODES, "auto"])
@pytest.mark.parametrize(("build", "rows"), MODELS, ids=NAMES)
def test_the_sum_is_that_of_gradients_clipped_one_by_one(build, rows, mode: str, bound: float) -> None:  # type: ignore[no-untyped-def]
    task, facts = GivenTask(build), protection(mechanism(max_grad_norm=bound), denominator=10)
    update = private_update(task, rows(), facts, quiet(grad_sample_mode=mode))
    assert np.allclose(update, -clipped_sum(task, rows(), bound) / 10, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("build", "rows"), MODELS, ids=NAMES)
def test_removing_one_record_moves_the_sum_by_at_most_the_bound(build, rows, mode: str, scale: float) -> None:  # type: ignore[no-untyped-def]
    bound, task, everybody = 0.01, GivenTask(build), rows(scale)
    facts, settings = protection(mechanism(max_grad_norm=bound)), quiet(grad_sample_mode=mode)
    full = private_update(task, everybody, facts, settings)
    moved = []
    for absent in (0, len(everybody) // 2):  # an ordinary record and the scaled one
        others = everybody.take(torch.arange(len(everybody)) != absent)
        moved.append(np.linalg.norm(full - private_update(task, others, facts, settings)))
    assert max(moved) <= bound * 1.001
    assert max(moved) >= bound * 0.9


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("physical", [1, 2, 3, 7])
def test_physical_batches_change_memory_and_not_the_result(physical: int, mode: str) -> None:
    task, facts = GivenTask(perceptron), protection(mechanism(steps=3, sample_rate=0.8, max_grad_norm=0.5), 5)
    whole, parts = (
        private_update(
            task,
            tables(),
            facts,
            heard(RandomStream.from_seed(1), max_physical_batch=size, grad_sample_mode=mode),
        )
        for size in (1024, physical)
    )
    assert np.allclose(whole, parts, atol=1e-6)


class HalfUsed(nn.Module):
    """A model with a layer that the loss never reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.used(inputs)
        return found


@pytest.mark.parametrize("mode", MODES)
def test_a_parameter_without_a_gradient_gets_noise_and_nothing_else(mode: str) -> None:
    task = GivenTask(HalfUsed)
    layout = Layout.of(task.model())
    unused = layout.names.index("unused.weight")
    silent = private_update(task, tables(), settings=quiet(grad_sample_mode=mode))
    assert not layout.parts(silent)[unused].any()
    assert layout.parts(silent)[0].any()
    noisy = private_update(task, tables(), settings=heard(RandomStream.from_seed(1), grad_sample_mode=mode))
    assert layout.parts(noisy)[unused].all()


def frozen_first() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize("mode", MODES)
def test_frozen_parameters_neither_move_nor_travel(mode: str) -> None:
    task = GivenTask(frozen_first)
    model = task.model()
    before = model[0].weight.clone()  # type: ignore[index, union-attr, operator]
    update = private_update(
        task, tables(), settings=heard(RandomStream.from_seed(1), grad_sample_mode=mode), model=model
    )
    assert update.shape == (5 * 3 + 3,)
    assert update.all()
    assert torch.equal(model[0].weight, before)  # type: ignore[index, union-attr, arg-type]


def test_a_layer_that_is_used_twice_is_clipped_as_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.last(self.shared(self.shared(inputs)))
            return found

    task = GivenTask(Twice)
    update = private_update(task, tables(), protection(mechanism(max_grad_norm=0.1)))
    assert np.allclose(update, -clipped_sum(task, tables(), 0.1), atol=1e-6)


def test_auto_chooses_expanded_weights_for_convolutions_and_hooks_for_the_rest() -> None:
    assert [grad_sample_mode(build(), "auto") for build, _ in MODELS] == ["hooks", "ew", "hooks", "ew", "hooks"]
    assert grad_sample_mode(convolution(), "functorch") == "functorch"
