"""What both sides draw from torch's global generator, made to repeat: above all the first weights of a model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from federation.layout import Layout
from federation.task import Task

_TAKING_TURNS = threading.Lock()


@contextmanager
def seeded_torch(seed: int) -> Iterator[None]:
    """Torch's global generator from this seed; afterwards it is as it was.

    The generator belongs to the whole process, so all who seed it take turns.
    """
    with _TAKING_TURNS, torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def first_model(task: Task, seed: int) -> nn.Module:
    """The task's model as the plan's public seed draws it: at the server and at every site the same.

    What does not travel (frozen weights) is therefore the same everywhere, too.
    """
    with seeded_torch(seed):
        return task.model()


def initial_vector(task: Task, seed: int) -> tuple[Layout, NDArray[np.float32]]:
    """The layout and the first model as a vector, (P,)."""
    model = first_model(task, seed)
    layout = Layout.of(model)
    return layout, layout.flatten(model)
