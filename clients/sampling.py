"""Who enters a step: every unit by its own coin (Poisson), whoever else is there. A unit is a record, or a group.

Of a group that enters at most `most` records are used: each choice of that many is equally likely, and every step draws
anew. A physical batch never cuts a group, because its gradients are summed before they are clipped.

In comments: n records, G groups, m records of the groups that entered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from federation.groups import numbered
from federation.rows import RowSource
from privacy.noise import RandomStream

Positions = NDArray[np.int64]


class Sampler(Protocol):
    """Draws the records of one step."""

    def draw(self, stream: RandomStream, sample_rate: float) -> list[Tensor]:
        """Positions of the step's records, one tensor a physical batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSampler:
    """Each record enters by its own coin."""

    rows: RowSource
    physical_batch: int

    def draw(self, stream: RandomStream, sample_rate: float) -> list[Tensor]:
        """The records whose coin said yes, in their order."""
        drawn = torch.from_numpy(stream.coins(len(self.rows), sample_rate).nonzero()[0])
        return list(drawn.to(self.rows.device).split(self.physical_batch))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSampler:
    """Each group enters by its own coin, in the order in which groups first appear among the records.

    members: (n,) positions of the records, group after group, ascending within each
    sizes:   (G,) records of each group
    most:    records of one group that a step uses; at most physical_batch
    """

    members: Positions
    sizes: Positions
    most: int
    physical_batch: int
    device: torch.device

    @staticmethod
    def of(rows: RowSource, units: Tensor, most: int, physical_batch: int) -> GroupSampler:
        """The sampler of these records, whose groups are `units`, (n,) int64.

        Raises:
            ValueError: a group's records would not fit a physical batch.
        """
        if most > physical_batch:
            raise ValueError(f"{most} records of a group do not fit a physical batch of {physical_batch}")
        group = numbered(units.cpu())
        return GroupSampler(
            members=group.argsort(stable=True).numpy(),
            sizes=torch.bincount(group).numpy(),
            most=most,
            physical_batch=physical_batch,
            device=rows.device,
        )

    def draw(self, stream: RandomStream, sample_rate: float) -> list[Tensor]:
        """The chosen records of the groups whose coin said yes, group after group."""
        entered = stream.coins(len(self.sizes), sample_rate)  # (G,)
        sizes = self.sizes[entered]
        records = self.members[np.repeat(entered, self.sizes)]  # (m,)
        chosen = records[self._chosen(sizes, stream)]
        batches = list(_whole_groups(np.minimum(sizes, self.most), self.physical_batch))
        return [torch.from_numpy(chosen[first:end]).to(self.device) for first, end in batches]

    def _chosen(self, sizes: Positions, stream: RandomStream) -> NDArray[np.bool_]:
        """Which of the m records are used: of a group larger than `most` those with the smallest of its uniforms."""
        large = np.repeat(sizes > self.most, sizes)  # (m,)
        ranks = np.zeros(len(large))
        ranks[large] = stream.uniforms(int(large.sum()))
        group = np.repeat(np.arange(len(sizes)), sizes)  # (m,)
        order = np.lexsort((ranks, group))
        place = np.arange(len(large)) - np.repeat(sizes.cumsum() - sizes, sizes)  # (m,), from 0 within each group
        chosen = np.zeros(len(large), dtype=np.bool_)
        chosen[order[place < self.most]] = True
        return chosen


def shuffled_batches(records: int, share: float, stream: RandomStream) -> Iterator[Tensor]:
    """Endless epochs of about share x n records a batch: for training whose steps no accountant prices."""
    size = max(1, round(share * records))
    while True:
        order = torch.from_numpy(stream.uniforms(records).argsort())  # (n,)
        yield from order.split(size)


def _whole_groups(sizes: Positions, most: int) -> Iterator[tuple[int, int]]:
    """First and end positions of batches of at most `most` records, each of as many whole groups as fit."""
    ends = sizes.cumsum()
    group = first = 0
    while group < len(sizes):
        group = int(np.searchsorted(ends, first + most, side="right"))
        end = int(ends[group - 1])
        yield first, end
        first = end
