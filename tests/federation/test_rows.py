"""Rows, and a division into training and test records that nobody's neighbour can change."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.rows import Rows, concatenate, split
from privacy.errors import DataInvalid

RECORDS = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1)), min_size=1, max_size=20)


def rows_of(records: list[tuple[int, int]]) -> Rows:
    return Rows(
        fields={
            "x": torch.tensor([[float(x)] for x, _ in records]).reshape(len(records), 1),
            "y": torch.tensor([y for _, y in records], dtype=torch.long),
        }
    )


def records_of(rows: Rows) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in zip(rows["x"][:, 0], rows["y"], strict=True)]


def numbers(count: int) -> Rows:
    return Rows(fields={"x": torch.arange(count)})


@pytest.mark.parametrize(
    ("fields", "held_out"),
    [
        ({}, None),
        ({"x": torch.zeros(3), "y": torch.zeros(2)}, None),
        ({"x": torch.zeros(3)}, torch.zeros(2, dtype=torch.bool)),
    ],
)
def test_rows_without_a_field_or_of_two_lengths_are_refused(
    fields: dict[str, torch.Tensor], held_out: torch.Tensor | None
) -> None:
    with pytest.raises(DataInvalid, match="rows need at least one field, all of one length"):
        Rows(fields=fields, held_out=held_out)


def test_a_missing_field_is_refused_and_the_fields_there_are_named() -> None:
    with pytest.raises(DataInvalid, match="no field 'z', only x, y"):
        rows_of([(1, 0)])["z"]


def test_taking_moves_records_and_their_marks_together() -> None:
    rows = Rows(fields={"x": torch.tensor([10, 11, 12])}, held_out=torch.tensor([True, False, True]))
    taken = rows.take(torch.tensor([2, 1]))
    assert (taken["x"].tolist(), taken.held_out.tolist()) == ([12, 11], [True, False])
    assert rows.take(torch.tensor([False, False, True]))["x"].tolist() == [12]
    assert len(rows.take(torch.tensor([], dtype=torch.long))) == 0


def test_replacing_keeps_the_other_fields_and_the_marks() -> None:
    rows = Rows(fields={"x": torch.tensor([1, 2]), "y": torch.tensor([3, 4])}, held_out=torch.tensor([True, False]))
    replaced = rows.replace(x=torch.tensor([5, 6]), z=torch.tensor([7, 8]))
    assert {name: field.tolist() for name, field in replaced.fields.items()} == {"x": [5, 6], "y": [3, 4], "z": [7, 8]}
    assert replaced.held_out.tolist() == [True, False]
    assert rows["x"].tolist() == [1, 2]


def test_concatenating_keeps_the_order() -> None:
    assert records_of(concatenate([rows_of([(1, 0), (2, 1)]), rows_of([(3, 1)])])) == [(1, 0), (2, 1), (3, 1)]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_the_test_part_has_its_share_and_not_two_thirds_or_three_halves_of_it(share: float) -> None:
    train, test = split(numbers(20_000), share, seed=1)
    assert len(train) + len(test) == 20_000
    spread = (share * (1 - share) * 20_000) ** 0.5
    assert abs(len(test) - 20_000 * share) < 5 * spread
    assert abs(len(test) - 20_000 * share * 2 / 3) > 5 * spread
    assert abs(len(test) - 20_000 * min(share * 3 / 2, 1)) > 5 * spread


def test_no_record_is_lost_doubled_or_reordered() -> None:
    train, test = split(numbers(200), 0.3, seed=1)
    assert sorted(train["x"].tolist() + test["x"].tolist()) == list(range(200))
    assert train["x"].tolist() == sorted(train["x"].tolist())


@given(RECORDS, st.tuples(st.integers(-3, 3), st.integers(0, 1)), st.integers(0, 20), st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=60)
def test_adding_a_record_moves_nobody_else(
    records: list[tuple[int, int]], new: tuple[int, int], position: int, seed: int
) -> None:
    train, test = (records_of(part) for part in split(rows_of(records), 0.4, seed))
    position = min(position, len(records))
    more = [*records[:position], new, *records[position:]]
    more_train, more_test = (records_of(part) for part in split(rows_of(more), 0.4, seed))
    assert (sorted(more_train), sorted(more_test)) in (
        (sorted([*train, new]), sorted(test)),
        (sorted(train), sorted([*test, new])),
    )


@given(RECORDS, st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=60)
def test_equal_records_never_stand_on_both_sides(records: list[tuple[int, int]], seed: int) -> None:
    train, test = split(rows_of(records * 2), 0.5, seed)
    assert not set(records_of(train)) & set(records_of(test))


def test_a_record_goes_the_same_way_whoever_its_neighbours_are() -> None:
    alone = {value: len(split(Rows(fields={"x": torch.tensor([value])}), 0.5, 7)[1]) for value in range(64)}
    _, test = split(numbers(64), 0.5, 7)
    assert [value for value, held_out in alone.items() if held_out] == test["x"].tolist()


def test_the_order_in_which_fields_are_named_does_not_matter() -> None:
    x, y = torch.arange(50), torch.arange(50) % 3
    one, other = Rows(fields={"x": x, "y": y}), Rows(fields={"y": y, "x": x})
    assert split(one, 0.5, 1)[1]["x"].tolist() == split(other, 0.5, 1)[1]["x"].tolist()


def test_the_seed_decides_the_division_and_the_same_seed_decides_it_again() -> None:
    divisions = [split(numbers(100), 0.5, seed)[1]["x"].tolist() for seed in (1, 1, 2, 2**63 - 1)]
    assert divisions[0] == divisions[1]
    assert len({tuple(division) for division in divisions}) == 3


def test_a_larger_share_only_adds_test_records() -> None:
    small, large = (set(split(numbers(500), share, 1)[1]["x"].tolist()) for share in (0.2, 0.4))
    assert small < large


def test_marks_of_the_rows_go_before_the_share() -> None:
    rows = Rows(fields={"x": torch.arange(4)}, held_out=torch.tensor([True, False, False, True]))
    train, test = split(rows, 0.99, seed=1)
    assert (train["x"].tolist(), test["x"].tolist()) == ([1, 2], [0, 3])
    assert train.held_out is None


def test_no_records_divide_into_none_and_none() -> None:
    empty = Rows(fields={"x": torch.zeros(0, 3), "y": torch.zeros(0, dtype=torch.long)})
    assert [len(part) for part in split(empty, 0.2, seed=1)] == [0, 0]


def test_images_and_transposed_memory_divide_like_their_values() -> None:
    table = torch.arange(60.0).reshape(3, 20)
    assert torch.equal(
        split(Rows(fields={"x": table.T}), 0.5, 1)[1]["x"],
        split(Rows(fields={"x": table.T.contiguous()}), 0.5, 1)[1]["x"],
    )
    assert len(split(Rows(fields={"x": torch.zeros(2, 1, 4, 4)}), 0.5, 1)) == 2
