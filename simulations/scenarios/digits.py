"""Handwritten digits (scikit-learn): 1,797 images of 8 x 8 pixels with values 0 to 16, ten classes."""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from federation.preparation import pixels
from federation.rows import Rows
from simulations.pooled_task import PooledTask

_USUAL_INK = (0.0, 0.1, 0.4, 0.6, 0.6, 0.4, 0.1, 0.0)  # by column, written by hand: digits stand in the middle
_SHARE_OF_PRODUCTS = 0.3  # of an image's squared norm


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
    """A linear model on centred pixels and products of neighbouring ones, each image of norm 1: best at small epsilon.

    Features made by a fixed, public formula beat learned ones where noise is large (Tramèr and Boneh 2021).
    """

    def prepare(self, rows: Rows) -> Rows:
        ink = rows["x"].float().flatten(1) / 16 - torch.tensor(_USUAL_INK).repeat(8)  # (n, 64)
        first, second = _neighbours(reach=2)
        products = _unit(ink[:, first] * ink[:, second])  # (n, 546)
        parts = [_unit(ink) * (1 - _SHARE_OF_PRODUCTS) ** 0.5, products * _SHARE_OF_PRODUCTS**0.5]
        return rows.replace(x=torch.cat(parts, dim=1))  # (n, 610)

    def model(self) -> nn.Module:
        return nn.Linear(610, 10, bias=False)


def _neighbours(reach: int) -> Tensor:
    """Pairs of different pixels at most `reach` rows and columns apart, each pair once: shape (2, pairs)."""
    first, second = torch.triu_indices(64, 64, offset=1)
    near = ((first // 8 - second // 8).abs() <= reach) & ((first % 8 - second % 8).abs() <= reach)
    return torch.stack([first[near], second[near]])


def _unit(table: Tensor) -> Tensor:
    norms: Tensor = table.norm(dim=1, keepdim=True)  # (n, 1)
    return table / norms.clamp(min=1e-6)


task = Digits()
linear = LinearDigits()
