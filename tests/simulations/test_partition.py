"""Ways to cut a pool of records into sites: nobody's record stands at two sites, and a seed cuts the same way again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from federation.plan import Plan
from federation.plan_settings import DataSettings, PrivacySettings
from federation.rows import Rows
from federation.site_info import SiteInfo
from privacy.errors import DataInvalid
from simulations.partition import Positions, by_column, dirichlet, groups_whole, iid, partition, quantity, shards
from simulations.pooled_task import PooledTask

WAYS = ["iid", "dirichlet", "shards", "quantity", "column"]
COVERING = ["iid", "dirichlet", "shards"]


def pool_of(records: int, classes: int = 5, hospitals: int = 6) -> Rows:
    position = torch.arange(records)
    return Rows(fields={"x": position, "y": position * 7 % classes, "hospital": position * position % hospitals})


def cut(way: str, records: int = 600, sites: int = 4, seed: int = 1, **values: float) -> Positions:
    chosen = DataSettings(partition=way, partition_column="hospital", **values)  # type: ignore[arg-type]
    return partition(pool_of(records), "y", sites, chosen, seed)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def class_shares(parts: Positions, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(sites, classes): each row sums to one."""
    counts = np.array([np.bincount(labels[part], minlength=labels.max() + 1) for part in parts])
    return counts / counts.sum(axis=1, keepdims=True)


def unevenness(parts: Positions, labels: NDArray[np.int64]) -> float:
    """Mean over sites of the total variation between a site's classes and the pool's."""
    pool = np.bincount(labels) / len(labels)
    return float(np.abs(class_shares(parts, labels) - pool).sum(axis=1).mean() / 2)


@pytest.mark.parametrize("way", WAYS)
@given(
    records=st.integers(30, 300),
    sites=st.integers(1, 6),
    seed=st.integers(0, 2**63 - 1),
    alpha=st.floats(0.05, 100),
    spread=st.floats(0, 4),
)
@settings(deadline=None, max_examples=25)
def test_sites_are_disjoint_and_hold_records_of_the_pool_only(
    way: str, records: int, sites: int, seed: int, alpha: float, spread: float
) -> None:
    try:
        parts = cut(way, records, sites, seed, alpha=alpha, size_spread=spread)
    except DataInvalid:
        return
    together = np.concatenate(parts)
    assert len(parts) == sites
    assert all(len(part) > 0 for part in parts)
    assert len(set(together.tolist())) == len(together)
    assert set(together.tolist()) <= set(range(records))
    if way in COVERING:
        assert len(together) == records
    if way == "quantity":
        assert len(together) > records - sites


