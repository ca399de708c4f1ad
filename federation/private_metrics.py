"""Private metrics: noisy sums over a site's held-out records, bounded for one unit of privacy, that epsilon covers.

A unit contributes the vector (1, right, loss / loss_bound), each in [0, 1]: the mean over its records where it has
several. So its L2 norm is at most sqrt(3), whatever its records, and the sum over units gets Gaussian noise of standard
deviation noise_multiplier x sqrt(3) in each coordinate (Dwork and Roth 2014, appendix A). Figures are post-processing.
Held-out records are other records than those of training, yet both are added up for every unit: the worst case.

In tensor comments: B records of a batch, V sums.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from federation.groups import without_units
from federation.plan import Plan
from federation.rows import Rows, RowSource
from federation.task import Task
from federation.unit_sums import UnitSum
from privacy.errors import TaskInvalid
from privacy.mechanism import Mechanism
from privacy.noise import RandomStream

NAMES = ("count", "correct", "loss")
_BATCH = 8192


def noisy_sums(
    task: Task, model: nn.Module, rows: RowSource, plan: Plan, mechanism: Mechanism, stream: RandomStream
) -> dict[str, Tensor]:
    """What a site reports: (), float64 each, of `NAMES`.

    Raises:
        TaskInvalid: the task's loss or `correct` is not one number a record.
    """
    sums = bounded_sums(task, model, rows, plan)  # (3,)
    return dict(zip(NAMES, noised(sums, mechanism, stream).unbind(), strict=True))


def noised(sums: Tensor, mechanism: Mechanism, stream: RandomStream) -> Tensor:
    """The sums, (V,) float64, with the mechanism's noise: standard deviation noise_multiplier x max_grad_norm."""
    noise = torch.from_numpy(stream.normals(len(sums))).double()
    return sums + noise * mechanism.noise_multiplier * mechanism.max_grad_norm


def bounded_sums(task: Task, model: nn.Module, rows: RowSource, plan: Plan) -> Tensor:
    """The sum of all units' contributions before noise, (3,) float64."""
    total = UnitSum(plan.privacy.unit, len(NAMES))
    with torch.no_grad():
        for positions in torch.arange(len(rows)).split(_BATCH):
            batch = rows.take(positions)
            if len(batch):
                total.add(_contributions(task, model, without_units(batch), plan.privacy.loss_bound), batch.units)
    return total.result()


def private_figures(sums: Mapping[str, Tensor], sites: int, plan: Plan, mechanism: Mechanism) -> dict[str, float]:
    """What people read of the noisy sums of so many sites.

    accuracy in [0, 1]; loss, the mean in [0, loss_bound], in nats; and noise, roughly the standard deviation
    that the noise alone gives to accuracy: where it is near one, the figures say nothing.
    """
    count = max(float(sums["count"]), 1.0)
    accuracy, loss = (min(max(float(sums[name]) / count, 0.0), 1.0) for name in ("correct", "loss"))
    sigma = mechanism.noise_multiplier * mechanism.max_grad_norm * sites**0.5
    return {"accuracy": accuracy, "loss": loss * plan.privacy.loss_bound, "noise": sigma / count}


def _contributions(task: Task, model: nn.Module, batch: Rows, loss_bound: float) -> Tensor:
    """Each record's (1, right, loss / bound): (B, 3) float64, all in [0, 1] whatever the task says."""
    losses, right = task.loss(model, batch), task.correct(model, batch)
    for what, values in (("loss", losses), ("correct", right)):
        if values.shape != (len(batch),):
            raise TaskInvalid(f"the task's {what} has shape {tuple(values.shape)}, not one number a record")
    worst = losses.double().nan_to_num(nan=loss_bound, posinf=loss_bound, neginf=0.0).clamp(0, loss_bound) / loss_bound
    right = right.double().nan_to_num(nan=0.0).clamp(0, 1)
    return torch.stack([torch.ones_like(worst), right, worst], dim=1).cpu()
