"""Attacks on the bound itself: models and losses that would let one record count more than once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from clients.training import refuse_mixing_layers
from federation.plan_settings import HardwareSettings
from federation.rows import Rows
from federation.task import Task
from privacy.errors import FedSealError, ModelUnsupported, OrderRefused, TaskInvalid
from tests.client_builders import PRIVATE, DotTask, dots, order, plan, site

TIME = 5


class Patches(nn.Module):
    """Every time step becomes a row of the layer's input: Opacus then clips steps, not records."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, series: Tensor) -> Tensor:
        steps = self.layer(series.reshape(-1, 4))  # (B, T, 4) -> (B * T, 2)
        return steps.reshape(len(series), TIME, 2).sum(dim=1)


class TimeFirst(Patches):
    """The batch stands in the layer's second dimension."""

    def forward(self, series: Tensor) -> Tensor:
        return self.layer(series.transpose(0, 1)).sum(dim=0)  # (B, T, 4) -> (T, B, 2) -> (B, 2)


class BatchFirst(Patches):
    """As it should be."""

    def forward(self, series: Tensor) -> Tensor:
        return self.layer(series).sum(dim=1)  # (B, T, 4) -> (B, T, 2) -> (B, 2)


class Series(Task):
    def __init__(self, model: type[nn.Module]) -> None:
        self._model = model

    def model(self) -> nn.Module:
        return self._model()

    def rows(self, site: object) -> Rows:
        return Rows(fields={"x": torch.ones(TIME, TIME, 4), "y": torch.zeros(TIME, dtype=torch.long)})


class WeightedByTheBatch(DotTask):
    """A loss that weighs a record by how often its label stands in the batch."""

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        labels = batch["id"]
        shares = torch.stack([(labels == label).float().mean() for label in labels])
        return super().loss(model, batch) / shares


@pytest.mark.parametrize("model", [Patches, TimeFirst])
@pytest.mark.parametrize("mode", ["hooks", "functorch"])
def test_a_layer_that_sees_records_outside_its_first_dimension_is_refused(model: type[nn.Module], mode: str) -> None:
    task = Series(model)
    rows = task.rows(None)
    with pytest.raises((ModelUnsupported, FedSealError), match="first dimension"):
        refuse_mixing_layers(task, task.model(), rows, HardwareSettings(grad_sample_mode=mode))


def test_a_sequence_model_with_the_batch_first_passes() -> None:
    task = Series(BatchFirst)
    refuse_mixing_layers(task, task.model(), task.rows(None), HardwareSettings())


def test_a_site_refuses_such_a_model_even_when_there_are_as_many_records_as_time_steps() -> None:
    agreed, task = plan(PRIVATE), Series(TimeFirst)
    with pytest.raises(ModelUnsupported, match="first dimension"):
        site(task, agreed).train(order(task, agreed))


def test_a_loss_weighted_by_the_batchs_labels_is_refused() -> None:
    agreed, task = plan(PRIVATE), WeightedByTheBatch(rows=dots(1, 2, 3))
    with pytest.raises(TaskInvalid, match="records beside it"):
        site(task, agreed).train(order(task, agreed))


def test_a_site_that_agreed_to_one_plan_refuses_every_other() -> None:
    agreed, wished = plan(PRIVATE), plan({**PRIVATE, "privacy.epsilon": 49.0})
    task = DotTask(4)
    stern = site(task, wished)
    stern.info = replace(stern.info, agreed_plan=agreed.digest)
    with pytest.raises(OrderRefused, match="agreed to plan"):
        stern.train(order(task, wished))
