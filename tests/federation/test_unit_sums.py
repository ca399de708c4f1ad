"""A unit's contribution to a sum is the mean of its records': no unit moves the sum further than one record may."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from federation.unit_sums import UnitSum

BOUND = 2**0.5  # of a record's vector in these tests: two values in [0, 1]
CELL = st.floats(0, 1)
TABLE = st.lists(st.tuples(CELL, CELL), max_size=12)


def table(rows: list[tuple[float, float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)


def summed(unit: str, vectors: Tensor, groups: list[int] | None = None, size: int = 100) -> Tensor:
    total = UnitSum(unit, 2)
    for positions in torch.arange(len(vectors)).split(size):
        total.add(vectors[positions], None if groups is None else torch.tensor(groups, dtype=torch.int64)[positions])
    return total.result()


THREE = table([(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])


def test_records_are_added_as_they_are() -> None:
    assert summed("record", THREE).tolist() == [1.5, 1.5]


def test_a_group_counts_once_however_many_records_it_has() -> None:
    assert summed("group", THREE, [0, 0, 1]).tolist() == [0.75, 0.25 + 1.0]
    assert summed("group", THREE.repeat(50, 1), [0, 0, 1] * 50).tolist() == pytest.approx([0.75, 1.25])


def test_a_client_counts_once() -> None:
    assert summed("client", THREE).tolist() == [0.5, 0.5]
    assert summed("client", THREE, [0, 0, 1]).tolist() == [0.5, 0.5]


def test_records_that_know_their_groups_are_summed_as_records_where_a_record_is_the_unit() -> None:
    assert summed("record", THREE, [0, 0, 1]).tolist() == [1.5, 1.5]


@pytest.mark.parametrize("unit", ["record", "group", "client"])
def test_nobody_gives_zero(unit: str) -> None:
    assert UnitSum(unit, 3).result().tolist() == [0.0, 0.0, 0.0]
    assert summed(unit, table([]), []).tolist() == [0.0, 0.0]


def test_groups_that_nobody_named_are_refused() -> None:
    with pytest.raises(ValueError, match="the records do not say theirs"):
        summed("group", THREE)


@pytest.mark.parametrize("unit", ["record", "group", "client"])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_how_records_are_batched_changes_nothing(unit: str, size: int) -> None:
    vectors = torch.rand(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    groups = [number * number % 7 for number in range(40)]
    assert torch.allclose(summed(unit, vectors, groups, size), summed(unit, vectors, groups), rtol=0, atol=1e-12)


@given(TABLE, st.tuples(CELL, CELL), st.integers(0, 12))
def test_a_record_moves_the_sum_by_at_most_its_bound(
    others: list[tuple[float, float]], one: tuple[float, float], place: int
) -> None:
    without, with_it = table(others), table([*others[:place], one, *others[place:]])
    assert torch.dist(summed("record", with_it), summed("record", without)) <= BOUND + 1e-9


@given(TABLE, st.lists(st.tuples(CELL, CELL), min_size=1, max_size=30), st.integers(1, 5))
def test_a_group_of_many_records_moves_the_sum_by_at_most_a_records_bound(
    others: list[tuple[float, float]], group: list[tuple[float, float]], apart: int
) -> None:
    groups = [number % apart for number in range(len(others))]
    with_it = summed("group", table([*others, *group]), [*groups, *[apart] * len(group)])
    assert torch.dist(with_it, summed("group", table(others), groups)) <= BOUND + 1e-9


@given(TABLE)
def test_a_clients_sum_is_never_longer_than_a_records_bound(records: list[tuple[float, float]]) -> None:
    assert summed("client", table(records)).norm() <= BOUND + 1e-9
