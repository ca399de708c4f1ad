"""How what a site releases is made ready to leave: in the clear, or encrypted. Nothing leaves before it is settled.

P is the length of the layout's vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from privacy.mechanism import Mechanism
from privacy.receipts import Receipt

Released = TypeVar("Released")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a release costs, None where the plan has no privacy, and whether its noise came from a seed."""

    mechanism: Mechanism | None
    seeded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped(Generic[Released]):
    """A release that may leave once its digest is settled in the site's ledger.

    digest:       SHA-256 of what it says
    with_receipt: the report, with what the ledger shows
    """

    digest: bytes
    with_receipt: Callable[[Receipt], Released]


WrapUpdate: TypeAlias = Callable[[NDArray[np.float32], Price], Wrapped[Released]]  # an update, (P,)
WrapSums: TypeAlias = Callable[[Mapping[str, Tensor], Price], Wrapped[Released]]  # float64 sums
