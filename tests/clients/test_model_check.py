"""What can't be protected is refused: models that keep or mix records, and losses that aren't one a record."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.model_check import refuse_dependent_losses, refuse_unsupported_model
from federation.rows import Rows
from federation.task import Task
from privacy.errors import ModelUnsupported, TaskInvalid
from tests.client_builders import (
    MODELS,
    MODES,
    NAMES,
    PRIVATE,
    GivenTask,
    Vector,
    dropping,
    order,
    perceptron,
    plain_update,
    plan,
    private_update,
    quiet,
    site,
    tables,
)


def test_batch_norm_is_refused_by_its_name_with_its_replacement() -> None:
    body = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), nn.ReLU())
    with pytest.raises(ModelUnsupported, match=r"0\.1 is BatchNorm2d: use GroupNorm\("):
        refuse_unsupported_model(body)
    refuse_unsupported_model(nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8)), nn.ReLU()))


class Diary(nn.Module):
    """Writes what it sees into a buffer."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(6))

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen += inputs.detach().sum(dim=0)
        return inputs


@pytest.mark.parametrize("mode", MODES)
def test_a_module_that_writes_records_into_a_buffer_is_refused(mode: str) -> None:
    task = GivenTask(lambda: nn.Sequential(Diary(), nn.Linear(6, 3)))
    with pytest.raises(ModelUnsupported, match=r"0\.seen"):
        private_update(task, tables(), settings=quiet(grad_sample_mode=mode))


class Positional(nn.Module):
    """Trainable parameters and a buffer in one module, which Opacus can't serve."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(6))
        self.weight = nn.Parameter(torch.zeros(6, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs * self.scale) @ self.weight


def test_a_buffer_beside_parameters_is_refused_by_name_before_a_record_is_read() -> None:
    task = GivenTask(lambda: nn.Sequential(nn.Flatten(), Positional()))
    agreed = plan(PRIVATE)
    with pytest.raises(ModelUnsupported, match="1 is Positional"):
        site(task, agreed).train(order(task, agreed))


class Centred(GivenTask):
    """A loss that is normalised over the batch."""

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        losses = super().loss(model, batch)
        return losses - losses.mean()


class Functional(nn.Module):
    """Batch normalisation as a function, which no list of modules shows."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.mean = torch.zeros(6)
        self.last = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        wide = inputs if self.dimensions == 2 else inputs[:, :, None].expand(-1, -1, 2) * torch.tensor([1.0, 2.0])
        normed = functional.batch_norm(wide, self.mean, self.mean + 1, training=self.training, momentum=0.0)
        found: Tensor = self.last(normed if self.dimensions == 2 else normed[:, :, 0])
        return found


def trained_at_a_site(task: Task) -> Vector:
    agreed = plan(PRIVATE)
    return site(task, agreed).train(order(task, agreed)).update


MIXING = {
    "centred loss": Centred(perceptron, tables()),
    "centred loss behind dropout": Centred(lambda: nn.Sequential(nn.Linear(6, 5), nn.Dropout(), nn.Linear(5, 3))),
    "functional batch norm": GivenTask(lambda: Functional(2), tables()),
    "functional batch norm of sequences": GivenTask(lambda: Functional(3), tables()),
    "functional batch norm before dropout": GivenTask(lambda: nn.Sequential(Functional(2), nn.Dropout(0.2))),
}


@pytest.mark.parametrize("task", MIXING.values(), ids=MIXING)
def test_a_loss_that_mixes_records_is_refused(task: Task) -> None:
    with pytest.raises(TaskInvalid, match="records beside it"):
        refuse_dependent_losses(task, task.model(), tables())


def test_a_site_refuses_a_loss_that_mixes_records() -> None:
    with pytest.raises(TaskInvalid, match="records beside it"):
        trained_at_a_site(Centred(perceptron, tables()))


class DroppingFunction(nn.Module):
    """Dropout as a function, which no list of modules shows."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.dropout(inputs, 0.5, training=self.training)


@pytest.mark.parametrize(
    ("build", "rows"),
    [
        *MODELS,
        (lambda: nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3)), tables),
        (lambda: nn.Sequential(nn.Linear(6, 5), DroppingFunction(), nn.Linear(5, 3)), tables),
    ],
    ids=[*NAMES, "dropout", "functional dropout"],
)
def test_a_loss_of_each_record_alone_is_not_refused(build, rows) -> None:  # type: ignore[no-untyped-def]
    refuse_dependent_losses(GivenTask(build), build(), rows())


def test_looking_for_mixed_losses_draws_nothing_from_torchs_generator() -> None:
    model = dropping()
    torch.manual_seed(5)
    refuse_dependent_losses(GivenTask(dropping), model, tables())
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)


class Shaped(GivenTask):
    """A loss of the wrong shape: one number for the batch, a column, or twice too many."""

    def __init__(self, reduction: str) -> None:
        super().__init__(perceptron, tables())
        self._reduction = reduction

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        losses = super().loss(model, batch)
        wrong = {"mean": losses.mean(), "column": losses[:, None], "twice": losses.repeat(2)}
        return wrong[self._reduction]


@pytest.mark.parametrize("reduction", ["mean", "column", "twice"])
def test_a_loss_of_the_wrong_shape_is_refused(reduction: str) -> None:
    task = Shaped(reduction)
    for act in (
        lambda: private_update(task, tables()),
        lambda: plain_update(task, tables(), quiet()),
        lambda: trained_at_a_site(task),
    ):
        with pytest.raises(TaskInvalid, match="one loss a record"):
            act()
