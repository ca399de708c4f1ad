"""A group stands on one side whole, and no other group can move it there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.groups import (
    divided,
    held_out_by_identity,
    held_out_groups,
    numbered,
    refuse_cut_groups,
    without_units,
)
from federation.plan import Plan
from federation.plan_settings import DataSettings, PrivacySettings
from federation.preparation import drop_duplicates, drop_missing
from federation.rows import Rows, concatenate, held_out, split
from federation.tables import read_table
from privacy.errors import DataInvalid

VISITS = st.lists(st.tuples(st.integers(0, 6), st.integers(-3, 3)), min_size=1, max_size=30)  # (patient, value)


def visits(found: list[tuple[int, int]]) -> Rows:
    values = torch.tensor([[float(value)] for _, value in found]).reshape(len(found), 1)
    return Rows(fields={"x": values}, units=torch.tensor([patient for patient, _ in found], dtype=torch.int64))


def many(groups: int, size: int) -> Rows:
    """Different values, every group's records far apart."""
    return Rows(fields={"x": torch.arange(groups * size)}, units=torch.arange(groups * size) % groups)


def identities(numbers: list[int]) -> torch.Tensor:
    """(n, 16) uint8, as sealed data names its units."""
    spread = torch.tensor([[number * 7919 % 251, number % 256] + [0] * 14 for number in numbers], dtype=torch.uint8)
    return spread.reshape(-1, 16)


@given(VISITS, VISITS, st.integers(0, 2**63 - 1), st.data())
@settings(deadline=None, max_examples=100)
def test_adding_a_group_moves_no_other_group(
    there: list[tuple[int, int]], coming: list[tuple[int, int]], seed: int, draw: st.DataObject
) -> None:
    new = [(7, value) for _, value in coming]
    places = draw.draw(st.permutations(range(len(there) + len(new))))
    mixed = [(there + new)[place] for place in places]
    sides = held_out_groups(visits(mixed), 0.5, seed).tolist()
    before = dict(zip([p for p, _ in there], held_out_groups(visits(there), 0.5, seed).tolist(), strict=True))
    assert {patient: side for (patient, _), side in zip(mixed, sides, strict=True) if patient != 7} == before


@given(VISITS, st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=100)
def test_a_group_stands_on_one_side_whole_whatever_its_number(found: list[tuple[int, int]], seed: int) -> None:
    rows = visits(found)
    sides = held_out_groups(rows, 0.4, seed)
    assert len({(patient, side) for (patient, _), side in zip(found, sides.tolist(), strict=True)}) == len(dict(found))
    renamed = replace(rows, units=2**40 - 3 * rows.units)  # type: ignore[operator]
    assert held_out_groups(renamed, 0.4, seed).tolist() == sides.tolist()


def test_a_group_of_one_record_stands_where_the_record_would() -> None:
    rows = many(500, 1)
    assert torch.equal(held_out_groups(rows, 0.3, 1), held_out(rows, 0.3, 1))


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("size", [1, 7])
def test_the_share_of_groups_is_the_stated_one_whatever_their_size(share: float, size: int) -> None:
    found = float(held_out_groups(many(4000, size), share, 3).double().mean())
    assert abs(found - share) < 0.03
    assert not abs(found - share * 2 / 3) < 0.03
    named = float(held_out_by_identity(identities(list(range(4000))), share, 3).double().mean())
    assert abs(named - share) < 0.05


def test_a_sealed_group_stays_where_it_is_as_it_grows_and_others_come_and_go() -> None:
    few, more = [3, 1, 3], [9, 3, 1, 5, 3, 3, 1]
    sides = dict(zip(few, held_out_by_identity(identities(few), 0.5, 1).tolist(), strict=True))
    later = dict(zip(more, held_out_by_identity(identities(more), 0.5, 1).tolist(), strict=True))
    assert {number: later[number] for number in sides} == sides


def test_groups_are_numbered_in_order_of_first_appearance() -> None:
    assert numbered(torch.tensor([9, -4, 9, 2**62, -4])).tolist() == [0, 1, 0, 2, 1]
    assert numbered(identities([5, 5, 2, 9, 2])).tolist() == [0, 0, 1, 2, 1]
    assert numbered(torch.tensor([], dtype=torch.int64)).tolist() == []


def test_identities_that_differ_in_one_bit_are_two_groups() -> None:
    two = torch.zeros(2, 16, dtype=torch.uint8)
    for byte in range(16):
        two[1] = 0
        two[1, byte] = 1
        assert numbered(two).tolist() == [0, 1]


