"""Orders, reports and refusals as values: what both sides say, without Flower's words for it.

P is the length of the layout's vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from federation.layout import Layout
from privacy.entries import Purpose
from privacy.mechanism import Mechanism
from privacy.receipts import Receipt
from privacy.sealing import context
from privacy.shown import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a message belongs to: run id, round (from 1), plan hash and layout digest (hex)."""

    run: str
    round: int
    plan: str
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The server's wish: train on, or evaluate, this model vector of shape (P,), float32.

    shown:      the last signed checkpoint of every site's ledger that the server has seen, the asked site's among them
    statistics: the noisy sums of all sites that the task's `prepare` reads; empty where it reads none
    """

    address: Address
    cohort: int
    vector: NDArray[np.float32]
    shown: tuple[Shown, ...] = ()
    statistics: tuple[float, ...] = ()


class Report(Protocol):
    """What every report says of what it cost, in the clear or encrypted."""

    @property
    def address(self) -> Address: ...

    @property
    def site(self) -> str: ...

    @property
    def purpose(self) -> Purpose: ...

    @property
    def mechanism(self) -> Mechanism | None: ...

    @property
    def seeded(self) -> bool: ...

    @property
    def receipt(self) -> Receipt: ...

    @property
    def digest(self) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """A site's answer: its update of shape (P,), float32, and what making it cost.

    mechanism:     None where the plan has no privacy
    declared_rows: the site's public declaration, 0 where it made none
    seeded:        whether the noise came from a seed (simulations and tests only)
    receipt:       what proves that the site's ledger reserved the mechanism and settled this very update
    """

    address: Address
    site: str
    update: NDArray[np.float32]
    mechanism: Mechanism | None
    declared_rows: int
    seeded: bool
    receipt: Receipt

    @property
    def purpose(self) -> Purpose:
        """What is released."""
        return "update"

    @property
    def digest(self) -> bytes:
        """SHA-256 of what it says."""
        return digest_of_report(self.address, self.site, self.update)


@dataclass(frozen=True, slots=True, kw_only=True)
class SumsReport:
    """A site's sums: of metrics over its held-out records, or of statistics over its training records.

    mechanism: what their noise is; None: they are exact
    seeded, receipt: as in `TrainReport`
    """

    address: Address
    site: str
    purpose: Purpose
    sums: Mapping[str, Tensor]
    mechanism: Mechanism | None
    seeded: bool
    receipt: Receipt

    @property
    def digest(self) -> bytes:
        """SHA-256 of what it says."""
        return digest_of_sums(self.address, self.site, self.sums)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A site's no: the name of the error, and its message."""

    site: str
    error: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the server holds a report against.

    prices: the mechanism that the run's plan asks for, for each purpose that it has; None: the release is exact
    """

    address: Address
    layout: Layout
    prices: Mapping[Purpose, Mechanism | None]


def digest_of_report(address: Address, site: str, update: NDArray[np.float32]) -> bytes:
    """SHA-256 of what a training report says: what its site's ledger settles."""
    return _digest("train report", address, site, update.astype("<f4", copy=False).tobytes())


def digest_of_sums(address: Address, site: str, sums: Mapping[str, Tensor]) -> bytes:
    """SHA-256 of what a report of sums says."""
    parts = (part for name in sorted(sums) for part in (name.encode(), sums[name].numpy().astype("<f8").tobytes()))
    return _digest("sums report", address, site, *parts)


def _digest(what: str, address: Address, site: str, *body: bytes) -> bytes:
    named = (address.run, str(address.round), address.plan, address.layout, site)
    return hashlib.sha256(context(what, *(each.encode() for each in named), *body)).digest()
