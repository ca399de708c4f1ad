"""Two Gaussians in ten dimensions, 50 records a site, made at the site: any number of sites without a pool."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from federation.preparation import bound_norm
from federation.rows import Rows
from federation.site_info import SiteInfo
from federation.task import Task

_RECORDS, _DIMENSIONS, _DISTANCE = 50, 10, 1.5


class Synthetic(Task):
    """A linear model that tells two shifted Gaussians apart."""

    def rows(self, site: SiteInfo) -> Rows:
        rng = np.random.default_rng([site.plan.seed, site.index])
        labels = rng.integers(0, 2, _RECORDS)
        inputs = rng.normal(size=(_RECORDS, _DIMENSIONS)) + _DISTANCE * (labels[:, None] - 0.5)
        return Rows(fields={"x": torch.tensor(inputs, dtype=torch.float32), "y": torch.tensor(labels)})

    def prepare(self, rows: Rows) -> Rows:
        return rows.replace(x=bound_norm(rows["x"], bound=4.0))

    def model(self) -> nn.Module:
        return nn.Linear(_DIMENSIONS, 2)


task = Synthetic()
