"""Wisconsin breast cancer (scikit-learn): 569 biopsies, 30 measurements, malignant (0) or benign (1).

Columns are scaled by constants: a typical value and a typical spread of each measurement, in one or two digits. Here
they are rounded from the published data set's own statistics, so epsilon does not cover them: fine for a demonstration
on public records, not for private ones. A real federation takes such constants from the literature. Square roots tame
the long tails.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from federation.preparation import bound_norm, drop_duplicates, drop_missing, scale
from federation.rows import Rows
from simulations.pooled_task import PooledTask

# Radius, texture, perimeter, area, smoothness, compactness, concavity, concave points, symmetry, fractal dimension:
# first as means over the nuclei of a biopsy, then as standard errors of these means, then as the worst nuclei.
_TYPICAL = (
    *(14.0, 20.0, 90.0, 700.0, 0.1, 0.1, 0.09, 0.05, 0.18, 0.06),
    *(0.4, 1.0, 3.0, 40.0, 0.007, 0.03, 0.03, 0.01, 0.02, 0.004),
    *(16.0, 25.0, 110.0, 900.0, 0.13, 0.25, 0.3, 0.1, 0.3, 0.08),
)
_SPREAD = (
    *(4.0, 4.0, 25.0, 350.0, 0.015, 0.05, 0.08, 0.04, 0.03, 0.007),
    *(0.3, 0.6, 2.0, 50.0, 0.003, 0.02, 0.03, 0.006, 0.008, 0.003),
    *(5.0, 6.0, 30.0, 600.0, 0.02, 0.15, 0.2, 0.07, 0.06, 0.02),
)
_SPREADS_KEPT = 3.0
_WEIGHTS = (*[1.0] * 10, *[0.5] * 10, *[1.5] * 10)  # the worst nuclei tell most, the standard errors least


class BreastCancer(PooledTask):
    """A linear model on 30 columns in [-1, 1], weighted, each record of norm at most 1: noise then hides the least."""

    def pool(self, folder: Path | None) -> Rows:
        inputs, labels = load_breast_cancer(return_X_y=True)
        return Rows(fields={"x": torch.tensor(inputs, dtype=torch.float32), "y": torch.tensor(labels)})

    def prepare(self, rows: Rows) -> Rows:
        clean = drop_duplicates(drop_missing(rows))
        lower, upper = zip(*map(_bounds, _TYPICAL, _SPREAD), strict=True)
        weighted = scale(clean["x"].clamp(min=0).sqrt(), lower, upper) * torch.tensor(_WEIGHTS)  # (n, 30)
        return clean.replace(x=bound_norm(weighted, bound=1.0))

    def model(self) -> nn.Module:
        return nn.Linear(30, 2, bias=False)


def _bounds(typical: float, spread: float) -> tuple[float, float]:
    """Three spreads around a typical value, on the scale of square roots, where a spread is spread / (2 root)."""
    root = math.sqrt(typical)
    return root - _SPREADS_KEPT * spread / (2 * root), root + _SPREADS_KEPT * spread / (2 * root)


task = BreastCancer()
