"""Handwritten digits (scikit-learn): 1,797 images of 8 x 8 pixels with values 0 to 16, ten classes."""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from federation.preparation import pixels
from federation.rows import Rows
from simulations.pooled_task import PooledTask


class Digits(PooledTask):
    """A small CNN with tanh, which suits clipped gradients better than ReLU (Papernot et al. 2021)."""

    def pool(self, folder: Path | None) -> Rows:
        digits = load_digits()
        return Rows(fields={"x": torch.tensor(digits.images)[:, None], "y": torch.tensor(digits.target)})

    def prepare(self, rows: Rows) -> Rows:
        return rows.replace(x=pixels(rows["x"], largest=16))

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),  # (B, 1, 8, 8) -> (B, 16, 8, 8)
            nn.Tanh(),
            nn.AvgPool2d(2),  # -> (B, 16, 4, 4)
            nn.Flatten(),
            nn.Linear(16 * 4 * 4, 10),
        )


class LinearDigits(Digits):
    """A linear model on the 64 pixels, each image of norm at most 1: the winner at small epsilon."""

    def prepare(self, rows: Rows) -> Rows:
        return rows.replace(x=_flat(rows["x"]))

    def model(self) -> nn.Module:
        return nn.Linear(64, 10)


def _flat(images: Tensor) -> Tensor:
    return images.float().flatten(1) / 16  # (n, 64)


task = Digits()
linear = LinearDigits()
