"""How a pool of records becomes sites. Each way gives one array of positions a site, disjoint, from a public seed.

n is the number of records in the pool.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from federation.plan_settings import DataSettings
from federation.rows import Rows
from privacy.errors import DataInvalid

Positions = list[NDArray[np.int64]]


def partition(pool: Rows, label: str, sites: int, settings: DataSettings, seed: int) -> Positions:
    """Positions of each site's records in the pool, in the way that `settings.partition` names.

    label: the field by which Dirichlet and shards divide

    Raises:
        DataInvalid: some site would get no record, or the column has fewer values than there are sites.
    """
    rng = np.random.default_rng([seed, sites])
    ways: dict[str, Callable[[], Positions]] = {
        "iid": lambda: iid(len(pool), sites, rng),
        "dirichlet": lambda: dirichlet(pool[label].numpy(), sites, settings.alpha, rng),
        "shards": lambda: shards(pool[label].numpy(), sites, settings.shards_per_site, rng),
        "quantity": lambda: quantity(len(pool), sites, settings.size_spread, rng),
        "column": lambda: by_column(pool[settings.partition_column].numpy(), sites),
    }
    found = ways[settings.partition]()
    empty = sum(len(positions) == 0 for positions in found)
    if empty:
        raise DataInvalid(
            f"dividing {len(pool)} records over {sites} sites by {settings.partition} leaves {empty} sites without a "
            "record: ask for fewer sites, or divide more evenly (larger data.alpha, smaller data.size_spread)"
        )
    return found


def iid(records: int, sites: int, rng: np.random.Generator) -> Positions:
    """Shuffled and cut into equal parts."""
    return np.array_split(rng.permutation(records), sites)


def dirichlet(labels: NDArray[np.int64], sites: int, alpha: float, rng: np.random.Generator) -> Positions:
    """Each class divided over sites in Dirichlet(alpha) proportions (Hsu et al. 2019), no site nearly empty.

    A draw that leaves a site fewer than a tenth of its even share is drawn again, up to 100 times.
    """
    fewest = max(1, len(labels) // sites // 10)
    best: Positions = []
    for _ in range(100):
        drawn = _dirichlet_once(labels, sites, alpha, rng)
        if not best or min(map(len, drawn)) > min(map(len, best)):
            best = drawn
        if min(map(len, best)) >= fewest:
            break
    return best


def shards(labels: NDArray[np.int64], sites: int, shards_per_site: int, rng: np.random.Generator) -> Positions:
    """Sorted by label, cut into equal shards, each site dealt a few (McMahan et al. 2017, section 3)."""
    pieces = np.array_split(labels.argsort(kind="stable"), sites * shards_per_site)
    dealt = rng.permutation(len(pieces)).reshape(sites, shards_per_site)
    return [np.concatenate([pieces[piece] for piece in hand]) for hand in dealt]


def quantity(records: int, sites: int, spread: float, rng: np.random.Generator) -> Positions:
    """Alike in kind, lognormal in size; every site gets at least one record."""
    share = rng.lognormal(sigma=spread, size=sites)
    sizes = 1 + np.floor(share / share.sum() * (records - sites)).astype(np.int64)
    return np.split(rng.permutation(records)[: sizes.sum()], np.cumsum(sizes)[:-1])


def by_column(values: NDArray[np.int64], sites: int) -> Positions:
    """Natural sites: one for each value of a column, the most frequent values first.

    Raises:
        DataInvalid: the column has fewer values than there are sites.
    """
    found, counts = np.unique(values, return_counts=True)
    if len(found) < sites:
        raise DataInvalid(f"the column has {len(found)} values, which is fewer than the {sites} sites asked for")
    chosen = found[np.argsort(-counts, kind="stable")[:sites]]
    return [np.flatnonzero(values == value) for value in chosen]


def groups_whole(parts: Positions, units: NDArray[np.int64]) -> Positions:
    """The same division, but each group with all its records at the site that got the first of them.

    Raises:
        DataInvalid: some site is left without a group.
    """
    site = np.full(len(units), -1)
    for number, part in enumerate(parts):
        site[part] = number
    dealt = np.flatnonzero(site >= 0)
    _, first, group = np.unique(units[dealt], return_index=True, return_inverse=True)
    home = site[dealt][first][group]
    whole = [dealt[home == number] for number in range(len(parts))]
    empty = sum(len(part) == 0 for part in whole)
    if empty:
        raise DataInvalid(
            f"keeping groups whole leaves {empty} of {len(parts)} sites without one: ask for fewer sites, or divide by "
            "a column that names a group's site (data.partition = 'column')"
        )
    return whole


def _dirichlet_once(labels: NDArray[np.int64], sites: int, alpha: float, rng: np.random.Generator) -> Positions:
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(sites)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        cuts = (np.cumsum(rng.dirichlet(np.full(sites, alpha)))[:-1] * len(members)).astype(np.int64)
        for part, piece in zip(parts, np.split(members, cuts), strict=True):
            part.append(piece)
    return [np.concatenate(part) for part in parts]
