"""Orders, reports and refusals as values: what both sides say, without Flower's words for it.

P is the length of the layout's vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from federation.layout import Layout
from privacy.mechanism import Mechanism


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a message belongs to: run id, round (from 1), plan hash and layout digest (hex)."""

    run: str
    round: int
    plan: str
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The server's wish: train on, or evaluate, this model vector of shape (P,), float32."""

    address: Address
    cohort: int
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """A site's answer: its update of shape (P,), float32, and what making it cost.

    mechanism:     None where the plan has no privacy
    declared_rows: the site's public declaration, 0 where it made none
    seeded:        whether the noise came from a seed (simulations and tests only)
    """

    address: Address
    site: str
    update: NDArray[np.float32]
    mechanism: Mechanism | None
    declared_rows: int
    seeded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateReport:
    """A site's plain metric sums over its held-out records."""

    address: Address
    site: str
    sums: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A site's no: the name of the error, and its message."""

    site: str
    error: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the server holds a report against."""

    address: Address
    layout: Layout
    mechanism: Mechanism | None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a site has promised in this run: the last round it took up, and the mechanism of each."""

    last_round: int = 0
    mechanisms: tuple[Mechanism, ...] = ()
