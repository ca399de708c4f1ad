"""Named tensors of a model <-> one flat float32 vector, which is all that travels.

The vector holds the trainable parameters in the model's own order, then floating-point buffers (running statistics of
models trained without privacy). P is its length.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Layout:
    """Which tensors a vector holds, in which order and shape."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(model: nn.Module) -> Layout:
        """The layout of a model: every copy of the same model has the same one."""
        tensors = travelling_tensors(model)
        return Layout(names=tuple(tensors), shapes=tuple(tuple(tensor.shape) for tensor in tensors.values()))

    @property
    def length(self) -> int:
        """P, the number of float32 values."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def digest(self) -> str:
        """SHA-256 of names and shapes, hex: two sides with the same digest mean the same tensors."""
        return hashlib.sha256(json.dumps([self.names, self.shapes]).encode()).hexdigest()

    def flatten(self, model: nn.Module) -> NDArray[np.float32]:
        """The model's tensors as a fresh vector, shape (P,)."""
        tensors = travelling_tensors(model)
        parts = [tensors[name].detach().to("cpu", torch.float32).reshape(-1) for name in self.names]
        return torch.cat(parts).numpy().copy()

    def load(self, model: nn.Module, vector: NDArray[np.float32]) -> None:
        """Writes a vector of shape (P,) into the model's tensors, in place."""
        with torch.no_grad():
            for tensor, part in zip(travelling_tensors(model).values(), self.parts(vector), strict=True):
                tensor.copy_(torch.tensor(part))

    def named(self, vector: NDArray[np.float32]) -> dict[str, Tensor]:
        """The vector's tensors by name, as views of it."""
        return {name: torch.from_numpy(part) for name, part in zip(self.names, self.parts(vector), strict=True)}

    def parts(self, vector: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Views of the vector, one for each tensor, in the layout's order and shapes."""
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        pieces = np.split(vector, np.cumsum(sizes)[:-1])
        return [piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]


def travelling_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, then floating-point buffers, by name."""
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    buffers = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    return {**trainable, **buffers}
