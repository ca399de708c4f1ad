"""What the server does with the mean update: pure functions on flat vectors of shape (P,).

FedAvg: McMahan et al. 2017. FedAvgM: Hsu et al. 2019, equation 3. FedAdam and FedYogi: Reddi et al. 2021, Algorithm 2.
They see aggregates only, so they cost no privacy (post-processing), and they are deterministic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from federation.plan import AggregationSettings

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """The model vector that the next order carries, the optimizer's moments, and the model that the run gives out."""

    vector: Vector
    first: Vector
    second: Vector
    average: Vector

    @staticmethod
    def start(vector: Vector, settings: AggregationSettings) -> ServerState:
        """The state before round 1: first moment 0, second moment adaptivity squared (Reddi et al.: v_-1 >= tau^2)."""
        second = np.full_like(vector, settings.adaptivity**2)
        return ServerState(vector=vector, first=np.zeros_like(vector), second=second, average=vector)


def advance(state: ServerState, update: Vector, settings: AggregationSettings) -> ServerState:
    """The state after one round's mean update."""
    moved = _STEPS[settings.optimizer](state, update, settings)
    decay = settings.iterate_averaging
    average = decay * state.average + (1 - decay) * moved.vector if decay else moved.vector
    return replace(moved, average=average.astype(np.float32))


def _fedavg(state: ServerState, update: Vector, settings: AggregationSettings) -> ServerState:
    return replace(state, vector=_moved(state.vector, update, settings))


def _fedavgm(state: ServerState, update: Vector, settings: AggregationSettings) -> ServerState:
    first = (settings.momentum * state.first + update).astype(np.float32)
    return replace(state, vector=_moved(state.vector, first, settings), first=first)


def _fedadam(state: ServerState, update: Vector, settings: AggregationSettings) -> ServerState:
    second = settings.second_moment * state.second + (1 - settings.second_moment) * update**2
    return _adaptive(state, update, second, settings)


def _fedyogi(state: ServerState, update: Vector, settings: AggregationSettings) -> ServerState:
    square = update**2
    second = state.second - (1 - settings.second_moment) * square * np.sign(state.second - square)
    return _adaptive(state, update, second, settings)


def _adaptive(state: ServerState, update: Vector, second: Vector, settings: AggregationSettings) -> ServerState:
    first = (settings.momentum * state.first + (1 - settings.momentum) * update).astype(np.float32)
    step = (first / (np.sqrt(second) + settings.adaptivity)).astype(np.float32)
    return replace(state, vector=_moved(state.vector, step, settings), first=first, second=second.astype(np.float32))


def _moved(vector: Vector, step: Vector, settings: AggregationSettings) -> Vector:
    return (vector + settings.learning_rate * step).astype(np.float32)


_STEPS: dict[str, Callable[[ServerState, Vector, AggregationSettings], ServerState]] = {
    "fedavg": _fedavg,
    "fedavgm": _fedavgm,
    "fedadam": _fedadam,
    "fedyogi": _fedyogi,
}
