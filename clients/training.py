"""Local training under differential privacy of records or groups: Opacus' gradients, our own sampling and noise.

DP-SGD (Abadi et al. 2016, Algorithm 1). Opacus gives the gradient of every record and the optimizer; `make_private` is
not used, because its sample rate and denominator depend on the number of records, its loader can be a step short, and
one non-finite record poisons the model. Here the sample rate, the steps and the denominator are public facts of the
plan; a unit enters each step by its own coin (Poisson, `clients/sampling.py`); a group's gradient is the sum over its
records, clipped as one; a non-finite gradient counts as zero; noise comes from a `RandomStream`. Must never train on a
batch that was not drawn by those coins.

In tensor comments: n records of the site, B records and G groups of a physical batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleExpandedWeights
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from clients.model_check import (
    draws_randomness,
    made_up_records,
    record_losses,
    refuse_changed_state,
    refuse_shared_gradients,
)
from clients.penalties import LocalOptimizer
from clients.sampling import GroupSampler, RecordSampler, Sampler, shuffled_batches
from federation.groups import numbered, refuse_lost_units, units_of, without_units
from federation.plan_settings import HardwareSettings, TrainingSettings
from federation.rows import Rows, RowSource
from federation.seeding import seeded_torch
from federation.task import Task
from privacy.errors import DataInvalid
from privacy.mechanism import Mechanism
from privacy.noise import RandomStream

_EXPANDED_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LayerNorm, nn.GroupNorm)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

# Opacus hooks every layer, the first one too, whose input is data and needs no gradient; torch warns of that each time.
warnings.filterwarnings(
    "ignore", message="Full backward hook is firing when gradients are computed", category=UserWarning
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """What changes the guarantee: the mechanism, and the public number that sums of gradients are divided by.

    records_per_group: unit group: most records of one group that a step uses
    """

    mechanism: Mechanism
    denominator: float
    records_per_group: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What both ways of training need besides model and rows."""

    training: TrainingSettings
    hardware: HardwareSettings
    stream: RandomStream


def train_privately(
    task: Task, model: nn.Module, rows: RowSource, protection: Protection, settings: Settings
) -> NDArray[np.float32]:
    """Trains `model` in place for the mechanism's steps and returns the trained vector, shape (P,).

    The sum of clipped gradients of each step has L2 sensitivity max_grad_norm to one unit, and gets noise of standard
    deviation noise_multiplier x max_grad_norm in every coordinate.

    Raises:
        DataInvalid: the unit is group, and the rows know none.
        TaskInvalid: the task's loss is not one number a record, or it lost the groups of its records.
        ModelUnsupported: the model wrote into its own buffers, past clipping and noise.
    """
    mechanism = protection.mechanism
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    optimizer = LocalOptimizer(model, settings.training)
    private = _NoisyOptimizer(optimizer.inner, protection, settings.stream)
    sampler = _sampler(rows, protection, settings.hardware)
    with _per_record_gradients(model, settings.hardware) as module, torch_randomness(model, settings.stream):
        for _ in range(mechanism.steps):
            drawn = sampler.draw(settings.stream, mechanism.sample_rate)
            draws = _generator(settings.stream)
            for chunk in drawn:
                batch = rows.take(chunk)
                if len(batch):
                    augmented = task.augment(batch, draws)
                    groups = _groups(augmented, mechanism)
                    record_losses(task, module, without_units(augmented)).sum().backward()
                    private.accumulate(len(batch), groups)
            private.finish()
            optimizer.step()
    refuse_changed_state(model, state)
    return optimizer.result()


def refuse_mixing_layers(task: Task, model: nn.Module, rows: Rows, hardware: HardwareSettings) -> None:
    """Passes a model whose every layer sees the records in its first dimension, one each.

    Tried on two and on three made-up records shaped like `rows`: a layer that sees patches, time steps or the batch in
    another dimension can't have the right number of gradients both times.

    Raises:
        ModelUnsupported: names the size that Opacus found, so that clipping would not bound one record.
    """
    trio = made_up_records(rows)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with _per_record_gradients(model, hardware) as module, seeded_torch(0):
        for records in (2, 3):
            record_losses(task, module, trio.take(torch.arange(records))).sum().backward()
            refuse_shared_gradients([p for p in trained if p.grad_sample is not None], records)  # type: ignore[attr-defined]
            for parameter in trained:
                parameter.grad_sample = parameter.grad = None  # type: ignore[attr-defined]


def train_without_privacy(task: Task, model: nn.Module, rows: RowSource, settings: Settings) -> NDArray[np.float32]:
    """Trains `model` in place as `train_plainly` and returns the trained vector, shape (P,); protects nobody.

    Raises:
        TaskInvalid: the task's loss is not one number a record.
        DataInvalid: there are no training records.
    """
    vector, trained = train_plainly(task, model, rows, settings)
    if not trained:
        raise DataInvalid("the site holds no training records, or preparing drops them all")
    return vector


