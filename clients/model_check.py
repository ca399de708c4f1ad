"""Which models DP-SGD can serve: the others are refused by module name, with the replacement that Opacus knows.

A record's gradient must be its own. BatchNorm mixes the records of a batch; a module that writes into its buffers
carries records past clipping and noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from federation.rows import Rows
from federation.task import Task
from privacy.errors import ModelUnsupported, TaskInvalid


def refuse_unsupported_model(model: nn.Module) -> None:
    """Passes a model whose every module Opacus can serve.

    Raises:
        ModelUnsupported: names each offending module and its replacement.
    """
    problems = []
    for name, module in model.named_modules():
        check = ModuleValidator.VALIDATORS.get(type(module))
        if check is not None and check(module):
            fix = ModuleValidator.FIXERS.get(type(module))
            remedy = f"use {fix(module)}" if fix is not None else "take it out"
            problems.append(f"{name or 'the model itself'} is {type(module).__name__}: {remedy}")
    if problems:
        raise ModelUnsupported(
            "the model can't be trained with differential privacy, because these modules mix the records of a batch or "
            f"hide their gradients: {'; '.join(problems)}"
        )


def refuse_changed_state(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Passes a model whose buffers are as they were before training.

    Raises:
        ModelUnsupported: names the buffers that training changed.
    """
    changed = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])]
    if changed:
        raise ModelUnsupported(
            f"training changed the model's buffers {', '.join(changed)}, which no clipping or noise covers: make them "
            "constants, or replace the module that writes them"
        )


def refuse_dependent_losses(task: Task, model: nn.Module, rows: Rows) -> None:
    """Passes a task whose loss of a record is the same alone as in company.

    Tried on two made-up records shaped like `rows`, in training mode unless the model draws random numbers there, so
    that whether a site refuses depends on the task alone and never on its records.

    Raises:
        TaskInvalid: the losses differ, so that clipping one record's gradient would not bound its influence.
    """
    pair = Rows(fields={name: _made_up(tensor) for name, tensor in rows.fields.items()})
    was_training = model.training
    model.train(not draws_randomness(model))
    try:
        with torch.no_grad():
            together = task.loss(model, pair)
            alone = torch.cat([task.loss(model, pair.take(torch.tensor([position]))) for position in range(2)])
    finally:
        model.train(was_training)
    if together.shape != alone.shape or not torch.allclose(together, alone, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise TaskInvalid(
            "the task's loss of a record changes with the records beside it, so clipping could not bound what one "
            "record does: return each record's own loss, without normalising over the batch"
        )


def draws_randomness(model: nn.Module) -> bool:
    """Whether a module of the model draws from torch's global generator in training, as dropout does."""
    return any("drop" in type(module).__name__.lower() for module in model.modules())


def _made_up(tensor: Tensor) -> Tensor:
    shape = (2, *tensor.shape[1:])
    if not tensor.is_floating_point():
        return tensor.new_zeros(shape)
    size = math.prod(shape)
    return torch.linspace(-1, 1, size, dtype=tensor.dtype, device=tensor.device).sin().reshape(shape)
