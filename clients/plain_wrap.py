"""Reports in the clear: the server reads every update and every sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clients.declaration import declared_rows
from clients.wrap import Price, Wrapped
from federation.orders import Order, SumsReport, TrainReport, digest_of_report, digest_of_sums
from federation.site_info import SiteInfo
from privacy.entries import Purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainUpdate:
    """Makes training reports in the clear."""

    order: Order
    info: SiteInfo

    def __call__(self, update: NDArray[np.float32], price: Price) -> Wrapped[TrainReport]:
        """Of an update, (P,)."""
        return Wrapped(
            digest=digest_of_report(self.order.address, self.info.name, update),
            with_receipt=lambda receipt: TrainReport(
                address=self.order.address,
                site=self.info.name,
                update=update,
                mechanism=price.mechanism,
                declared_rows=declared_rows(self.info, self.info.plan),
                seeded=price.seeded,
                receipt=receipt,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainSums:
    """Makes reports of sums in the clear."""

    order: Order
    info: SiteInfo
    purpose: Purpose

    def __call__(self, sums: Mapping[str, Tensor], price: Price) -> Wrapped[SumsReport]:
        """Of float64 sums."""
        return Wrapped(
            digest=digest_of_sums(self.order.address, self.info.name, sums),
            with_receipt=lambda receipt: SumsReport(
                address=self.order.address,
                site=self.info.name,
                purpose=self.purpose,
                sums=sums,
                mechanism=price.mechanism,
                seeded=price.seeded,
                receipt=receipt,
            ),
        )
