"""What counts as a number, a label, a name or a category; and that no refusal ever repeats a cell."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from federation.schema import Column, Schema
from federation.table_cells import MISSING
from federation.table_selection import Selection
from tests.federation.table_builders import Outcome, csv_file, read

NAN = math.nan
LARGEST = float(np.finfo(np.float32).max)
INEXACT = "is a whole number beyond 16777216, which float32 may not hold exactly"
EMPTY_LABEL = "row 2, column 'y' is empty, but every record needs a value here"


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def as_input(folder: Path, cell: str, column: Column | None = None) -> Outcome:
    path = csv_file(folder, f"k,a\n1,{quoted(cell)}\n")
    schema = Schema(columns=(Column(name="k"), column)) if column else None
    return read(path, Selection(label=None, schema=schema))


def as_label(folder: Path, cell: str, label: Column | None = None) -> Outcome:
    path = csv_file(folder, f"a,y\n1,{quoted(cell)}\n")
    schema = Schema(columns=(Column(name="a"),), label=label) if label else None
    return read(path, Selection(label="y", schema=schema))


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("0", 0),
        ("-0", 0),
        ("007", 7),
        ("+3", 3),
        ("-3.5", -3.5),
        (".5", 0.5),
        ("5.", 5),
        ("1e5", 1e5),
        ("1E-2", 0.01),
        ("+1.5e+3", 1500),
        (" 1", 1),
        ("1\t ", 1),
        ("\u00a01\u00a0", 1),
        ("1e-400", 0),
        ("16777217", 16777216),
        ("123456789012345678901234567890", 1.2345679e29),
        (repr(LARGEST), LARGEST),
        ("true", 1),
        ("True", 1),
        ("FALSE", 0),
    ],
)
def test_a_number_is_read(tmp_path: Path, cell: str, number: float) -> None:
    found = as_input(tmp_path, cell)
    assert found.told == []
    assert found.x == [[1, float(np.float32(number))]]


@pytest.mark.parametrize("cell", [*MISSING, "NaN", "NA", " NULL ", "N/A", "#N/A", "   "])
def test_a_missing_number_is_nan(tmp_path: Path, cell: str) -> None:
    found = as_input(tmp_path, cell)
    assert found.told == []
    assert math.isnan(found.x[0][1])


@pytest.mark.parametrize(
    "cell",
    ["1,234", "1.234.567", "0,5", "1 234", "0x10", "1e", "e5", ".", "-", "+-1", "1_000", "5%", "$5", "1d5", "nan(1)",
     "一", "١", "−1", "yes", "#REF!", "1\n2", "None"],
)  # fmt: skip
def test_what_is_not_a_number_is_reported(tmp_path: Path, cell: str) -> None:
    assert as_input(tmp_path, cell).told == ["row 2, column 'a' is not a number"]
    assert as_label(tmp_path, cell).told == ["row 2, column 'y' is not a number"]


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "+INF", "1e39", "-1e999", "9" * 400])
def test_infinity_and_what_float32_rounds_to_it_are_reported(tmp_path: Path, cell: str) -> None:
    assert as_input(tmp_path, cell).told == ["row 2, column 'a' is infinite, or too large"]
    assert as_label(tmp_path, cell).told == ["row 2, column 'y' is infinite, or too large"]


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        ("0", 0),
        ("007", 7),
        ("+1", 1),
        ("-1", -1),
        ("1.0", 1),
        ("2.", 2),
        ("1e3", 1000),
        ("true", 1),
        ("9007199254740993", 2**53 + 1),
        ("0009223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
    ],
)
def test_a_label_is_read_exactly(tmp_path: Path, cell: str, label: int) -> None:
    found = as_label(tmp_path, cell)
    assert (found.y, found.told) == ([label], [])


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("1.5", "is not a whole number"),
        ("1e-3", "is not a whole number"),
        ("9223372036854775808", "is infinite, or too large"),
        ("-9223372036854775809", "is infinite, or too large"),
        ("123456789012345678901234567890", "is infinite, or too large"),
        ("1e17", "is infinite, or too large"),
        ("", "is empty, but every record needs a value here"),
        ("NaN", "is empty, but every record needs a value here"),
    ],
)
def test_what_is_no_label_is_reported(tmp_path: Path, cell: str, told: str) -> None:
    assert as_label(tmp_path, cell).told == [f"row 2, column 'y' {told}"]


@pytest.mark.parametrize(
    ("column", "cell", "told"),
    [
        (Column(name="a", lower=0), "-1e-9", "is below the schema's lower bound 0"),
        (Column(name="a", lower=0), "-0", ""),
        (Column(name="a", upper=1.5), "1.5", ""),
        (Column(name="a", lower=0.1, upper=0.1), "0.1", ""),
        (Column(name="a", lower=-1e300, upper=10**40), "3e38", ""),
        (Column(name="a", upper=1.5), "1.6", "is above the schema's upper bound 1.5"),
        (Column(name="a", upper=12345678), "1e9", "is above the schema's upper bound 12345678"),
        (Column(name="a", lower=0, upper=1), "", ""),
        (Column(name="a", may_be_missing=False), "NA", "is empty, but the schema asks for a value"),
        (Column(name="a", kind="integer"), "3.0", ""),
        (Column(name="a", kind="integer"), "", ""),
        (Column(name="a", kind="integer"), "3.5", "is not a whole number"),
        (Column(name="a", kind="integer"), "16777216", ""),
        (Column(name="a", kind="integer"), "-16777217", INEXACT),
        (Column(name="a", kind="integer", upper=9), "10", "is above the schema's upper bound 9"),
    ],
)  # fmt: skip
def test_a_schema_is_kept_to_the_letter(tmp_path: Path, column: Column, cell: str, told: str) -> None:
    assert as_input(tmp_path, cell, column).told == ([f"row 2, column 'a' {told}"] if told else [])


SEX = Column(name="a", kind="category", categories=("f", "m", "NA", "É"))


@pytest.mark.parametrize(
    ("cell", "position"), [("f", 0), (" m ", 1), ("NA", 2), ("É", 3), ("", NAN), ("null", NAN), ("nan", NAN)]
)
def test_a_category_becomes_its_position_and_may_be_called_na(tmp_path: Path, cell: str, position: float) -> None:
    found = as_input(tmp_path, cell, SEX)
    assert found.told == []
    assert found.x[0][1] == position or math.isnan(found.x[0][1]) == math.isnan(position)


@pytest.mark.parametrize("cell", ["F", "x", "fm", "0", "É"[0] + "\u0301"])
def test_an_unknown_category_is_reported(tmp_path: Path, cell: str) -> None:
    assert as_input(tmp_path, cell, SEX).told == ["row 2, column 'a' is not one of the schema's categories"]


def test_a_missing_category_is_reported_where_the_schema_asks_for_one(tmp_path: Path) -> None:
    column = Column(name="a", kind="category", categories=("f",), may_be_missing=False)
    assert as_input(tmp_path, "", column).told == ["row 2, column 'a' is empty, but the schema asks for a value"]


def test_a_label_may_be_a_category_or_bounded_but_never_missing(tmp_path: Path) -> None:
    outcome = Column(name="outcome", kind="category", categories=("alive", "dead"))
    assert as_label(tmp_path, "dead", outcome).y == [1]
    assert as_label(tmp_path, "1", outcome).told == ["row 2, column 'y' is not one of the schema's categories"]
    assert as_label(tmp_path, "", outcome).told == [EMPTY_LABEL]
    digit = Column(name="digit", lower=0, upper=9)
    assert as_label(tmp_path, "9", digit).y == [9]
    assert as_label(tmp_path, "10", digit).told == ["row 2, column 'y' is above the schema's upper bound 9"]
    assert as_label(tmp_path, "", digit).told == [EMPTY_LABEL]


@pytest.mark.parametrize(
    ("cell", "unit"),
    [("007", "007"), (" p 1 ", "p 1"), ("12345678901234567890", "12345678901234567890"), ("1.0", "1.0"), ("É", "É")],
)
def test_a_unit_is_its_text_as_written(tmp_path: Path, cell: str, unit: str) -> None:
    found = read(csv_file(tmp_path, f"a,u\n1,{cell}\n"), Selection(label=None, unit="u"))
    assert found.units == [unit]


@pytest.mark.parametrize("cell", ["", "  ", "NA", "null", "NaN"])
def test_a_unit_or_identifier_is_never_missing(tmp_path: Path, cell: str) -> None:
    path = csv_file(tmp_path, f"a,u\n1,{cell}\n2,{cell}\n3,x\n")
    told = [f"row {row}, column 'u' is empty, but every record needs a value here" for row in (2, 3)]
    assert read(path, Selection(label=None, unit="u")).told == told
    assert read(path, Selection(label=None, identifier="u")).told == told


def test_no_report_repeats_a_cell(tmp_path: Path) -> None:
    secret = "4711"
    cells = [f"x{secret}", f"{secret}.5", f"{secret}e99", f"-{secret}", secret * 5, f"{secret}\n", f"NaN{secret}"]
    columns = (
        Column(name="a", lower=0, upper=1, may_be_missing=False),
        Column(name="b", kind="integer", lower=0, upper=1),
        Column(name="c", kind="category", categories=("x",)),
    )
    lines = [",".join([quoted(cell)] * 5) for cell in cells]
    path = csv_file(tmp_path, "\n".join(["a,b,c,y,id", *lines, f"{secret},{secret}", *lines]) + "\n")
    schema = Schema(columns=columns, label=Column(name="y", upper=1))
    found = read(path, Selection(label="y", schema=schema, identifier="id"))
    assert found.batches == []
    assert {cell.column for cell in found.bad} == {"", "a", "b", "c", "y", "id"}
    assert not any(secret in line for line in found.told)
