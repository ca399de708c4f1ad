"""A model's metrics over records, in batches, so that memory stays flat however many records there are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from federation.rows import RowSource
from federation.task import Task

_BATCH = 8192


def metric_sums(task: Task, model: nn.Module, rows: RowSource) -> dict[str, Tensor]:
    """The task's metric sums over all records; where there is none, what the task says of an empty batch."""
    sums: dict[str, Tensor] = {}
    with torch.no_grad():
        for positions in torch.arange(len(rows)).split(_BATCH):
            part = task.metrics(model, rows.take(positions))
            sums = {name: tensor.cpu() + sums.get(name, 0) for name, tensor in part.items()}
    return sums
