"""The model that every site of an encrypted run holds alike: each computes it from the same sums, bit for bit.

The server never sees it; `digest` is how the sites know that they agree. P is the length of the layout's vector, T the
number of its tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from cryptography.utils import Buffer
from numpy.typing import NDArray
from torch import Tensor

from federation.layout import Layout
from federation.optimizers import ModelState, Vector, advance
from federation.plan import Plan
from federation.tensors import pieces, views
from privacy.errors import DataInvalid, NotFinite
from privacy.packing import Ranges
from privacy.sealing import context

_FACTOR = 8.0
_FLOOR = 1e-3  # of the largest tensor's range, for a tensor that hardly moved
_LARGEST_VALUE = 1e9
_PARTS = ("vector", "first", "second", "average")


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class SharedModel:
    """What rounds hand on from site to site.

    round:      how many rounds are in it
    state:      the model, the optimizer's moments and the run's averaged model, each float32 (P,) or (0,)
    largest:    the largest absolute value of the last mean update in each tensor, (T,); empty before the first
    statistics: the noisy sums of all sites that `prepare` reads; empty where the plan asks for none
    digest:     SHA-256 of all of it, hex
    """

    round: int
    state: ModelState
    largest: tuple[float, ...] = ()
    statistics: tuple[float, ...] = ()
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", self._digest())

    @staticmethod
    def start(vector: Vector, plan: Plan) -> SharedModel:
        """Before round 1: the model that the plan's public seed draws."""
        return SharedModel(round=0, state=ModelState.start(vector, plan.aggregation))

    def informed(self, statistics: tuple[float, ...]) -> SharedModel:
        """The same model with the statistics that were released before round 1."""
        return SharedModel(round=self.round, state=self.state, largest=self.largest, statistics=statistics)

    def advanced(self, mean: Vector, plan: Plan, layout: Layout) -> SharedModel:
        """The model after the mean update, (P,), of the next round.

        Raises:
            NotFinite: the mean holds NaN, infinity or an absurdly large value.
        """
        largest = tuple(float(np.abs(part).max(initial=0.0)) for part in layout.parts(mean))
        if not all(value <= _LARGEST_VALUE for value in largest):  # NaN passes no comparison
            raise NotFinite(f"the sites' mean update holds NaN, infinity or a value beyond {_LARGEST_VALUE:g}")
        return SharedModel(
            round=self.round + 1,
            state=advance(self.state, mean, plan.aggregation),
            largest=largest,
            statistics=self.statistics,
        )

    def ranges(self, plan: Plan, layout: Layout, cohort: int) -> Ranges:
        """Public bounds on the values of the next updates, one for each tensor.

        The plan's; or in round 1, and after a mean of zeros, the plan's first; or 8 times the largest value of the last
        mean, more in cohorts beyond 16, because one site's noise is the root of the cohort times the mean's. The noise
        of private plans is alike in all tensors, and the mean of a small one small by chance: there the widest range is
        everybody's.
        """
        sizes = tuple(int(np.prod(shape)) for shape in layout.shapes)
        wide = max(self.largest, default=0.0)
        settings = plan.encryption
        if settings.range is not None or not wide:
            return Ranges(sizes, (settings.range or settings.first_range,) * len(sizes))
        factor = max(_FACTOR, 2 * cohort**0.5)
        least = wide if plan.is_private else wide * _FLOOR
        return Ranges(sizes, tuple(factor * max(value, least) for value in self.largest))

    def pieces(self) -> Iterator[Buffer]:
        """The model as bytes, piece by piece (safetensors)."""
        tensors: dict[str, Tensor] = {name: torch.from_numpy(getattr(self.state, name)) for name in _PARTS}
        notes = {"round": self.round, "largest": self.largest, "statistics": self.statistics}
        return pieces(tensors, {name: json.dumps(value) for name, value in notes.items()})

    @staticmethod
    def read(content: memoryview, layout: Layout) -> SharedModel:
        """The model of these bytes, which were authenticated before.

        Raises:
            DataInvalid: they hold none, or one of another layout.
        """
        tensors, notes = views(content)
        try:
            parts = {name: _vector(tensors, name) for name in _PARTS}
            found = SharedModel(
                round=int(notes["round"]),
                state=ModelState(**parts),
                largest=_numbers(notes["largest"]),
                statistics=_numbers(notes["statistics"]),
            )
        except (KeyError, ValueError, TypeError, OverflowError, RecursionError):
            raise DataInvalid("these bytes hold no model of an encrypted run") from None
        if {len(found.state.vector), len(found.state.average)} != {layout.length}:
            raise DataInvalid("the model has another length than this site's task makes")
        return found

    def _digest(self) -> str:
        state = self.state
        average = () if _same_bits(state.average, state.vector) else state.average
        parts = [np.asarray(part, "<f4") for part in (state.vector, state.first, state.second, average)]
        numbers = [np.asarray(part, "<f8") for part in (self.largest, self.statistics)]
        head = context("shared model", str(self.round).encode(), *(str(part.size).encode() for part in parts + numbers))
        digest = hashlib.sha256(head)
        for part in parts + numbers:
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def _same_bits(first: Vector, second: Vector) -> bool:
    return first is second or np.array_equal(first.view(np.uint32), second.view(np.uint32))


def _vector(tensors: Mapping[str, Tensor], name: str) -> NDArray[np.float32]:
    tensor = tensors[name]
    if tensor.dtype != torch.float32 or tensor.dim() != 1:
        raise ValueError
    return tensor.numpy()


def _numbers(text: str) -> tuple[float, ...]:
    values = json.loads(text)
    return tuple(float(value) for value in values)