def train_plainly(task: Task, model: nn.Module, rows: RowSource, settings: Settings) -> tuple[NDArray[np.float32], int]:
    """Trains `model` in place on shuffled batches of about sample_rate x n records, without clipping or noise.

    Returns the trained vector, shape (P,), and how many records entered, each time counted; where none did, the vector
    is the one that training started from.

    Raises:
        TaskInvalid: the task's loss is not one number a record.
    """
    optimizer = LocalOptimizer(model, settings.training)
    batches = shuffled_batches(len(rows), settings.training.sample_rate, settings.stream)
    trained = 0
    model.train()
    with torch_randomness(model, settings.stream):
        for _ in range(settings.training.steps):
            drawn = next(batches).to(rows.device)
            draws = _generator(settings.stream)
            optimizer.inner.zero_grad()
            records = 0
            for chunk in drawn.split(settings.hardware.max_physical_batch):
                batch = rows.take(chunk)
                if len(batch):
                    record_losses(task, model, task.augment(batch, draws)).sum().backward()
                    records += len(batch)
            if records:
                _divide_gradients(model, records)
                optimizer.step()
            trained += records
    return optimizer.result(), trained


class _NoisyOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer with a public denominator, finite sums and our noise; steps are taken by `LocalOptimizer`."""

    def __init__(self, inner: torch.optim.Optimizer, protection: Protection, stream: RandomStream) -> None:
        mechanism = protection.mechanism
        super().__init__(
            inner,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.max_grad_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._denominator = protection.denominator
        self._stream = stream

    def accumulate(self, records: int, groups: Tensor | None) -> None:
        """Clips the gradients of a physical batch of `records` records and adds them to the step's sum.

        groups: (B,) the group of each record from 0, whose gradients are summed first; None clips each record
        """
        for parameter in self.params:
            if parameter.grad_sample is None:
                parameter.grad_sample = parameter.new_zeros((records, *parameter.shape))
        refuse_shared_gradients(self.params, records)
        if groups is not None:
            self._sum_by_group(groups)
        self._zero_non_finite_units()
        self.clip_and_accumulate()
        for parameter in self.params:
            parameter.grad_sample = None

    def finish(self) -> None:
        """Turns the step's sum into `grad`: noise added, divided by the denominator. An empty step is noise alone."""
        for parameter in self.params:
            if parameter.summed_grad is None:
                parameter.summed_grad = torch.zeros_like(parameter)
        self.add_noise()
        for parameter in self.params:
            parameter.grad /= self._denominator
            parameter.summed_grad = None

    def add_noise(self) -> None:
        """Noise for all parameters from one draw of the stream."""
        parameters = self.params
        sizes = [parameter.numel() for parameter in parameters]
        draw = torch.from_numpy(self._stream.normals(sum(sizes)) * (self.noise_multiplier * self.max_grad_norm))
        for parameter, noise in zip(parameters, draw.split(sizes), strict=True):
            parameter.grad = parameter.summed_grad + noise.view_as(parameter).to(parameter)

    def _sum_by_group(self, groups: Tensor) -> None:
        count = int(groups.max()) + 1
        for parameter in self.params:
            records = parameter.grad_sample  # (B, ...)
            parameter.grad_sample = records.new_zeros((count, *records.shape[1:])).index_add_(0, groups, records)

    def _zero_non_finite_units(self) -> None:
        gradients = self.grad_samples
        if all(bool(gradient.sum().isfinite()) for gradient in gradients):
            return
        finite = torch.stack([gradient.flatten(1).isfinite().all(dim=1) for gradient in gradients]).all(dim=0)  # (G,)
        for gradient in gradients:
            gradient[~finite] = 0


def _sampler(rows: RowSource, protection: Protection, hardware: HardwareSettings) -> Sampler:
    if protection.mechanism.unit == "record":
        return RecordSampler(rows=rows, physical_batch=hardware.max_physical_batch)
    return GroupSampler.of(rows, units_of(rows), protection.records_per_group, hardware.max_physical_batch)


def _groups(batch: Rows, mechanism: Mechanism) -> Tensor | None:
    """The group of each record of a batch, numbered from 0: (B,)."""
    if mechanism.unit == "record":
        return None
    refuse_lost_units(batch, "augment")
    return numbered(units_of(batch).cpu()).to(batch.device)


@contextmanager
def torch_randomness(model: nn.Module, stream: RandomStream) -> Iterator[None]:
    """Makes what the model draws from torch's global generator (dropout) repeat in seeded runs."""
    if not stream.seeded or not draws_randomness(model):
        yield
        return
    with seeded_torch(int(stream.uniforms(1)[0] * 2**53)):
        yield


def grad_sample_mode(model: nn.Module, wanted: str) -> str:
    """Which of Opacus' modes serves the model: `wanted`, or for "auto" the one its layers ask for.

    ew (expanded weights) is the fastest for convolutions, where every layer supports it; hooks serve the rest, and fall
    back to functorch for each layer that Opacus has no rule for.
    """
    if wanted != "auto":
        return wanted
    layers = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    expanded = all(type(layer) in _EXPANDED_LAYERS for layer in layers)
    return "ew" if expanded and any(isinstance(layer, _CONVOLUTIONS) for layer in layers) else "hooks"


@contextmanager
def _per_record_gradients(model: nn.Module, hardware: HardwareSettings) -> Iterator[nn.Module]:
    mode = grad_sample_mode(model, hardware.grad_sample_mode)
    if mode == "ew":
        wrapped = GradSampleModuleExpandedWeights(model, loss_reduction="sum")
    else:
        wrapped = GradSampleModule(model, loss_reduction="sum", force_functorch=mode == "functorch")
    wrapped.train()
    try:
        yield wrapped
    finally:
        wrapped.remove_hooks()


def _divide_gradients(model: nn.Module, records: int) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= records


def _generator(stream: RandomStream) -> torch.Generator:
    """What a step's augmentation draws from."""
    return torch.Generator().manual_seed(int(stream.uniforms(1)[0] * 2**53))
