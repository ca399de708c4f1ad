"""Statistics are the true ones where there is no noise, and nobody's cells move them further than the bound says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from federation import statistics
from federation.rows import Rows
from federation.statistics import MOST_VALUES, Histogram, Learned, Moments, Statistic
from federation.unit_sums import UnitSum
from privacy.errors import TaskInvalid

AGES = Moments(field="x", lower=(0.0, -1.0), upper=(100.0, 1.0))
BINS = Histogram(field="x", lower=(0.0, -1.0), upper=(100.0, 1.0), bins=10)
BOTH: tuple[Statistic, ...] = (AGES, BINS)
CELL = st.one_of(st.floats(width=32), st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3e38, 0.0, 100.0]))
RECORD = st.tuples(CELL, CELL)


def rows(*records: tuple[float, float]) -> Rows:
    return Rows(fields={"x": torch.tensor(records, dtype=torch.float32).reshape(-1, 2)})


def summed(
    wanted: tuple[Statistic, ...], records: Rows, unit: str = "record", groups: list[int] | None = None
) -> Tensor:
    total = UnitSum(unit, statistics.width(wanted))
    total.add(statistics.vectors(wanted, records), None if groups is None else torch.tensor(groups, dtype=torch.int64))
    return total.result()


def learned(wanted: tuple[Statistic, ...], records: Rows) -> Learned:
    return Learned(wanted, summed(wanted, records).tolist())


def a_table(count: int = 500) -> Rows:
    generator = np.random.default_rng(3)
    return rows(*zip(generator.uniform(20, 90, count), generator.normal(0, 0.2, count).clip(-1, 1), strict=True))


# the bound


@given(RECORD)
def test_no_record_is_longer_than_the_bound(record: tuple[float, float]) -> None:
    for wanted in (BOTH, (AGES,), (BINS,)):
        vector = statistics.vectors(wanted, rows(record))
        assert vector.isfinite().all()
        assert vector.norm() <= statistics.bound(wanted) + 1e-9


@given(st.lists(RECORD, max_size=6), st.lists(RECORD, min_size=1, max_size=20))
def test_a_group_of_many_records_moves_the_sum_by_at_most_the_bound(
    others: list[tuple[float, float]], group: list[tuple[float, float]]
) -> None:
    with_it = summed(BOTH, rows(*others, *group), "group", [0] * len(others) + [1] * len(group))
    without = summed(BOTH, rows(*others), "group", [0] * len(others))
    assert torch.dist(with_it, without) <= statistics.bound(BOTH) + 1e-9


@given(st.lists(RECORD, max_size=10))
def test_a_client_is_never_longer_than_the_bound(records: list[tuple[float, float]]) -> None:
    assert summed(BOTH, rows(*records), "client").norm() <= statistics.bound(BOTH) + 1e-9


def test_the_bound_is_reached_and_so_none_too_large() -> None:
    assert statistics.bound((AGES,)) == math.sqrt(6)
    assert statistics.bound((BINS,)) == math.sqrt(2)
    assert statistics.bound(BOTH) == pytest.approx(math.sqrt(8))
    longest = statistics.vectors(BOTH, rows((100.0, 1.0)))
    assert longest.norm() == pytest.approx(statistics.bound(BOTH))


# what they say


def test_without_noise_means_and_deviations_are_numpys() -> None:
    table = a_table()
    found, cells = learned((AGES,), table), table["x"].double().numpy()
    assert found.mean("x").numpy() == pytest.approx(cells.mean(axis=0), rel=1e-5)
    assert found.deviation("x").numpy() == pytest.approx(cells.std(axis=0), rel=1e-4)


def test_without_noise_histograms_are_numpys() -> None:
    table = a_table()
    counts = learned((BINS,), table).counts("x")
    for column, limits in enumerate([(0, 100), (-1, 1)]):
        wanted, _ = np.histogram(table["x"][:, column].double().numpy(), bins=10, range=limits)
        assert counts[column].tolist() == wanted.tolist()


def test_without_noise_quantiles_are_numpys_within_a_bin() -> None:
    table = a_table()
    fine = Histogram(field="x", lower=BINS.lower, upper=BINS.upper, bins=200)
    found = learned((fine,), table)
    for share in (0.1, 0.25, 0.5, 0.9):
        wanted = np.quantile(table["x"].numpy(), share, axis=0)
        assert np.abs(found.quantile("x", share).numpy() - wanted).max() <= 0.6  # a bin of 100 / 200, and a gap
        assert abs(found.quantile("x", share)[1] - wanted[1]) <= 0.02


def test_quantiles_run_straight_within_a_bin() -> None:
    one = Histogram(field="x", lower=(0.0,), upper=(10.0,), bins=2)
    found = Learned((one,), [3.0, 1.0])
    for share, value in ((0.0, 0.0), (0.375, 2.5), (0.75, 5.0), (0.875, 7.5), (1.0, 10.0)):
        assert found.quantile("x", share).tolist() == pytest.approx([value])
    with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
        found.quantile("x", 1.5)


def test_missing_cells_count_for_nothing_and_cells_beyond_the_bounds_as_the_bound() -> None:
    table = rows((math.nan, 0.5), (math.inf, 0.5), (1e30, -1e30), (0.0, 0.5))
    vector = summed((AGES,), table).tolist()
    assert vector == pytest.approx([2, 1, 1, 4, 3 * 0.75, 3 * 0.75**2])
    counts = learned((BINS,), table).counts("x")
    assert counts[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert counts[1].tolist() == [1, 0, 0, 0, 0, 0, 0, 3, 0, 0]


def test_fields_of_any_shape_and_type_are_read_column_by_column() -> None:
    pixels = Rows(fields={"image": torch.arange(8, dtype=torch.uint8).reshape(2, 2, 2)})
    found = learned((Moments(field="image", lower=(0.0,) * 4, upper=(8.0,) * 4),), pixels)
    assert found.mean("image").tolist() == [2.0, 3.0, 4.0, 5.0]


# noise that makes nonsense


def test_nonsense_of_noise_is_clamped_to_what_records_could_give() -> None:
    found = Learned((AGES,), [-5.0, 3.0, -4.0, 10.0, -20.0, 40.0])
    assert found.mean("x").tolist() == [100.0, -1.0]
    assert found.deviation("x").tolist() == pytest.approx([0.1, 1.0])  # a thousandth, and half, of the range
    bins = Histogram(field="x", lower=(0.0,), upper=(1.0,), bins=4)
    assert Learned((bins,), [-3.0, 2.0, -1.0, 1.0]).counts("x").tolist() == [[0.0, 2.0, 0.0, 1.0]]
    assert Learned((bins,), [-3.0, -2.0, -1.0, -1.0]).quantile("x", 0.25).tolist() == [0.25]  # of no cells: even


def test_nobody_divides_by_a_deviation_of_nothing() -> None:
    assert learned((AGES,), rows((50.0, 0.0), (50.0, 0.0))).deviation("x").tolist() == pytest.approx([0.1, 0.002])


# refusals


@pytest.mark.parametrize("count", [0, 5, 7, 26])
def test_another_number_of_values_is_refused(count: int) -> None:
    with pytest.raises(TaskInvalid, match=f"have 6 values, but {count} came"):
        Learned((AGES,), [0.0] * count)


def test_a_field_that_is_not_there_or_of_other_columns_is_refused_by_name() -> None:
    with pytest.raises(TaskInvalid, match="'z', which its records have not"):
        statistics.vectors((Moments(field="z", lower=(0.0,), upper=(1.0,)),), rows((1.0, 2.0)))
    with pytest.raises(TaskInvalid, match="bounds for 1 columns, but it has 2"):
        statistics.vectors((Moments(field="x", lower=(0.0,), upper=(1.0,)),), rows((1.0, 2.0)))


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ((), ()),
        ((0.0,), (0.0,)),
        ((1.0,), (0.0,)),
        ((0.0, 0.0), (1.0,)),
        ((math.nan,), (1.0,)),
        ((0.0,), (math.inf,)),
        ((-1e308,), (1e308,)),
        ([0.0], [1.0]),
    ],
)
def test_bounds_that_bound_nothing_are_refused(lower: tuple[float, ...], upper: tuple[float, ...]) -> None:
    with pytest.raises(TaskInvalid, match="one finite lower and one larger upper"):
        Moments(field="x", lower=lower, upper=upper)
    with pytest.raises(TaskInvalid, match="one finite lower and one larger upper"):
        Histogram(field="x", lower=lower, upper=upper, bins=3)


@pytest.mark.parametrize("bins", [0, -1, 10_001])
def test_a_histogram_of_no_bins_or_too_many_is_refused(bins: int) -> None:
    with pytest.raises(TaskInvalid, match="1 to 10,000 bins"):
        Histogram(field="x", lower=(0.0,), upper=(1.0,), bins=bins)


def test_more_values_than_a_message_holds_are_refused() -> None:
    column = Histogram(field="x", lower=(0.0,) * 10, upper=(1.0,) * 10, bins=10_000)
    assert statistics.width((column,)) == MOST_VALUES
    with pytest.raises(TaskInvalid, match="100,001 values"):
        statistics.width((column, Histogram(field="y", lower=(0.0,), upper=(1.0,), bins=1)))


def test_what_was_not_asked_for_is_not_known() -> None:
    found = Learned((AGES,), [1.0] * 6)
    with pytest.raises(TaskInvalid, match="asked for no Histogram of field 'x'"):
        found.counts("x")
    with pytest.raises(TaskInvalid, match="asked for no Moments of field 'y'"):
        found.mean("y")
