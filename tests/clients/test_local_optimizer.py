"""A site's optimizer takes torch's own steps; penalties and averages are those computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from federation.layout import Layout
from privacy.noise import RandomStream
from tests.client_builders import (
    DotTask,
    GivenTask,
    dots,
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


def start(*weights: float) -> nn.Module:
    model = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([weights]))
    return model


@pytest.mark.parametrize(
    ("chosen", "moved"),
    [
        ({"l2": 0.5}, [-0.25, 0.5, 0.0]),  # 0.5 * 0.5 * w
        ({"l1": 0.25}, [-0.125, 0.125, 0.0]),  # 0.5 * 0.25 * sign(w)
        ({"l1": 0.25, "l2": 0.5}, [-0.375, 0.625, 0.0]),
        ({"proximal": 8.0}, [0.0, 0.0, 0.0]),  # at the start there is no distance
    ],
)
def test_penalties_are_those_computed_by_hand(chosen: dict[str, float], moved: list[float]) -> None:
    settings = quiet(training(learning_rate=0.5, **chosen))
    model = start(1.0, -2.0, 0.0)
    assert private_update(DotTask(3), dots([0.0, 0.0, 0.0]), settings=settings, model=model).tolist() == moved


def test_the_proximal_penalty_pulls_the_second_step_back() -> None:
    # Step 1: w = -0.5 * 1. Step 2: gradient 1 + 0.5 * (-0.5) = 0.75, so w = -0.5 - 0.5 * 0.75.
    settings = quiet(training(learning_rate=0.5, proximal=0.5))
    update = private_update(
        DotTask(), dots(1.0), protection(mechanism(steps=2, max_grad_norm=2.0)), settings, start(0.0)
    )
    assert update.tolist() == [-0.875]


def test_a_penalty_is_added_beside_the_noise_and_not_clipped() -> None:
    update = private_update(DotTask(), dots(0.0), settings=quiet(training(l2=1.0)), model=start(64.0))
    assert update.tolist() == [-64.0]


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.3),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.3, momentum=0.8),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.3, betas=(0.8, 0.999)),
}


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_takes_torchs_steps_on_the_same_gradients(name: str, private: bool) -> None:
    task, rows = GivenTask(perceptron), tables()
    settings = quiet(training(optimizer=name, learning_rate=0.3, momentum=0.8, steps=4))
    if private:
        loose = protection(mechanism(steps=4, max_grad_norm=1e6), denominator=len(rows))
        update = private_update(task, rows, loose, settings)
    else:
        update = plain_update(task, rows, settings)
    model = task.model()
    layout, optimizer = Layout.of(model), OPTIMIZERS[name](model.parameters())
    before = layout.flatten(model)
    for _ in range(4):
        optimizer.zero_grad()
        task.loss(model, rows).mean().backward()
        optimizer.step()
    assert np.allclose(update, layout.flatten(model) - before, atol=2e-6)


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_average_of_iterates_is_numpys(decay: float) -> None:
    task, rows = GivenTask(perceptron), tables()
    iterates = [private_update(task, rows, protection(mechanism(steps=steps))) for steps in range(1, 6)]
    average = iterates[0].astype(np.float64)
    for iterate in iterates[1:]:
        average = decay * average + (1 - decay) * iterate
    settings = quiet(training(iterate_averaging=decay))
    assert np.allclose(private_update(task, rows, protection(mechanism(steps=5)), settings), average, atol=1e-6)
    assert not np.allclose(average, iterates[-1], atol=1e-3)


def test_training_without_privacy_is_plain_torch_on_the_same_batches() -> None:
    task, rows = DotTask(2), dots([1.0, 2.0], [3.0, -1.0], [0.5, 0.0], [4.0, 4.0], [0.0, 1.0])
    update = plain_update(task, rows, heard(RandomStream.from_seed(1), training(sample_rate=0.4, steps=6)))
    model = task.model()
    before, optimizer = model.weight.clone(), torch.optim.SGD(model.parameters(), lr=1.0)  # type: ignore[operator, union-attr]
    for batch in list(task.batches):
        optimizer.zero_grad()
        task.loss(model, rows.take(torch.tensor(batch))).mean().backward()
        optimizer.step()
    assert np.allclose(update, (model.weight - before).detach().numpy().ravel(), atol=1e-6)  # type: ignore[operator, union-attr]


def test_training_without_privacy_sees_every_record_once_an_epoch() -> None:
    task = DotTask()
    plain_update(task, dots(*range(5)), heard(RandomStream.from_seed(1), training(sample_rate=0.4, steps=6)))
    epochs = task.batches[:3], task.batches[3:]
    assert [[len(batch) for batch in epoch] for epoch in epochs] == [[2, 2, 1], [2, 2, 1]]
    assert [sorted(number for batch in epoch for number in batch) for epoch in epochs] == [[0, 1, 2, 3, 4]] * 2
    assert epochs[0] != epochs[1]
