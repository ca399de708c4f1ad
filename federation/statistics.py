"""Private statistics for preprocessing: what a task may learn of the records of all sites before training.

Each site releases one noisy vector of bounded sums over its training records, once a run; the server adds the sites'
vectors, and every order carries the sum. For each column of a `Moments` a record contributes (1, x, x^2), x scaled by
public bounds into [0, 1]; for each column of a `Histogram` a one in its bin; a missing cell contributes nothing. So a
record's vector has an L2 norm of at most sqrt(3 d) for moments and sqrt(d) for histograms of d columns, together the
root of the sum of squares; Gaussian noise of noise_multiplier times that covers it (Dwork and Roth 2014, appendix A).
Means, variances and quantiles are post-processing.

In tensor comments: B records, d columns, K bins, V values of the vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from federation.rows import Rows
from privacy.errors import TaskInvalid

MOST_VALUES = 100_000

_SMALLEST_DEVIATION = 1e-3  # of a column's public range, so that nobody divides by nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Mean and variance of each column of a field.

    lower, upper: public bounds, one for each column; cells beyond them count as the bound
    """

    field: str
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def __post_init__(self) -> None:
        _refuse_bounds(self)

    @property
    def width(self) -> int:
        """V of this statistic."""
        return 3 * len(self.lower)

    @property
    def squared_bound(self) -> float:
        """Bound on the squared L2 norm of one record's vector."""
        return 3.0 * len(self.lower)

    def vectors(self, table: Tensor) -> Tensor:
        """(B, d) -> (B, 3 d): ones, values and squares, column by column."""
        scaled, there = _scaled(table, self)  # (B, d)
        return torch.stack([there, scaled, scaled**2], dim=2).reshape(len(table), self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How many cells of each column of a field lie in each of `bins` equal bins between public bounds."""

    field: str
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    bins: int

    def __post_init__(self) -> None:
        _refuse_bounds(self)
        if not 1 <= self.bins <= 10_000:
            raise TaskInvalid(f"statistics of field {self.field!r}: a histogram has 1 to 10,000 bins, not {self.bins}")

    @property
    def width(self) -> int:
        """V of this statistic."""
        return self.bins * len(self.lower)

    @property
    def squared_bound(self) -> float:
        """Bound on the squared L2 norm of one record's vector."""
        return float(len(self.lower))

    def vectors(self, table: Tensor) -> Tensor:
        """(B, d) -> (B, d K)."""
        scaled, there = _scaled(table, self)  # (B, d)
        place = (scaled * self.bins).long().clamp(max=self.bins - 1)
        bins = torch.zeros(*place.shape, self.bins, dtype=torch.float64)  # (B, d, K)
        return bins.scatter_(2, place[:, :, None], there[:, :, None]).reshape(len(table), self.width)


Statistic: TypeAlias = Moments | Histogram


def width(statistics: Sequence[Statistic]) -> int:
    """V: how many values a site releases.

    Raises:
        TaskInvalid: more than a message holds.
    """
    found = sum(each.width for each in statistics)
    if found > MOST_VALUES:
        raise TaskInvalid(
            f"the task's statistics have {found:,} values, but {MOST_VALUES:,} are the most: ask for fewer bins or "
            "columns"
        )
    return found


def bound(statistics: Sequence[Statistic]) -> float:
    """The L2 bound on one unit's vector."""
    return math.sqrt(sum(each.squared_bound for each in statistics))


def vectors(statistics: Sequence[Statistic], rows: Rows) -> Tensor:
    """What each record contributes: (B, V) float64.

    Raises:
        TaskInvalid: a field is missing, or has another number of columns than there are bounds.
    """
    parts = []
    for each in statistics:
        if each.field not in rows.fields:
            raise TaskInvalid(f"the task asks for statistics of field {each.field!r}, which its records have not")
        table = rows[each.field].reshape(len(rows), math.prod(rows[each.field].shape[1:])).cpu()
        if table.shape[1] != len(each.lower):
            raise TaskInvalid(
                f"statistics of field {each.field!r}: bounds for {len(each.lower)} columns, but it has {table.shape[1]}"
            )
        parts.append(each.vectors(table))
    return torch.cat(parts, dim=1)


class Learned:
    """What the noisy sums of all sites say, read by the task's `prepare`."""

    def __init__(self, statistics: Sequence[Statistic], values: Sequence[float]) -> None:
        """values: (V,) noisy sums, in the order of the statistics."""
        if len(values) != width(statistics):
            raise TaskInvalid(f"the task's statistics have {width(statistics)} values, but {len(values)} came")
        parts = torch.tensor(list(values), dtype=torch.float64).split([each.width for each in statistics])
        self._parts = dict(zip(statistics, parts, strict=True))

    def mean(self, field: str) -> Tensor:
        """Mean of each column, within its bounds: (d,) float32."""
        statistic, _, first, _ = self._moments(field)
        return (_tensor(statistic.lower) + first * _range(statistic)).float()

    def deviation(self, field: str) -> Tensor:
        """Standard deviation of each column: (d,) float32, at least a thousandth of the column's public range."""
        statistic, _, first, second = self._moments(field)
        variance = (second - first**2).clamp(_SMALLEST_DEVIATION**2, 0.25)
        return (variance.sqrt() * _range(statistic)).float()

    def counts(self, field: str) -> Tensor:
        """Cells in each bin of each column, never below zero: (d, K) float32."""
        statistic, part = self._found(field, Histogram)
        return part.reshape(len(statistic.lower), -1).clamp(min=0).float()

    def quantile(self, field: str, share: float) -> Tensor:
        """The value below which this share of each column's cells lies, straight within a bin: (d,) float32."""
        if not 0 <= share <= 1:
            raise ValueError(f"a quantile's share lies in [0, 1], not {share}")
        statistic, _ = self._found(field, Histogram)
        counts = self.counts(field).double()  # (d, K)
        counts = torch.where(counts.sum(dim=1, keepdim=True) > 0, counts, torch.ones_like(counts))
        shares = counts.cumsum(dim=1) / counts.sum(dim=1, keepdim=True)
        place = (shares < share).sum(dim=1, keepdim=True).clamp(max=counts.shape[1] - 1)  # (d, 1)
        before = (shares - counts / counts.sum(dim=1, keepdim=True)).gather(1, place)
        inside = ((share - before) / (shares.gather(1, place) - before).clamp(min=1e-12)).clamp(0, 1)
        scaled = ((place + inside) / counts.shape[1])[:, 0]
        return (_tensor(statistic.lower) + scaled * _range(statistic)).float()

    def _moments(self, field: str) -> tuple[Statistic, Tensor, Tensor, Tensor]:
        statistic, part = self._found(field, Moments)
        count, first, second = part.reshape(-1, 3).T  # (d,) each
        safe = count.clamp(min=1)
        return statistic, safe, (first / safe).clamp(0, 1), (second / safe).clamp(0, 1)

    def _found(self, field: str, kind: type[Statistic]) -> tuple[Statistic, Tensor]:
        for statistic, part in self._parts.items():
            if statistic.field == field and isinstance(statistic, kind):
                return statistic, part
        raise TaskInvalid(f"the task asked for no {kind.__name__} of field {field!r}")


def _scaled(table: Tensor, statistic: Statistic) -> tuple[Tensor, Tensor]:
    """Cells in [0, 1], zero where they are missing, and which are there: (B, d) float64 each."""
    cells = table.double()
    there = cells.isfinite()
    scaled = ((cells - _tensor(statistic.lower)) / _range(statistic)).nan_to_num(0.0).clamp(0, 1)
    return torch.where(there, scaled, torch.zeros_like(scaled)), there.double()


def _tensor(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _range(statistic: Statistic) -> Tensor:
    return _tensor(statistic.upper) - _tensor(statistic.lower)


def _refuse_bounds(statistic: Statistic) -> None:
    lower, upper = statistic.lower, statistic.upper
    fair = isinstance(lower, tuple) and isinstance(upper, tuple) and len(lower) == len(upper) > 0
    if not fair or not all(math.isfinite(b - a) and a < b for a, b in zip(lower, upper, strict=False)):
        raise TaskInvalid(
            f"statistics of field {statistic.field!r}: give tuples of one finite lower and one larger upper public "
            "bound a column"
        )
