"""A task whose sites are cut from one pool of records, as the plan's data settings say: for scenarios and user apps."""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from pathlib import Path

import torch

from federation.plan_settings import DataSettings
from federation.rows import Rows
from federation.site_info import SiteInfo
from federation.task import Task
from simulations.partition import Positions, groups_whole, partition


class PooledTask(Task):
    """Give `pool`; `rows` is then one site's part of it, which holds groups whole if the plan protects groups."""

    label = "y"

    @abstractmethod
    def pool(self, folder: Path | None) -> Rows:
        """All records of all sites. `folder` is what `--data` names."""

    def rows(self, site: SiteInfo) -> Rows:
        """The site's part of the pool."""
        pool = _pool(self, site.data_folder)
        whole = site.plan.privacy.unit == "group" and pool.units is not None
        parts = _parts(self, site.data_folder, site.count, site.plan.data, site.plan.seed, whole)
        return pool.take(torch.from_numpy(parts[site.index]))


@lru_cache(maxsize=4)
def _pool(task: PooledTask, folder: Path | None) -> Rows:
    return task.pool(folder)


@lru_cache(maxsize=4)
def _parts(
    task: PooledTask, folder: Path | None, sites: int, settings: DataSettings, seed: int, whole: bool
) -> Positions:
    pool = _pool(task, folder)
    parts = partition(pool, task.label, sites, settings, seed)
    return groups_whole(parts, pool.units.numpy()) if whole and pool.units is not None else parts
