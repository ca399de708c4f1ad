"""A float32 vector as signed fixed-point fields, and several fields in one whole number, so that sums of many add up.

A site's value x, |x| at most R (public), enters as round(w x / s): its weight w comes first, and s = R / L is the step.
All weights add up to at most one, so a sum of n sites is at most L + n / 2 when each rounds to the nearest, or L + n
when it rounds by chance; L is chosen so that this is the largest number of a signed field. The decoded sum differs from
the exact one by at most n / 2 steps, or n. Fields of a block lie planar: value i of m shares its coefficient with those
at i + S, i + 2 S, where S coefficients hold the m values. A negative field borrows from the next one, and adding half a
field everywhere before taking them apart pays it back; so sums of packed numbers are packed sums, modulo t.

In array comments: m values, S coefficients of F fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from privacy.noise import RandomStream

_COEFFICIENT_BITS = 48


@dataclass(frozen=True, slots=True)
class Packing:
    """Fields of `bits` bits, as many as fit 48: 12, 14, 16, 24 for values, 42 or 48 for whole numbers."""

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in (12, 14, 16, 24, 42, 48):
            raise ValueError(f"no field has {self.bits} bits")

    @property
    def fields(self) -> int:
        """F, how many share a coefficient."""
        return _COEFFICIENT_BITS // self.bits

    @property
    def modulus_bits(self) -> int:
        """A coefficient is a number modulo t = 2 ** modulus_bits."""
        return self.fields * self.bits

    def largest(self, sites: int, stochastic: bool) -> int:
        """L: steps that a range may have, so that no sum of so many sites leaves its field.

        Raises:
            ValueError: not even one.
        """
        found = (1 << (self.bits - 1)) - 1 - (sites if stochastic else (sites + 1) // 2)
        if found < 1:
            raise ValueError(f"fields of {self.bits} bits can't hold the sum of {sites} sites")
        return found

    def pack(self, values: NDArray[np.int64], coefficients: int) -> NDArray[np.uint64]:
        """(m,) signed fields -> (coefficients,) numbers below t, of which the first S hold them."""
        held = -(-len(values) // self.fields)  # S
        planes = np.zeros((self.fields, held), np.int64)  # (F, S)
        planes.reshape(-1)[: len(values)] = values
        packed = np.zeros(coefficients, np.int64)
        total = packed[:held]
        for plane in planes[::-1]:
            total <<= self.bits
            total += plane
        packed &= (1 << self.modulus_bits) - 1
        return packed.view(np.uint64)

    def unpack(self, packed: NDArray[np.uint64], length: int) -> NDArray[np.int64]:
        """Numbers below t, the first S of which hold sums -> (length,) signed sums."""
        held = -(-length // self.fields)  # S
        half = 1 << (self.bits - 1)
        offset = sum(half << (self.bits * field) for field in range(self.fields))
        total = packed[:held] + np.uint64(offset)
        planes = np.empty((self.fields, held), np.uint64)  # (F, S)
        for field, plane in enumerate(planes):
            np.right_shift(total, np.uint64(self.bits * field), out=plane)
            plane &= np.uint64(2 * half - 1)
        fields = planes.view(np.int64)
        fields -= half
        return fields.reshape(-1)[:length]


@dataclass(frozen=True, slots=True)
class Ranges:
    """Public bounds R on the values of a vector, one for each tensor; `sizes` says how long each tensor is."""

    sizes: tuple[int, ...]
    bounds: tuple[float, ...]

    def pieces(self, start: int, stop: int) -> Iterator[tuple[slice, float]]:
        """The parts of values `start` to `stop` that share a bound, as slices from `start`."""
        for end, size, bound in zip(accumulate(self.sizes), self.sizes, self.bounds, strict=True):
            first, last = max(start, end - size), min(stop, end)
            if first < last:
                yield slice(first - start, last - start), bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How a site's values become fields.

    sites:      how many the cohort has, for all of which there must be room
    weight:     w, in (0, 1]
    stochastic: round up or down by chance, so that the expected value is exact; else to the nearest, ties to even
    """

    ranges: Ranges
    sites: int
    weight: float
    stochastic: bool = False


@dataclass(slots=True)
class Quantiser:
    """Values to fields and sums back, block by block; counts what it clips."""

    packing: Packing
    scale: Scale
    stream: RandomStream | None = None
    clipped: int = 0

    def encode(self, values: NDArray[np.float32], start: int) -> NDArray[np.int64]:
        """(m,) finite values, the first of which is value `start` of the vector -> (m,) fields."""
        fields = np.empty(len(values), np.float64)
        for part, bound in self.scale.ranges.pieces(start, start + len(values)):
            self.clipped += int(np.count_nonzero(np.abs(values[part]) > bound))
            clipped = np.clip(values[part], -bound, bound)
            np.multiply(clipped, self.scale.weight / self._step(bound), out=fields[part], dtype=np.float64)
        if self.scale.stochastic:
            assert self.stream is not None, "rounding by chance needs a stream"
            fields += self.stream.uniforms(len(fields))
            np.floor(fields, out=fields)
        else:
            np.rint(fields, out=fields)
        return fields.astype(np.int64)

    def decode(self, sums: NDArray[np.int64], start: int) -> NDArray[np.float64]:
        """(m,) sums of fields, the first of which is of value `start` -> (m,) sums of weighted values."""
        values = np.empty(len(sums))
        self.decode_into(values, sums, start)
        return values

    def decode_into(self, values: NDArray[np.float64], sums: NDArray[np.int64], start: int) -> None:
        """The same into (m,) `values`."""
        for part, bound in self.scale.ranges.pieces(start, start + len(sums)):
            np.multiply(sums[part], self._step(bound), out=values[part])

    def _step(self, bound: float) -> float:
        return bound / self.packing.largest(self.scale.sites, self.scale.stochastic)
