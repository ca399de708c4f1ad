"""What both sides draw from torch's global generator, made to repeat: above all the first weights of a model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

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
