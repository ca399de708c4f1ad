"""What a site's own engineer writes of it, and the mistakes in it that are refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from federation.plan import Plan, Scalar
from federation.site_info import SiteInfo
from privacy.errors import DataInvalid


def test_a_site_that_says_nothing_stands_alone_with_system_randomness() -> None:
    assert SiteInfo.from_node_config({}, Plan()) == SiteInfo(name="site-0", plan=Plan())


def test_a_site_is_what_its_node_config_says() -> None:
    config: dict[str, Scalar] = {
        "site-name": "north",
        "partition-id": 2,
        "num-partitions": 5,
        "data-folder": "/data/north",
        "declared-rows": 40,
        "declared-units": 12,
        "simulation-seed": 0,
        "something-of-flower": "x",
    }
    assert SiteInfo.from_node_config(config, Plan(rounds=3)) == SiteInfo(
        name="north",
        index=2,
        count=5,
        data_folder=Path("/data/north"),
        declared_rows=40,
        declared_units=12,
        simulation_seed=0,
        plan=Plan(rounds=3),
    )


def test_an_unnamed_site_is_named_after_its_place() -> None:
    assert SiteInfo.from_node_config({"partition-id": 3, "num-partitions": 4}, Plan()).name == "site-3"


def test_numbers_written_as_text_are_numbers() -> None:
    assert SiteInfo.from_node_config({"declared-rows": "40"}, Plan()).declared_rows == 40


@pytest.mark.parametrize(("index", "count"), [(1, 1), (5, 5), (-1, 5), (0, 0), (0, -1)])
def test_a_place_outside_the_federation_is_refused(index: int, count: int) -> None:
    with pytest.raises(DataInvalid, match=f"partition-id {index} is not below num-partitions {count}"):
        SiteInfo.from_node_config({"partition-id": index, "num-partitions": count}, Plan())


@pytest.mark.parametrize(
    "key", ["partition-id", "num-partitions", "declared-rows", "declared-units", "simulation-seed"]
)
@pytest.mark.parametrize("value", ["many", "", "1.5", 1.5, math.nan, math.inf, True])
def test_what_is_no_whole_number_is_refused_by_its_key(key: str, value: Scalar) -> None:
    with pytest.raises(DataInvalid, match=f"node config: {key} is {value!r}, but must be a whole number"):
        SiteInfo.from_node_config({key: value}, Plan())


def test_a_safe_without_a_data_set_is_a_site_whose_task_reads_its_own_files() -> None:
    found = SiteInfo.from_node_config({"safe": "/srv/north", "data-folder": "/data/north"}, Plan())
    assert (found.safe_folder, found.data_set) == (Path("/srv/north"), None)


def test_a_data_set_is_named_together_with_its_safe() -> None:
    found = SiteInfo.from_node_config({"safe": "/srv/north", "data-set": "heart"}, Plan())
    assert (found.safe_folder, found.data_set) == (Path("/srv/north"), "heart")
    with pytest.raises(DataInvalid, match="name the safe too"):
        SiteInfo.from_node_config({"data-set": "heart"}, Plan())


@pytest.mark.parametrize("rows", [-1, -1000])
def test_a_site_cannot_declare_fewer_than_no_rows(rows: int) -> None:
    with pytest.raises(DataInvalid, match=f"declared-rows is {rows}"):
        SiteInfo.from_node_config({"declared-rows": rows}, Plan())


def test_a_site_that_declares_no_rows_declares_nothing() -> None:
    assert SiteInfo.from_node_config({"declared-rows": 0}, Plan()).declared_rows is None


def test_declared_groups_may_not_be_negative_and_none_is_no_declaration() -> None:
    with pytest.raises(DataInvalid, match="declared-units is -1"):
        SiteInfo.from_node_config({"declared-units": -1}, Plan())
    assert SiteInfo.from_node_config({"declared-units": 0}, Plan()).declared_units is None
