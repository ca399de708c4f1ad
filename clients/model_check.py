"""Which models and losses DP-SGD can serve: the others are refused by name, with the replacement where one is known.

A record's gradient must be its own. BatchNorm mixes the records of a batch; a module that writes into its buffers
carries records past clipping and noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from federation.rows import Rows
from federation.seeding import seeded_torch
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
        elif _trainable_itself(module) and any(True for _ in module.buffers()):
            remedy = "move its buffers to a module without parameters of its own"
            problems.append(f"{name or 'the model itself'} is {type(module).__name__}: {remedy}")
    if problems:
        raise ModelUnsupported(
            "the model can't be trained with differential privacy, because these modules mix the records of a batch or "
            f"hide their gradients: {'; '.join(problems)}"
        )


def refuse_model(model: nn.Module, unit: str) -> None:
    """Passes a model that can be trained so that this unit of privacy is hidden.

    Raises:
        ModelUnsupported: names each offending module and its replacement.
    """
    if unit == "client":
        _refuse_running_statistics(model)
    else:
        refuse_unsupported_model(model)


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
    """Passes a task whose loss of a record is the same whatever record stands beside it.

    Tried in training mode on made-up records shaped like `rows`, with the same random draws (dropout) in each try, so
    that whether a site refuses depends on the task alone and never on its records.

    Raises:
        TaskInvalid: a loss differs, so that clipping one record's gradient would not bound its influence.
    """
    was_training = model.training
    model.train()
    try:
        own = _each_records_own(partial(record_losses, task, model), rows)
    finally:
        model.train(was_training)
    if not own:
        raise TaskInvalid(
            "the task's loss of a record changes with the records beside it, so clipping could not bound what one "
            "record does: return each record's own loss, without normalising over the batch"
        )


def refuse_dependent_answers(task: Task, model: nn.Module, rows: Rows) -> None:
    """Passes a task whose loss and `correct` of a record are the same whatever record stands beside it.

    Tried as `refuse_dependent_losses` tries, on a model in evaluation mode.

    Raises:
        TaskInvalid: one differs, so that no bound on a record's own vector would bound its influence on the sums.
    """
    for what, answers in (("loss", record_losses), ("correct", record_answers)):
        if not _each_records_own(partial(answers, task, model), rows):
            raise TaskInvalid(
                f"the task's {what} of a record changes with the records beside it, so private metrics could not bound "
                "what one record does: return each record's own, without normalising over or ranking in the batch"
            )


def refuse_shared_gradients(parameters: Iterable[nn.Parameter], records: int) -> None:
    """Passes gradients that Opacus computed for `records` records, one each.

    Raises:
        ModelUnsupported: a parameter has another number of gradients: its layer saw the batch in another shape.
    """
    for parameter in parameters:
        found = len(parameter.grad_sample)  # type: ignore[attr-defined]
        if found != records:
            raise ModelUnsupported(
                f"a layer of shape {tuple(parameter.shape)} has {found} gradients for {records} records, because the "
                "model brings the batch into another shape before it; clipping would not bound what one record does: "
                "keep the records in the first dimension of every layer's input"
            )


def made_up_records(rows: Rows) -> Rows:
    """Three records shaped like `rows`, the same whatever `rows` holds: waves, and zeros and ones for whole numbers."""
    return Rows(fields={name: _made_up(tensor) for name, tensor in rows.fields.items()})


def record_losses(task: Task, model: nn.Module, batch: Rows) -> Tensor:
    """The task's losses of a batch of B records, shape (B,).

    Raises:
        TaskInvalid: the task returned another shape.
    """
    remedy = "return one loss a record, for example with reduction='none'"
    return _one_a_record(task.loss(model, batch), "loss", batch, remedy)


def record_answers(task: Task, model: nn.Module, batch: Rows) -> Tensor:
    """How right the model is about B records, shape (B,).

    Raises:
        TaskInvalid: the task returned another shape.
    """
    return _one_a_record(task.correct(model, batch), "correct", batch, "return one number a record")


def draws_randomness(model: nn.Module) -> bool:
    """Whether a module of the model draws from torch's global generator in training, as dropout does."""
    return any("drop" in type(module).__name__.lower() for module in model.modules())


def _one_a_record(values: Tensor, what: str, batch: Rows, remedy: str) -> Tensor:
    if values.shape != (len(batch),):
        raise TaskInvalid(
            f"the task's {what} has shape {tuple(values.shape)} for a batch of {len(batch)} records: {remedy}"
        )
    return values


def _refuse_running_statistics(model: nn.Module) -> None:
    """A whole update is clipped, so records may mix; but statistics of them would leave in buffers, past the noise."""
    names = [
        f"{name or 'the model itself'} is {type(module).__name__}"
        for name, module in model.named_modules()
        if getattr(module, "running_mean", None) is not None
    ]
    if names:
        raise ModelUnsupported(
            f"these modules keep running statistics of the records in buffers, which no clipping or noise covers: "
            f"{'; '.join(names)}; use GroupNorm or LayerNorm, or track_running_stats=False"
        )


def _trainable_itself(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _each_records_own(values_of: Callable[[Rows], Tensor], rows: Rows) -> bool:
    """Whether a record's value, of made-up ones shaped like `rows`, is the same beside each other record."""
    trio = made_up_records(rows)
    found = []
    for pair in ([0, 1], [0, 2], [2, 1]):
        with torch.no_grad(), seeded_torch(0):
            found.append(values_of(trio.take(torch.tensor(pair))).double())
    return _same(found[0][0], found[1][0]) and _same(found[0][1], found[2][1])


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)


def _made_up(tensor: Tensor) -> Tensor:
    shape = (3, *tensor.shape[1:])
    if not tensor.is_floating_point():
        alternating = torch.tensor([0, 1, 0], device=tensor.device).to(tensor.dtype)
        return alternating.reshape(3, *[1] * (tensor.dim() - 1)).expand(shape).contiguous()
    size = math.prod(shape)
    return torch.linspace(-1, 1, size, dtype=tensor.dtype, device=tensor.device).sin().reshape(shape)
