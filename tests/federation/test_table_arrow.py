"""Parquet and Arrow files: every type that can be a cell is one, and what is damaged, forged or locked is refused."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from federation import table_arrow
from federation.schema import Column, Schema
from federation.table_selection import Selection
from privacy.errors import DataInvalid
from tests.federation.arrow_builders import WRITERS, Write, as_parquet
from tests.federation.table_builders import Outcome, read


def column(write: Write, folder: Path, cells: pyarrow.Array, rules: Column | None = None) -> Outcome:
    path = write(pyarrow.table({"a": cells, "k": pyarrow.array(range(len(cells)))}), folder)
    schema = Schema(columns=(rules,)) if rules else None
    return read(path, Selection(label=None, schema=schema, columns=None if rules else ("a",)))


@WRITERS
@pytest.mark.parametrize(
    ("kind", "cells"),
    [
        (pyarrow.int8(), [3, None, -2]),
        (pyarrow.uint64(), [3, None, 2]),
        (pyarrow.int64(), [3, None, -2]),
        (pyarrow.float16(), [np.float16(3), None, np.float16(-2)]),
        (pyarrow.float32(), [3.0, math.nan, -2.0]),
        (pyarrow.float64(), [3.0, None, -2.0]),
        (pyarrow.bool_(), [True, None, False]),
        (pyarrow.decimal128(10, 2), [Decimal("3.00"), None, Decimal("-2.00")]),
        (pyarrow.decimal256(60, 3), [Decimal("3.00"), None, Decimal("-2.00")]),
        (pyarrow.string(), ["3", "", " -2.0 "]),
        (pyarrow.large_string(), ["3", None, "-2"]),
        (pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), ["3", None, "-2"]),
        (pyarrow.dictionary(pyarrow.int32(), pyarrow.int64()), [3, None, -2]),
    ],
    ids=str,
)
def test_numbers_of_every_type_are_numbers(
    tmp_path: Path, write: Write, kind: pyarrow.DataType, cells: list[object]
) -> None:
    found = column(write, tmp_path, pyarrow.array(cells, kind))
    assert found.told == []
    first, missing, last = (row[0] for row in found.x)
    assert (first, math.isnan(missing), last) == (
        float(cells[0]),  # type: ignore[arg-type]
        True,
        float(cells[2]),  # type: ignore[arg-type]
    )


@WRITERS
def test_there_is_one_nan(tmp_path: Path, write: Write) -> None:
    odd = np.array([0x7FF8000000000001, 0xFFF8000000000000, 0x7FF8000000000000], np.uint64).view(np.float64)
    x = column(write, tmp_path, pyarrow.array(odd)).rows["x"]
    assert x.numpy().tobytes() == np.full(3, np.nan, np.float32).tobytes()


@WRITERS
def test_a_column_without_any_value_is_missing_throughout(tmp_path: Path, write: Write) -> None:
    assert all(math.isnan(row[0]) for row in column(write, tmp_path, pyarrow.nulls(2)).x)


@WRITERS
def test_infinite_and_textual_cells_are_reported_by_row_from_one(tmp_path: Path, write: Write) -> None:
    assert column(write, tmp_path, pyarrow.array([1.0, math.inf, -math.inf, 1e39])).told == [
        f"row {row}, column 'a' is infinite, or too large" for row in (2, 3, 4)
    ]
    assert column(write, tmp_path, pyarrow.array(["1", "1,5"])).told == ["row 2, column 'a' is not a number"]


@WRITERS
@pytest.mark.parametrize(
    ("cells", "labels", "told"),
    [
        (pyarrow.array([2**63 - 1, -(2**63)]), [2**63 - 1, -(2**63)], []),
        (pyarrow.array([1, 2**63], pyarrow.uint64()), [1], ["row 2, column 'y' is infinite, or too large"]),
        (pyarrow.array([1, 2**63 - 1], pyarrow.uint64()), [1, 2**63 - 1], []),
        (pyarrow.array([1.0, 2.5]), [1], ["row 2, column 'y' is not a whole number"]),
        (pyarrow.array([2.0**53, 2.0**54]), [2**53], ["row 2, column 'y' is infinite, or too large"]),
        (pyarrow.array([1.0, math.nan]), [1], ["row 2, column 'y' is empty, but every record needs a value here"]),
        (pyarrow.array([1, None]), [1], ["row 2, column 'y' is empty, but every record needs a value here"]),
        (pyarrow.array([True, False]), [1, 0], []),
        (pyarrow.array([Decimal("1.0"), Decimal("1.5")]), [1], ["row 2, column 'y' is not a whole number"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_label_is_a_whole_number_in_every_type(
    tmp_path: Path, write: Write, cells: pyarrow.Array, labels: list[int], told: list[str]
) -> None:
    path = write(pyarrow.table({"a": [1.0, 2.0], "y": cells}), tmp_path)
    found = read(path, Selection(label="y"))
    assert (found.y, found.told) == (labels, told)


@WRITERS
@pytest.mark.parametrize(
    ("cells", "units"),
    [
        (pyarrow.array([7, -8]), ["7", "-8"]),
        (pyarrow.array([7, 2**64 - 1], pyarrow.uint64()), ["7", "18446744073709551615"]),
        (pyarrow.array([7.0, 2.0**53]), ["7", "9007199254740992"]),
        (pyarrow.array([Decimal(7), Decimal(10) ** 20]), ["7", "100000000000000000000"]),
        (pyarrow.array(["007", " p8 "]), ["007", "p8"]),
        (pyarrow.array(["p7", "p8"]).dictionary_encode(), ["p7", "p8"]),
    ],
    ids=str,
)
def test_a_unit_is_a_text_in_every_type(tmp_path: Path, write: Write, cells: pyarrow.Array, units: list[str]) -> None:
    path = write(pyarrow.table({"a": [1.0, 2.0], "u": cells}), tmp_path)
    assert read(path, Selection(label=None, unit="u")).units == units


@WRITERS
def test_categories_may_be_stored_as_texts_numbers_or_dictionaries(tmp_path: Path, write: Write) -> None:
    rules = Column(name="a", kind="category", categories=("2", "1"))
    for cells in (["1", "2", "3"], [1, 2, 3], [1.0, 2.0, 3.0]):
        for stored in (pyarrow.array(cells), pyarrow.array(cells).dictionary_encode()):
            if write is as_parquet and pyarrow.types.is_dictionary(stored.type) and cells[0] != "1":
                continue
            found = column(write, tmp_path, stored, rules)
            assert found.x == [[1.0], [0.0]]
            assert found.told == ["row 3, column 'a' is not one of the schema's categories"]


@WRITERS
@pytest.mark.parametrize(
    "cells",
    [
        pyarrow.array([[1.0], [2.0]]),
        pyarrow.array([{"b": 1}, {"b": 2}]),
        pyarrow.array([1, 2], pyarrow.timestamp("s")),
        pyarrow.array([b"1", b"2"]),
        pyarrow.array([1, 2], pyarrow.date32()),
        pyarrow.array([[("k", 1)], []], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    ],
    ids=lambda cells: str(cells.type),
)
def test_a_column_that_holds_no_cells_is_named_unless_it_is_not_read(
    tmp_path: Path, write: Write, cells: pyarrow.Array
) -> None:
    path = write(pyarrow.table({"a": cells, "b": [1.0, 2.0], "y": [0, 1]}), tmp_path)
    with pytest.raises(DataInvalid, match=r"column 'a' holds .*choose the columns without it"):
        read(path, Selection(label="y"))
    with pytest.raises(DataInvalid, match="column 'a' holds"):
        read(path, Selection(label="y", columns=("b",), unit="a"))
    assert read(path, Selection(label="y", columns=("b",))).x == [[1.0], [2.0]]


@WRITERS
def test_a_name_with_dots_is_no_path(tmp_path: Path, write: Write) -> None:
    path = write(pyarrow.table({"a.b": [1.0], "a": [2.0], "a.c": [3.0], "y": [0]}), tmp_path)
    assert read(path, Selection(label="y", columns=("a", "a.c"))).x == [[2.0, 3.0]]


@WRITERS
def test_no_records_no_columns_or_the_same_column_twice_are_refused(tmp_path: Path, write: Write) -> None:
    empty = pyarrow.table({"a": pyarrow.array([], pyarrow.float64()), "y": pyarrow.array([], pyarrow.int64())})
    with pytest.raises(DataInvalid, match="has no records"):
        read(write(empty, tmp_path), Selection(label="y"))
    with pytest.raises(DataInvalid, match="has no column 'y'"):
        read(write(pyarrow.table({}), tmp_path), Selection(label="y"))
    twice = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], ["a", "a"])
    with pytest.raises(DataInvalid, match="two columns called 'a'"):
        read(write(twice, tmp_path), Selection(label="a"))


@WRITERS
def test_rows_are_numbered_through_batches_and_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    monkeypatch.setattr(table_arrow, "BATCH_ROWS", 3)
    table = pyarrow.concat_tables(pyarrow.table({"a": ["1", "x"] * 2, "y": [0] * 4}) for _ in range(5))
    found = read(write(table, tmp_path), Selection(label="y"))
    assert [cell.row for cell in found.bad] == list(range(2, 21, 2))
    assert max(len(batch.rows) for batch in found.batches) <= 3


def test_a_wide_table_is_read_in_shorter_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_arrow, "BATCH_CELLS", 20)
    table = pyarrow.table({f"c{place}": np.arange(12.0) for place in range(10)})
    found = read(as_parquet(table, tmp_path), Selection(label=None))
    assert [len(batch.rows) for batch in found.batches] == [2] * 6


@WRITERS
def test_a_bound_is_met_by_itself_in_either_precision(tmp_path: Path, write: Write) -> None:
    rules = Column(name="a", lower=0.1, upper=0.1)
    for kind in (pyarrow.float32(), pyarrow.float64()):
        assert column(write, tmp_path, pyarrow.array([0.1, 0.2, 0.05], kind), rules).told == [
            "row 2, column 'a' is above the schema's upper bound 0.1",
            "row 3, column 'a' is below the schema's lower bound 0.1",
        ]
