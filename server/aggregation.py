"""From the reports of a round to one update: the streaming mean, and robust rules over plaintext updates.

In array comments: S reports, P values of an update.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from federation.plan_settings import AggregationSettings
from privacy.errors import RunFailed

Vector = NDArray[np.float32]


class Aggregate(Protocol):
    """Takes a round's updates one by one and gives their centre."""

    def add(self, update: Vector, weight: float) -> None:
        """Takes one update of shape (P,)."""

    def result(self) -> Vector:
        """The round's update, shape (P,), float32; at least one update was added."""


def aggregate(settings: AggregationSettings, length: int) -> Aggregate:
    """An empty aggregate of the plan's rule for updates of `length` values."""
    return WeightedMean(length) if settings.rule == "mean" else _Robust(settings)


class WeightedMean:
    """sum(weight x update) / sum(weight), kept as one float64 vector however many reports arrive."""

    def __init__(self, length: int) -> None:
        self._total = np.zeros(length)
        self._weight = 0.0

    def add(self, update: Vector, weight: float) -> None:
        """Adds one update of shape (P,) and lets go of it."""
        self._total += weight * update.astype(np.float64)
        self._weight += weight

    def result(self) -> Vector:
        """The mean, rounded to float32 once."""
        return (self._total / self._weight).astype(np.float32)


class _Robust:
    """Holds every update of the round, because order statistics need them all."""

    def __init__(self, settings: AggregationSettings) -> None:
        self._settings = settings
        self._updates: list[Vector] = []

    def add(self, update: Vector, weight: float) -> None:
        self._updates.append(update)

    def result(self) -> Vector:
        updates = np.stack(self._updates)  # (S, P)
        if self._settings.rule == "median":
            return median(updates)
        if self._settings.rule == "trimmed-mean":
            return trimmed_mean(updates, self._settings.trimmed_share)
        return krum(updates, self._settings.byzantine_sites)


def median(updates: Vector) -> Vector:
    """Coordinate-wise median of (S, P) updates (Yin et al. 2018, definition 1)."""
    return np.median(updates, axis=0).astype(np.float32)


def trimmed_mean(updates: Vector, share: float) -> Vector:
    """Coordinate-wise mean without the floor(share x S) smallest and largest values (Yin et al. 2018, definition 2)."""
    dropped = math.floor(share * len(updates) + 1e-9)  # 0.29 * 100 is 28.999999999999996
    kept = np.sort(updates, axis=0)[dropped : len(updates) - dropped]
    centre: Vector = kept.mean(axis=0, dtype=np.float64).astype(np.float32)
    return centre


def krum(updates: Vector, byzantine: int) -> Vector:
    """The one update closest to its S - byzantine - 2 nearest others (Blanchard et al. 2017, section 4).

    Raises:
        RunFailed: fewer than 2 x byzantine + 3 reports came, so that the rule promises nothing.
    """
    count = len(updates)
    if count < 2 * byzantine + 3:
        raise RunFailed(f"krum against {byzantine} lying sites needs {2 * byzantine + 3} reports, but {count} came")
    wide = updates.astype(np.float64)
    squares = (wide**2).sum(axis=1)  # (S,)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * wide @ wide.T, 0)  # (S, S)
    np.fill_diagonal(distances, np.inf)
    scores = np.sort(distances, axis=1)[:, : count - byzantine - 2].sum(axis=1)  # (S,)
    chosen: Vector = updates[int(scores.argmin())]
    return chosen
