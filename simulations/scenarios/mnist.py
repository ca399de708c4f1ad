"""MNIST (LeCun et al. 1998) from `DIR/mnist/*.gz`: 60,000 training and 10,000 test images of 28 x 28 pixels."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from federation.preparation import random_shift
from federation.rows import Rows
from privacy.errors import DataInvalid
from simulations.pooled_task import PooledTask

_USUAL_BRIGHTNESS = 0.13  # of a pixel, a public constant of MNIST: inputs around zero train faster than in [-1, 1]


class Mnist(PooledTask):
    """An MLP 784-64-64-10 with tanh; the canonical test images are the held-out records."""

    def pool(self, folder: Path | None) -> Rows:
        parts = [_images(folder, "train"), _images(folder, "t10k")]
        labels = [_labels(folder, "train"), _labels(folder, "t10k")]
        held_out = torch.arange(sum(map(len, labels))) >= len(labels[0])
        return Rows(
            fields={
                "x": torch.from_numpy(np.concatenate(parts)),
                "y": torch.from_numpy(np.concatenate(labels)).long(),
            },
            held_out=held_out,
        )

    def prepare(self, rows: Rows) -> Rows:
        brightness = rows["x"].float().flatten(1) / 255  # (n, 784)
        return rows.replace(x=(brightness - _USUAL_BRIGHTNESS) * 2)

    def augment(self, batch: Rows, generator: torch.Generator) -> Rows:
        images = batch["x"].unflatten(1, (1, 28, 28))  # (B, 784) -> (B, 1, 28, 28)
        return batch.replace(x=random_shift(images, most_pixels=1, generator=generator).flatten(1))

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))


def _images(folder: Path | None, part: str) -> NDArray[np.uint8]:
    return _idx(folder, f"{part}-images-idx3-ubyte.gz", header_bytes=16).reshape(-1, 28, 28)


def _labels(folder: Path | None, part: str) -> NDArray[np.uint8]:
    return _idx(folder, f"{part}-labels-idx1-ubyte.gz", header_bytes=8)


def _idx(folder: Path | None, name: str, header_bytes: int) -> NDArray[np.uint8]:
    path = (folder or Path()) / "mnist" / name
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise DataInvalid(f"MNIST: {path} can't be read ({error}); name its parent folder with --data DIR") from None
    return np.frombuffer(content, dtype=np.uint8, offset=header_bytes)


task = Mnist()
