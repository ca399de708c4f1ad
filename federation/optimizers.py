"""What becomes of the mean update: pure functions on flat vectors of shape (P,), the same bits wherever they run.

The server runs them where it sees the model; in an encrypted run every site does, and all get the same model.

FedAvg: McMahan et al. 2017. FedAvgM: Hsu et al. 2019, equation 3. FedAdam and FedYogi: Reddi et al. 2021, Algorithm 2.
They see aggregates only, so they cost no privacy (post-processing), and they are deterministic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from federation.plan_settings import AggregationSettings

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """The model vector that the next round starts from, the optimizer's moments, and the model that the run gives out.

    first, second: of shape (P,), or (0,) where the optimizer has no such moment
    """

    vector: Vector
    first: Vector
    second: Vector
    average: Vector

    @staticmethod
    def start(vector: Vector, settings: AggregationSettings) -> ModelState:
        """The state before round 1: first moment 0, second moment adaptivity squared (Reddi et al.: v_-1 >= tau^2)."""
        moments = _MOMENTS[settings.optimizer]
        first = np.zeros_like(vector) if moments > 0 else vector[:0]
        second = np.full_like(vector, settings.adaptivity**2) if moments > 1 else vector[:0]
        return ModelState(vector=vector, first=first, second=second, average=vector)


def advance(state: ModelState, update: Vector, settings: AggregationSettings) -> ModelState:
    """The state after one round's mean update."""
    moved = _STEPS[settings.optimizer](state, update, settings)
    decay = settings.iterate_averaging
    average = decay * state.average + (1 - decay) * moved.vector if decay else moved.vector
    return replace(moved, average=average.astype(np.float32))


def _fedavg(state: ModelState, update: Vector, settings: AggregationSettings) -> ModelState:
    return replace(state, vector=_moved(state.vector, update, settings))


def _fedavgm(state: ModelState, update: Vector, settings: AggregationSettings) -> ModelState:
    first = (settings.momentum * state.first + update).astype(np.float32)
    return replace(state, vector=_moved(state.vector, first, settings), first=first)


def _fedadam(state: ModelState, update: Vector, settings: AggregationSettings) -> ModelState:
    second = settings.second_moment * state.second + (1 - settings.second_moment) * update**2
    return _adaptive(state, update, second, settings)


def _fedyogi(state: ModelState, update: Vector, settings: AggregationSettings) -> ModelState:
    square = update**2
    second = state.second - (1 - settings.second_moment) * square * np.sign(state.second - square)
    return _adaptive(state, update, second, settings)


def _adaptive(state: ModelState, update: Vector, second: Vector, settings: AggregationSettings) -> ModelState:
    first = (settings.momentum * state.first + (1 - settings.momentum) * update).astype(np.float32)
    step = (first / (np.sqrt(second) + settings.adaptivity)).astype(np.float32)
    return replace(state, vector=_moved(state.vector, step, settings), first=first, second=second.astype(np.float32))


def _moved(vector: Vector, step: Vector, settings: AggregationSettings) -> Vector:
    return (vector + settings.learning_rate * step).astype(np.float32)


_STEPS: dict[str, Callable[[ModelState, Vector, AggregationSettings], ModelState]] = {
    "fedavg": _fedavg,
    "fedavgm": _fedavgm,
    "fedadam": _fedadam,
    "fedyogi": _fedyogi,
}
_MOMENTS = {"fedavg": 0, "fedavgm": 1, "fedadam": 2, "fedyogi": 2}
