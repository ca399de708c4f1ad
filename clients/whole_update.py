"""Unit client: a site trains as it likes, and hides its whole update: clipped as one, noise added before it leaves.

The Gaussian mechanism on the update itself (Dwork and Roth 2014, appendix A; as local DP-FedAvg, McMahan et al. 2018,
"Learning Differentially Private Recurrent Language Models", clips it). A client without training records sends noise
around zero; one with any data sends the same noise around a vector no longer than max_grad_norm. So the mechanism's
sensitivity to whether a client holds its data is max_grad_norm, whatever its records, steps, penalties and optimizer,
and no reader, the server included, is trusted with less noise. Nothing is gained from how cohorts are drawn: the server
knows who answers.

P is the length of the layout's vector, of which the first W values are trainable parameters; the rest, floating-point
buffers, stays as it came.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from clients.model_check import refuse_changed_state
from clients.training import Settings, train_plainly
from federation.layout import Layout
from federation.rows import RowSource
from federation.task import Task
from privacy.mechanism import Mechanism
from privacy.noise import RandomStream

Wide = NDArray[np.float64]


def train_as_one(
    task: Task, model: nn.Module, rows: RowSource, mechanism: Mechanism, settings: Settings
) -> NDArray[np.float32]:
    """Trains `model` in place; returns where it started plus its clipped and noised update, shape (P,).

    Raises:
        TaskInvalid: the task's loss is not one number a record.
        ModelUnsupported: training changed a buffer, which no clipping or noise covers.
    """
    start = Layout.of(model).flatten(model)
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trained, _ = train_plainly(task, model, rows, settings)
    refuse_changed_state(model, state)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)  # W
    update = trained[:trainable].astype(np.float64) - start[:trainable]
    sent = start.copy()
    sent[:trainable] += noised(clipped(update, mechanism.max_grad_norm), mechanism, settings.stream)
    return sent


def clipped(update: Wide, bound: float) -> Wide:
    """The update scaled down to an L2 norm of at most `bound`; zero where it holds NaN or infinity."""
    if not np.isfinite(update).all():
        return np.zeros_like(update)
    norm = float(np.linalg.norm(update))
    return update if norm <= bound else update * (bound / norm)


def noised(update: Wide, mechanism: Mechanism, stream: RandomStream) -> NDArray[np.float32]:
    """The update with noise of standard deviation noise_multiplier x max_grad_norm in every coordinate."""
    sigma = mechanism.noise_multiplier * mechanism.max_grad_norm
    return (update + stream.normals(len(update)) * sigma).astype(np.float32)
