"""Sums over a site's units of privacy of vectors that are bounded for each record, whatever the unit is.

A unit contributes the mean of its records' vectors: so the bound on a record's vector is the bound on a unit's, and the
sum changes by at most that when a unit is added or removed. Memory does not grow with the number of records, only with
the number of groups.

In tensor comments: B records of a batch, V values of a vector, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class UnitSum:
    """Takes records batch by batch and gives the sum over units, (V,) float64.

    unit:  "record", "group" or "client"
    width: V
    """

    unit: str
    width: int
    _totals: Tensor = field(init=False)
    _counts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._totals = torch.zeros(0, self.width, dtype=torch.float64)  # (G, V): one row alone but for groups
        self._counts = torch.zeros(0, dtype=torch.float64)  # (G,)

    def add(self, vectors: Tensor, units: Tensor | None) -> None:
        """Takes the vectors of a batch, (B, V), and for unit group the number of each record's group, (B,) int64."""
        if self.unit == "group" and units is None:
            raise ValueError("groups are to be summed, and the records do not say theirs")
        number = units.cpu() if self.unit == "group" and units is not None else vectors.new_zeros(len(vectors)).long()
        missing = (int(number.max()) + 1 if len(number) else 0) - len(self._counts)
        if missing > 0:
            self._totals = torch.cat([self._totals, self._totals.new_zeros(missing, self.width)])
            self._counts = torch.cat([self._counts, self._counts.new_zeros(missing)])
        self._totals.index_add_(0, number, vectors)
        self._counts.index_add_(0, number, torch.ones(len(number), dtype=torch.float64))

    def result(self) -> Tensor:
        """The sum over units, (V,) float64."""
        if self.unit == "record":
            return self._totals.sum(dim=0)
        return (self._totals / self._counts.clamp(min=1)[:, None]).sum(dim=0)
