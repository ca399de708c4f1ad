"""Wisconsin breast cancer (scikit-learn): 569 biopsies, 30 measurements, malignant (0) or benign (1).

Columns are scaled by public bounds: round numbers for what such a measurement can be, written by hand, never read from
the records.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from federation.preparation import drop_duplicates, drop_missing, scale
from federation.rows import Rows
from simulations.pooled_task import PooledTask

_MEAN_LOWER = (7.0, 10.0, 45.0, 150.0, 0.06, 0.02, 0.0, 0.0, 0.12, 0.05)
_MEAN_UPPER = (25.0, 35.0, 170.0, 2000.0, 0.14, 0.28, 0.35, 0.17, 0.26, 0.09)
_ERROR_LOWER = (0.1, 0.4, 0.8, 7.0, 0.002, 0.002, 0.0, 0.0, 0.008, 0.001)
_ERROR_UPPER = (1.5, 3.0, 10.0, 160.0, 0.016, 0.1, 0.12, 0.03, 0.05, 0.012)
_WORST_LOWER = (8.0, 12.0, 50.0, 200.0, 0.08, 0.03, 0.0, 0.0, 0.16, 0.055)
_WORST_UPPER = (32.0, 45.0, 220.0, 3200.0, 0.2, 0.8, 1.0, 0.29, 0.5, 0.14)


class BreastCancer(PooledTask):
    """A linear model on 30 bounded columns."""

    def pool(self, folder: Path | None) -> Rows:
        inputs, labels = load_breast_cancer(return_X_y=True)
        return Rows(fields={"x": torch.tensor(inputs, dtype=torch.float32), "y": torch.tensor(labels)})

    def prepare(self, rows: Rows) -> Rows:
        clean = drop_duplicates(drop_missing(rows))
        lower = (*_MEAN_LOWER, *_ERROR_LOWER, *_WORST_LOWER)
        upper = (*_MEAN_UPPER, *_ERROR_UPPER, *_WORST_UPPER)
        return clean.replace(x=scale(clean["x"], lower, upper))

    def model(self) -> nn.Module:
        return nn.Linear(30, 2)


task = BreastCancer()