@pytest.mark.parametrize("way", WAYS)
def test_the_same_seed_cuts_the_same_way_and_another_cuts_another(way: str) -> None:
    first, again, other = (cut(way, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert way == "column" or any(not np.array_equal(one, two) for one, two in zip(first, other, strict=True))


def test_iid_sites_are_equal_in_size_and_alike_in_kind() -> None:
    assert [len(part) for part in iid(10, 3, rng())] == [4, 3, 3]
    labels = np.arange(6000) * 7 % 5
    assert unevenness(iid(6000, 4, rng()), labels) < 0.03


def test_iid_sites_are_shuffled() -> None:
    assert not np.array_equal(np.concatenate(iid(50, 2, rng())), np.arange(50))


def test_a_small_alpha_is_more_uneven_than_a_large_one() -> None:
    labels = np.arange(5000) % 10
    uneven = {alpha: unevenness(dirichlet(labels, 10, alpha, rng()), labels) for alpha in (0.1, 1.0, 1000.0)}
    assert uneven[0.1] > 0.5 > uneven[1.0] + 0.1
    assert uneven[1.0] > 0.2 > uneven[1000.0] + 0.1


def test_dirichlet_leaves_no_site_nearly_empty() -> None:
    labels = np.arange(2000) % 10
    for seed in range(5):
        assert min(map(len, dirichlet(labels, 10, 0.3, rng(seed)))) >= 20


def test_dirichlet_shares_have_the_mean_of_their_distribution() -> None:
    labels = np.zeros(10_000, dtype=np.int64)
    sizes = np.array([[len(part) for part in dirichlet(labels, 4, 5.0, rng(seed))] for seed in range(60)])
    variance = 0.25 * 0.75 / (4 * 5.0 + 1)  # of one share: mean 1/4, concentration 20
    assert np.abs(sizes.mean(axis=0) / 10_000 - 0.25).max() < 5 * (variance / 60) ** 0.5
    assert sizes[:, 0].std() / 10_000 == pytest.approx(variance**0.5, rel=0.4)


@pytest.mark.parametrize("each", [1, 2, 3])
def test_a_site_of_k_shards_holds_at_most_k_labels_where_shards_and_labels_fit(each: int) -> None:
    labels = rng().permutation(np.arange(1200) % 10)  # 120 of each label; shards of 1200 / (20 k), which divides 120
    parts = shards(labels, 20, each, rng())
    assert [len(part) for part in parts] == [60] * 20
    assert max(len(set(labels[part])) for part in parts) <= each


def test_a_shard_that_straddles_labels_adds_at_most_one_each() -> None:
    labels = np.arange(1000) % 7
    parts = shards(labels, 15, 2, rng())
    assert max(len(set(labels[part])) for part in parts) <= 4


def test_quantity_skew_gives_every_site_a_record_and_spreads_sizes_as_asked() -> None:
    even = [len(part) for part in quantity(1000, 10, 0.0, rng())]
    uneven = [len(part) for part in quantity(1000, 10, 2.0, rng())]
    assert even == [100] * 10
    assert min(uneven) >= 1
    assert max(uneven) > 5 * min(uneven)
    assert 990 < sum(uneven) <= 1000


def test_quantity_skew_has_the_lognormal_spread_and_not_two_thirds_or_three_halves_of_it() -> None:
    sizes = np.array([len(part) for part in quantity(4_000_000, 2000, 1.0, rng())], dtype=np.float64)
    spread = float(np.log(sizes).std())
    assert spread == pytest.approx(1.0, abs=0.08)
    assert spread != pytest.approx(2 / 3, abs=0.08)
    assert spread != pytest.approx(3 / 2, abs=0.08)


def test_a_column_gives_one_site_a_value_the_most_frequent_first() -> None:
    parts = by_column(np.array([5, 3, 5, 9, 3, 5]), 2)
    assert [part.tolist() for part in parts] == [[0, 2, 5], [1, 4]]


def test_columns_of_equal_frequency_are_taken_in_ascending_order() -> None:
    assert [part.tolist() for part in by_column(np.array([2, 1, 2, 1]), 2)] == [[1, 3], [0, 2]]


def test_a_column_of_too_few_values_is_refused() -> None:
    with pytest.raises(DataInvalid, match="the column has 6 values, which is fewer than the 7 sites"):
        partition(
            Rows(fields={"y": torch.zeros(60), "hospital": torch.arange(60) % 6}),
            "y",
            7,
            DataSettings(partition="column", partition_column="hospital"),
            1,
        )


def test_a_column_that_is_not_there_is_refused_by_its_name() -> None:
    with pytest.raises(DataInvalid, match="no field 'clinic'"):
        partition(pool_of(60), "y", 2, DataSettings(partition="column", partition_column="clinic"), 1)


@pytest.mark.parametrize("way", ["dirichlet", "shards"])
def test_a_label_that_is_not_there_is_refused_by_its_name(way: str) -> None:
    with pytest.raises(DataInvalid, match="no field 'diagnosis'"):
        partition(pool_of(60), "diagnosis", 2, DataSettings(partition=way), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["iid", "dirichlet", "shards", "quantity"])
@pytest.mark.parametrize("records", [1, 3, 9])
def test_more_sites_than_records_are_refused_with_a_remedy(way: str, records: int) -> None:
    for seed in range(5):
        with pytest.raises(DataInvalid, match=rf"{records} records over 10 sites by {way} leaves \d+ sites .* fewer"):
            cut(way, records=records, sites=10, seed=seed, size_spread=3.0)


class Numbers(PooledTask):
    """Counts how often its pool is made."""

    made = 0

    def pool(self, folder: Path | None) -> Rows:
        self.made += 1
        return pool_of(100)

    def model(self) -> nn.Module:
        return nn.Linear(1, 5)


@pytest.mark.parametrize("way", ["iid", "dirichlet"])
def test_the_sites_of_a_pooled_task_are_the_pool_cut_as_the_plan_says(way: str) -> None:
    task, plan = Numbers(), Plan(seed=3, data=DataSettings(partition=way))  # type: ignore[arg-type]
    sites = [task.rows(SiteInfo(name=f"site-{k}", index=k, count=4, plan=plan)) for k in range(4)]
    expected = partition(pool_of(100), "y", 4, plan.data, 3)
    assert [site["x"].tolist() for site in sites] == [part.tolist() for part in expected]
    assert task.made == 1


def test_two_plans_of_one_pooled_task_are_not_mixed_up() -> None:
    task = Numbers()
    by_seed = [task.rows(SiteInfo(name="a", count=4, plan=Plan(seed=seed)))["x"].tolist() for seed in (1, 2, 1)]
    assert by_seed[0] == by_seed[2] != by_seed[1]


def test_a_group_goes_with_all_its_records_to_the_site_of_its_first() -> None:
    units = np.array([5, 7, 5, 8, 7, 9, 5])
    whole = groups_whole([np.array([6, 1, 3]), np.array([0, 4, 2])], units)  # record 5 stands at no site
    assert [part.tolist() for part in whole] == [[1, 3, 4], [0, 2, 6]]
    with pytest.raises(DataInvalid, match="leaves 1 of 2 sites without one"):
        groups_whole([np.array([0]), np.array([2])], units)


@pytest.mark.parametrize("way", WAYS)
def test_a_pool_is_cut_between_groups_where_the_plan_protects_groups(way: str) -> None:
    units = torch.arange(600) * 31 % 97

    class Pool(PooledTask):
        def pool(self, folder: Path | None) -> Rows:
            return Rows(fields=pool_of(600).fields, units=units)

        def model(self) -> nn.Module:
            raise NotImplementedError

    task, data = Pool(), DataSettings(partition=way, partition_column="hospital")  # type: ignore[arg-type]
    agreed = Plan(data=data, privacy=PrivacySettings(unit="group"))
    parts = [task.rows(SiteInfo(name="", index=index, count=3, plan=agreed)) for index in range(3)]
    owners = [set(part.units.tolist()) for part in parts]  # type: ignore[union-attr]
    assert not any(owners[one] & owners[other] for one, other in ((0, 1), (0, 2), (1, 2)))
    by_record = [task.rows(SiteInfo(name="", index=index, count=3, plan=Plan(data=data))) for index in range(3)]
    assert sum(map(len, parts)) == sum(map(len, by_record))