def test_marks_decide_and_may_not_cut_a_group() -> None:
    marked = replace(visits([(1, 0), (2, 0), (1, 5)]), held_out=torch.tensor([True, False, True]))
    assert held_out_groups(marked, 0.01, 1).tolist() == [True, False, True]
    with pytest.raises(DataInvalid, match="cut 1 groups in two"):
        held_out_groups(replace(marked, held_out=torch.tensor([True, False, False])), 0.5, 1)
    with pytest.raises(DataInvalid, match="cut 2 groups in two"):
        refuse_cut_groups(torch.tensor([True, False, False, True]), torch.tensor([0, 0, 1, 1]))


def test_the_plan_says_whether_records_or_groups_are_divided() -> None:
    rows = many(50, 4)
    data = DataSettings(test_share=0.4)
    by_record, by_group = (
        divided(rows, Plan(privacy=PrivacySettings(unit=unit), data=data))  # type: ignore[arg-type]
        for unit in ("record", "group")
    )
    assert torch.equal(by_record, held_out(rows, 0.4, 0))
    assert torch.equal(by_group, held_out_groups(rows, 0.4, 0))
    with pytest.raises(DataInvalid, match="--unit-column"):
        divided(Rows(fields=rows.fields), Plan(privacy=PrivacySettings(unit="group")))


def test_no_records_divide_into_none() -> None:
    assert len(held_out_groups(visits([]), 0.5, 1)) == 0


@pytest.mark.parametrize("units", [torch.tensor([1.0, 2.0]), torch.tensor([[1], [2]]), torch.tensor([1, 2]).int()])
def test_units_that_are_no_whole_numbers_one_a_record_are_refused(units: torch.Tensor) -> None:
    with pytest.raises(DataInvalid, match="must be int64, one number a record"):
        Rows(fields={"x": torch.zeros(2)}, units=units)


def test_units_of_another_length_are_refused() -> None:
    with pytest.raises(DataInvalid, match="all of one length"):
        Rows(fields={"x": torch.zeros(3)}, units=torch.zeros(2, dtype=torch.int64))


def test_units_go_where_their_records_go() -> None:
    rows = visits([(4, 0), (5, 1), (6, 2)])
    assert rows.take(torch.tensor([2, 0])).units.tolist() == [6, 4]  # type: ignore[union-attr]
    assert rows.take(torch.tensor([False, True, False])).units.tolist() == [5]  # type: ignore[union-attr]
    assert rows.replace(x=torch.zeros(3)).units is rows.units
    assert rows.to(torch.device("cpu")).units.tolist() == [4, 5, 6]  # type: ignore[union-attr]
    assert drop_missing(rows.replace(x=torch.tensor([0.0, torch.nan, 1.0]))).units.tolist() == [4, 6]  # type: ignore[union-attr]
    assert without_units(rows).units is None


def test_parts_that_are_joined_or_divided_by_record_forget_their_numbers() -> None:
    rows = visits([(4, 0), (5, 1), (6, 2)])
    assert concatenate([rows, rows]).units is None  # number 4 of one part need not be number 4 of another
    assert all(part.units is None for part in split(rows, 0.5, 1))


def test_a_duplicate_of_another_groups_record_stays() -> None:
    rows = visits([(1, 5), (2, 5), (1, 5), (2, 7)])
    assert drop_duplicates(rows).units.tolist() == [1, 2, 2]  # type: ignore[union-attr]
    without_first = rows.take(rows.units != 1)  # type: ignore[arg-type]
    mine = [value for value, unit in zip(drop_duplicates(rows)["x"], [1, 2, 2], strict=True) if unit == 2]
    assert drop_duplicates(without_first)["x"].tolist() == [value.tolist() for value in mine]


def test_a_table_of_a_tasks_own_knows_the_groups_of_its_unit_column(tmp_path: Path) -> None:
    path = tmp_path / "heart.csv"
    path.write_text("age,patient,outcome\n63,ann,1\n64,bob,0\n65,ann,1\n", encoding="utf-8")
    rows = read_table(path, label="outcome", unit="patient")
    assert rows["x"].tolist() == [[63.0], [64.0], [65.0]]
    assert rows.units is not None
    assert rows.units.tolist() == [0, 1, 0]
    assert read_table(path, label="outcome", columns=["age"]).units is None
