"""Pieces that prepare records: each record on its own, or public constants; never more than one record per record."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.preparation import (
    bound_norm,
    drop_duplicates,
    drop_missing,
    fill_missing,
    one_hot,
    pixels,
    random_shift,
    scale,
    signed_log,
)
from federation.rows import Rows
from privacy.errors import DataInvalid

NAN, INF = math.nan, math.inf
CELLS = st.sampled_from([0.0, 1.0, -1.0, 2.0, NAN])
RECORDS = st.lists(st.tuples(CELLS, st.integers(0, 1)), min_size=1, max_size=12)
HUGE = 2**53  # the first whole number that a float64 can't tell from the next


def rows_of(records: list[tuple[float, int]]) -> Rows:
    return Rows(
        fields={
            "x": torch.tensor([x for x, _ in records]).reshape(len(records), 1),
            "y": torch.tensor([y for _, y in records], dtype=torch.long),
        }
    )


def counted(rows: Rows) -> Counter[tuple[str, int]]:
    return Counter((repr(float(x)), int(y)) for x, y in zip(rows["x"][:, 0], rows["y"], strict=True))


def distance(first: Counter[tuple[str, int]], second: Counter[tuple[str, int]]) -> int:
    """Records to add and remove until one is the other."""
    return ((first - second) + (second - first)).total()


def test_records_with_nan_or_infinity_are_dropped() -> None:
    rows = Rows(fields={"x": torch.tensor([[1, 2], [NAN, 2], [1, INF], [3, -INF], [5, 6]]), "y": torch.arange(5)})
    assert drop_missing(rows)["y"].tolist() == [0, 4]


def test_a_record_is_complete_only_when_every_field_is() -> None:
    rows = Rows(fields={"x": torch.tensor([1.0, NAN, 1.0]), "z": torch.tensor([1.0, 1.0, NAN])})
    assert len(drop_missing(rows)) == 1


def test_missing_cells_are_filled_with_the_columns_constant() -> None:
    table = torch.tensor([[NAN, 2.0], [INF, -INF], [5.0, NAN]])
    assert fill_missing(table, (7.0, 8.0)).tolist() == [[7.0, 2.0], [7.0, 8.0], [5.0, 8.0]]


def test_each_record_stays_once_and_the_first_one_stays() -> None:
    rows = rows_of([(1.0, 0), (2.0, 0), (1.0, 0), (1.0, 1), (2.0, 0)])
    marked = Rows(fields=rows.fields, held_out=torch.tensor([True, False, False, False, True]))
    once = drop_duplicates(marked)
    assert list(zip(once["x"][:, 0].tolist(), once["y"].tolist(), strict=True)) == [(1.0, 0), (2.0, 0), (1.0, 1)]
    assert once.held_out.tolist() == [True, False, False]


@pytest.mark.parametrize("piece", [drop_duplicates, drop_missing, lambda rows: drop_duplicates(drop_missing(rows))])
@given(records=RECORDS, data=st.data())
@settings(deadline=None, max_examples=60)
def test_removing_a_record_changes_the_result_by_at_most_that_record(
    piece: Callable[[Rows], Rows], records: list[tuple[float, int]], data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, len(records) - 1))
    fewer = [*records[:position], *records[position + 1 :]]
    with_it, without = counted(piece(rows_of(records))), counted(piece(rows_of(fewer)))
    assert distance(with_it, without) <= 1
    assert with_it - without <= Counter([(repr(float(records[position][0])), records[position][1])])


def test_whole_numbers_that_floats_cannot_tell_apart_are_different_records() -> None:
    rows = Rows(fields={"id": torch.tensor([HUGE, HUGE + 1, HUGE])})
    assert drop_duplicates(rows)["id"].tolist() == [HUGE, HUGE + 1]


def test_images_that_differ_in_one_pixel_are_different_records() -> None:
    images = torch.zeros(3, 1, 2, 2)
    images[1, 0, 1, 1] = 1
    assert len(drop_duplicates(Rows(fields={"x": images}))) == 2


@pytest.mark.parametrize("piece", [drop_duplicates, drop_missing])
def test_no_records_stay_no_records(piece: Callable[[Rows], Rows]) -> None:
    empty = Rows(fields={"x": torch.zeros(0, 3), "y": torch.zeros(0, dtype=torch.long)})
    assert len(piece(empty)) == 0
    assert piece(empty)["x"].shape == (0, 3)


def test_scaling_maps_the_bounds_to_minus_one_and_one_and_clips_what_lies_beyond() -> None:
    table = torch.tensor([[0.0, 10.0], [5.0, 20.0], [10.0, 30.0], [-1000.0, 1e9]])
    assert scale(table, (0, 10), (10, 30)).tolist() == [[-1, -1], [0, 0], [1, 1], [-1, 1]]


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=9))
@settings(deadline=None, max_examples=60)
def test_whatever_is_scaled_lies_within_one(values: list[float]) -> None:
    assert scale(torch.tensor(values)[:, None], (-3,), (7,)).abs().max() <= 1


def test_scaling_moves_each_record_on_its_own() -> None:
    table = torch.tensor([[1.0], [2.0], [300.0]])
    assert torch.equal(scale(table, (0,), (4,))[:2], scale(table[:2], (0,), (4,)))


@pytest.mark.parametrize("values", [(), (1.0,), (1.0, 2.0, 3.0)])
def test_constants_for_another_number_of_columns_are_refused(values: tuple[float, ...]) -> None:
    table = torch.zeros(4, 2)
    with pytest.raises(DataInvalid, match=f"{len(values)} fill values for a table of 2 columns"):
        fill_missing(table, values)
    with pytest.raises(DataInvalid, match=f"{len(values)} lower bounds"):
        scale(table, values, (1, 1))
    with pytest.raises(DataInvalid, match=f"{len(values)} upper bounds"):
        scale(table, (0, 0), values)


def test_codes_become_indicators_and_an_unlisted_code_becomes_zeros() -> None:
    encoded = one_hot(torch.tensor([3, 1, 9, 3]), (1, 2, 3))
    assert encoded.dtype == torch.float32
    assert encoded.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert one_hot(torch.tensor([0.5, NAN]), (0.5,)).tolist() == [[1], [0]]


def test_signed_log_keeps_signs_and_tames_sizes() -> None:
    assert signed_log(torch.tensor([0.0, math.e - 1, 1 - math.e])).tolist() == pytest.approx([0.0, 1.0, -1.0])
    assert float(signed_log(torch.tensor(1e6))) == pytest.approx(math.log(1e6 + 1))


def test_pixels_lie_between_minus_one_and_one() -> None:
    assert pixels(torch.tensor([0, 255, 51], dtype=torch.uint8), 255).tolist() == pytest.approx([-1, 1, -0.6])


def test_long_inputs_are_shortened_to_the_bound_and_short_ones_stay() -> None:
    inputs = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    assert torch.allclose(bound_norm(inputs, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
    assert torch.equal(bound_norm(inputs, 1.0)[1:], inputs[1:])
    images = torch.full((2, 1, 2, 2), 5.0)
    assert bound_norm(images, 2.0).flatten(1).norm(dim=1).tolist() == pytest.approx([2.0, 2.0])


def numbered_images(count: int) -> torch.Tensor:
    """Images (n, 2, 4, 5) whose every pixel tells its image, channel, row and column."""
    record, channel, row, column = (torch.arange(size).float() for size in (count, 2, 4, 5))
    return (
        1000 * record[:, None, None, None]
        + 100 * channel[None, :, None, None]
        + 10 * row[None, None, :, None]
        + column[None, None, None, :]
    )


def test_shifting_moves_each_image_on_its_own_and_fills_the_border_with_its_edge() -> None:
    images = numbered_images(40)
    shifted = random_shift(images, 2, torch.Generator().manual_seed(1))
    assert shifted.shape == images.shape
    seen = set()
    for image, moved in zip(images, shifted, strict=True):
        fits = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(
                moved, image[:, (torch.arange(4) + down).clamp(0, 3)][:, :, (torch.arange(5) + right).clamp(0, 4)]
            )
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 10
    assert {down for down, _ in seen} == {right for _, right in seen} == {-2, -1, 0, 1, 2}


def test_shifting_by_nothing_changes_nothing_and_a_seed_shifts_the_same_way_again() -> None:
    images = numbered_images(8)
    assert torch.equal(random_shift(images, 0, torch.Generator().manual_seed(1)), images)
    first, second = (random_shift(images, 3, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, images)
