"""The site's optimizer: SGD, momentum or Adam, penalties added to a gradient after the noise, and iterate averaging.

Penalties depend on the parameters alone, never on a record, so they cost no privacy (post-processing). Sources:
FedProx, Li et al. 2020, equation 2; iterate averaging, Polyak and Juditsky 1992, with exponential weights.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from federation.layout import Layout
from federation.plan_settings import TrainingSettings


class LocalOptimizer:
    """One round's optimizer over the trainable parameters; `inner` is torch's, for Opacus to wrap."""

    def __init__(self, model: nn.Module, settings: TrainingSettings) -> None:
        self._model = model
        self._layout = Layout.of(model)
        self._settings = settings
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._start = [parameter.detach().clone() for parameter in self._parameters] if settings.proximal else []
        self._average: NDArray[np.float32] | None = None
        self.inner = _inner(self._parameters, settings)

    def step(self) -> None:
        """One step on the gradients in place, penalties added."""
        self._add_penalties()
        self.inner.step()
        decay = self._settings.iterate_averaging
        if decay:
            now = self._layout.flatten(self._model)
            self._average = now if self._average is None else decay * self._average + (1 - decay) * now

    def result(self) -> NDArray[np.float32]:
        """The vector to send, shape (P,): the average where the plan averages, else the last iterate."""
        return self._layout.flatten(self._model) if self._average is None else self._average

    @torch.no_grad()
    def _add_penalties(self) -> None:
        settings = self._settings
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if settings.l2:
                parameter.grad.add_(parameter, alpha=settings.l2)
            if settings.l1:
                parameter.grad.add_(parameter.sign(), alpha=settings.l1)
        for parameter, start in zip(self._parameters, self._start, strict=False):
            assert parameter.grad is not None
            parameter.grad.add_(parameter - start, alpha=settings.proximal)


def _inner(parameters: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=settings.learning_rate, betas=(settings.momentum, 0.999))
    momentum = settings.momentum if settings.optimizer == "momentum" else 0.0
    return torch.optim.SGD(parameters, lr=settings.learning_rate, momentum=momentum)
