"""Metrics in batches are metrics of all records: each counted once, few in memory at a time, no gradient kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from federation import evaluation
from federation.evaluation import metric_sums
from federation.rows import Rows
from tests.client_builders import GivenTask, perceptron, tables


@dataclass
class Counted:
    """Records that remember which of them were taken together."""

    rows: Rows
    taken: list[list[int]] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return self.rows.device

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Tensor) -> Rows:
        self.taken.append(positions.tolist())
        return self.rows.take(positions)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_batches_of_any_size_sum_to_the_metrics_of_all(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(evaluation, "_BATCH", batch)
    task, rows = GivenTask(perceptron), tables()
    model = task.model().eval()
    found, whole = metric_sums(task, model, rows), task.metrics(model, rows)
    assert found.keys() == whole.keys()
    for name in whole:
        assert found[name].dtype == whole[name].dtype
        assert torch.allclose(found[name], whole[name], rtol=1e-6, atol=0)
    assert float(found["count"]) == 7.0


def test_each_record_is_taken_once_in_order_and_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_BATCH", 3)
    task, rows = GivenTask(perceptron), Counted(tables())
    metric_sums(task, task.model(), rows)
    assert rows.taken == [[0, 1, 2], [3, 4, 5], [6]]


def test_sums_keep_no_gradient() -> None:
    class Losses(GivenTask):
        def metrics(self, model: nn.Module, rows: Rows) -> dict[str, Tensor]:
            return {"loss": self.loss(model, rows).sum()}

    task = Losses(perceptron)
    sums = metric_sums(task, task.model(), tables())
    assert not sums["loss"].requires_grad


def test_a_model_is_not_changed_by_looking_at_it() -> None:
    task = GivenTask(perceptron)
    model = task.model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    metric_sums(task, model, tables())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_records_that_prepare_drops_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Dropping(Counted):
        def take(self, positions: Tensor) -> Rows:
            return super().take(positions[positions % 4 == 1])  # of 7 records: 1 and 5; of the batch 2, 3 none

    monkeypatch.setattr(evaluation, "_BATCH", 2)
    task, rows = GivenTask(perceptron), Dropping(tables())
    model = task.model().eval()
    found, two = metric_sums(task, model, rows), task.metrics(model, tables().take(torch.tensor([1, 5])))
    assert [float(sums["count"]) for sums in (found, two)] == [2.0, 2.0]
    assert torch.allclose(found["loss"], two["loss"])
