"""Small tables on disk, and everything that reading them says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from federation.rows import Rows, concatenate
from federation.table_reading import Batch, read_batches
from federation.table_selection import Selection
from federation.table_source import BadCell


@dataclass(frozen=True)
class Outcome:
    """What reading gave: the batches, and every bad cell in the order of its report."""

    batches: Sequence[Batch]
    bad: Sequence[BadCell]

    @property
    def rows(self) -> Rows:
        return concatenate([batch.rows for batch in self.batches])

    @property
    def units(self) -> list[str]:
        return [unit for batch in self.batches for unit in batch.units or []]

    @property
    def told(self) -> list[str]:
        return [str(cell) for cell in self.bad]

    @property
    def x(self) -> list[list[float]]:
        return self.rows["x"].tolist() if self.batches else []

    @property
    def y(self) -> list[int]:
        return self.rows["y"].tolist() if self.batches else []


def read(path: Path, selection: Selection) -> Outcome:
    bad: list[BadCell] = []
    return Outcome(list(read_batches(path, selection, bad.append)), bad)


def csv_file(folder: Path, content: str | bytes, name: str = "heart.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def bits(tensor: Tensor) -> tuple[str, tuple[int, ...], bytes]:
    """A tensor as what is compared: to the bit, so that NaN equals itself."""
    assert tensor.is_contiguous()
    return str(tensor.dtype), tuple(tensor.shape), tensor.numpy().tobytes()
