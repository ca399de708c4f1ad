"""A table means the same in every format and division into batches; selections that make no sense are refused."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import table_arrow, table_csv, table_tensors
from federation.schema import Column, Schema
from federation.table_reading import read_batches
from federation.table_selection import Selection
from federation.table_source import BadCell
from privacy.errors import DataInvalid
from tests.federation.table_builders import Outcome, bits, csv_file, read

NUMBERS = st.one_of(st.floats(width=32), st.sampled_from([0.0, 0.5, 1e38, 3e38, math.nan, math.inf, -2.0]))
WHOLE = st.one_of(st.integers(-9, 9).map(float), st.sampled_from([math.nan, 0.5, 2.0**24, 2.0**25]))
WORDS = st.sampled_from(["", "a", "b", "NA", "true", "c", "x,y", 'say "a"', "two\nlines", "two\r\nlines", "é", " a "])
UNITS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
LABELS = st.one_of(st.integers(-1, 4), st.integers(-(2**63), 2**63 - 1))
SCHEMA = Schema(
    columns=(
        Column(name="word", kind="category", categories=("b", "a", "NA", "x,y", 'say "a"', "two\nlines", "é")),
        Column(name="whole", kind="integer", lower=-8),
        Column(name="flag", may_be_missing=False),
        Column(name="number", upper=2.5),
    ),
    label=Column(name="outcome", upper=9e18),
)


@dataclass(frozen=True)
class Table:
    number: Sequence[float]
    whole: Sequence[float]
    flag: Sequence[bool]
    word: Sequence[str]
    unit: Sequence[str]
    label: Sequence[int]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    n = draw(st.integers(1, 12))
    return Table(
        number=draw(st.lists(NUMBERS, min_size=n, max_size=n)),
        whole=draw(st.lists(WHOLE, min_size=n, max_size=n)),
        flag=draw(st.lists(st.booleans(), min_size=n, max_size=n)),
        word=draw(st.lists(WORDS, min_size=n, max_size=n)),
        unit=draw(st.lists(UNITS, min_size=n, max_size=n)),
        label=draw(st.lists(LABELS, min_size=n, max_size=n)),
    )


def spelled(number: float) -> str:
    return "" if math.isnan(number) else repr(number)


def written(table: Table, folder: Path, rows: int) -> list[Path]:
    """The table as CSV, Parquet, two kinds of Arrow and npz, in parts of so many rows where a format has any."""
    columns = {
        "unit": pyarrow.array(table.unit),
        "number": pyarrow.array([None if math.isnan(number) else number for number in table.number], pyarrow.float64()),
        "whole": pyarrow.array(table.whole, pyarrow.float64()),
        "flag": pyarrow.array(table.flag, pyarrow.bool_()),
        "word": pyarrow.array(table.word).dictionary_encode(),
        "y": pyarrow.array(table.label, pyarrow.int64()),
    }
    arrow = pyarrow.table(columns)
    pyarrow.parquet.write_table(arrow, folder / "t.parquet", row_group_size=rows)
    with pyarrow.ipc.new_file(str(folder / "t.arrow"), arrow.schema) as writer:
        writer.write_table(arrow, max_chunksize=rows)
    with pyarrow.ipc.new_stream(str(folder / "t.ipc"), arrow.schema) as writer:
        writer.write_table(arrow, max_chunksize=rows)
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(columns)
        flags = [str(flag) for flag in table.flag]
        numbers, whole = map(spelled, table.number), map(spelled, table.whole)
        lines.writerows(zip(table.unit, numbers, whole, flags, table.word, table.label, strict=True))
    np.savez(
        folder / "t.npz",
        unit=np.array(table.unit),
        number=np.array(table.number),
        whole=np.array(table.whole),
        flag=np.array(table.flag),
        word=np.array(table.word),
        y=np.array(table.label),
    )
    return [folder / name for name in ("t.csv", "t.parquet", "t.arrow", "t.ipc", "t.npz")]


def said(found: Outcome, first_row: int) -> object:
    """All that a reading says, records counted from 0."""
    fields = {name: bits(field) for name, field in found.rows.fields.items()} if found.batches else {}
    return fields, found.units, [(cell.row - first_row, cell.column, cell.reason) for cell in found.bad]


@given(tables(), st.integers(1, 12), st.integers(150, 400))
@settings(deadline=None, max_examples=120)
def test_a_table_is_the_same_in_every_format_and_division(
    tmp_path_factory: pytest.TempPathFactory, table: Table, rows: int, block: int
) -> None:
    folder = tmp_path_factory.mktemp("table")
    selection = Selection(label="y", unit="unit", schema=SCHEMA)
    with pytest.MonkeyPatch.context() as patch:
        paths = written(table, folder, rows)
        whole = [said(read(path, selection), 2 if path.suffix == ".csv" else 1) for path in paths]
        patch.setattr(table_csv, "_BLOCK_BYTES", block)
        patch.setattr(table_arrow, "BATCH_ROWS", rows)
        patch.setattr(table_tensors, "BATCH_ROWS", rows)
        divided = [said(read(path, selection), 2 if path.suffix == ".csv" else 1) for path in paths]
    assert all(outcome == whole[0] for outcome in (*whole, *divided))


@given(tables())
@settings(deadline=None, max_examples=60)
def test_without_a_schema_a_table_is_the_same_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, table: Table
) -> None:
    paths = written(table, tmp_path_factory.mktemp("table"), 5)[:4]
    selection = Selection(label="y", columns=("whole", "number", "flag"))
    outcomes = [said(read(path, selection), 2 if path.suffix == ".csv" else 1) for path in paths]
    assert all(outcome == outcomes[0] for outcome in outcomes)


def test_inputs_are_all_other_columns_in_the_files_order_or_those_chosen_in_theirs(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "b,y,id,a,u\n1,0,7,2,p\n")
    assert read(path, Selection(label="y", unit="u", identifier="id")).x == [[1, 2]]
    assert read(path, Selection(label="y", columns=("a", "b", "id"))).x == [[2, 1, 7]]
    schema = Schema(columns=(Column(name="id"), Column(name="b")))
    assert read(path, Selection(label=None, schema=schema)).x == [[7, 1]]
    everything = read(path, Selection(label=None, columns=("b", "y")))
    assert (everything.x, set(everything.rows.fields), everything.batches[0].units) == ([[1, 0]], {"x"}, None)


def test_the_schemas_label_rules_hold_whatever_the_file_calls_the_column(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,status\n1,dead\n2,alive\n")
    label = Column(name="outcome", kind="category", categories=("alive", "dead"))
    schema = Schema(columns=(Column(name="a"),), label=label)
    assert read(path, Selection(label="status", schema=schema)).y == [1, 0]
    assert set(read(path, Selection(label=None, schema=schema)).rows.fields) == {"x"}


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        (Selection(label="Outcome"), "no column 'Outcome' (the nearest is 'outcome'); it has 'age', 'sex', 'outcome'"),
        (Selection(label="outcome", columns=("aeg", "sxe")), "'aeg' (the nearest is 'age'), 'sxe' (the nearest"),
        (Selection(label="outcome", unit="patient"), "has no column 'patient'; it has"),
        (Selection(label="outcome", identifier=" age"), "has no column ' age' (the nearest is 'age')"),
        (Selection(label="outcome", schema=Schema(columns=(Column(name="ages"),))), "no column 'ages' (the nearest is"),
        (Selection(label="outcome", unit="outcome"), "column 'outcome' is chosen twice"),
        (Selection(label="outcome", unit="age", identifier="age"), "column 'age' is chosen twice"),
        (Selection(label="outcome", columns=("age", "outcome")), "column 'outcome' is chosen twice"),
        (Selection(label="outcome", columns=("age", "age")), "column 'age' is chosen twice"),
        (Selection(label="outcome", unit="age", schema=Schema(columns=(Column(name="age"),))), "'age' is chosen twice"),
        (Selection(label="outcome", columns=()), "no column that is an input"),
        (Selection(label="outcome", schema=Schema(columns=())), "no column that is an input"),
        (Selection(label="outcome", unit="age", identifier="sex"), "no column that is an input"),
    ],
)  # fmt: skip
def test_a_selection_that_the_file_can_not_answer_is_refused(tmp_path: Path, selection: Selection, told: str) -> None:
    with pytest.raises(DataInvalid) as raised:
        read(csv_file(tmp_path, "age,sex,outcome\n1,0,1\n"), selection)
    assert told in str(raised.value)


def test_a_refusal_names_twenty_columns_of_a_wide_table(tmp_path: Path) -> None:
    names = [f"gene{place}" for place in range(1000)]
    with pytest.raises(DataInvalid, match=r"'gene19' and 980 more$"):
        read(csv_file(tmp_path, ",".join(names) + "\n" + ",".join(["1"] * 1000)), Selection(label="outcome"))


def test_columns_and_a_schema_together_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="not both"):
        Selection(label="y", columns=("a",), schema=Schema(columns=(Column(name="a"),)))


def test_a_schema_of_the_label_alone_goes_with_columns(tmp_path: Path) -> None:
    schema = Schema(columns=(), label=Column(name="y", upper=1))
    found = read(csv_file(tmp_path, "a,b,y\n1,2,1\n1,2,2\n"), Selection(label="y", columns=("b",), schema=schema))
    assert (found.x, found.told) == ([[2]], ["row 3, column 'y' is above the schema's upper bound 1"])


@pytest.mark.parametrize("block", [16, 40, 1000])
def test_an_identifier_seen_before_is_named_by_its_first_row_across_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(table_csv, "_BLOCK_BYTES", block)
    content = "id,a\n007,1\n8,1\n7,1\n 007 ,1\n8,x\n9,x\n9,1\n10,1\n007,1\n"
    found = read(csv_file(tmp_path, content), Selection(label=None, identifier="id"))
    assert found.told == [
        "row 5, column 'id' was seen before in row 2",
        "row 6, column 'a' is not a number",
        "row 6, column 'id' was seen before in row 3",
        "row 7, column 'a' is not a number",
        "row 8, column 'id' was seen before in row 7",
        "row 10, column 'id' was seen before in row 2",
    ]
    assert len(found.rows) == 4


def test_every_bad_cell_of_a_row_is_reported_and_its_record_left_out(tmp_path: Path) -> None:
    content = "a,b,y,u\n1,2,0,p\nx,,1.5,\n3,4,1,q\n"
    schema = Schema(columns=(Column(name="b", may_be_missing=False), Column(name="a")))
    found = read(csv_file(tmp_path, content), Selection(label="y", unit="u", schema=schema))
    assert [cell.column for cell in found.bad] == ["b", "a", "y", "u"]
    assert {cell.row for cell in found.bad} == {3}
    assert (found.x, found.y, found.units) == ([[2, 1], [4, 3]], [0, 1], ["p", "q"])
    assert [number for batch in found.batches for number in batch.numbers] == [2, 4]


def test_reading_may_stop_at_the_first_bad_cell(tmp_path: Path) -> None:
    class Enough(Exception):
        """What a caller raises who refuses."""

    def refuse(cell: BadCell) -> None:
        raise Enough(str(cell))

    path = csv_file(tmp_path, "a,y\n1,0\nx,0\nx,0\n")
    with pytest.raises(Enough, match="row 3, column 'a' is not a number"):
        list(read_batches(path, Selection(label="y"), refuse))
    assert next(read_batches(csv_file(tmp_path, "a,y\n1,0\n"), Selection(label="y"), refuse)).rows["y"].tolist() == [0]


def test_fields_are_float32_and_int64_and_contiguous(tmp_path: Path) -> None:
    rows = read(csv_file(tmp_path, "a,b,y\n1,2,0\nx,2,0\n3,4,1\n"), Selection(label="y")).batches[0].rows
    assert [str(field.dtype) for field in rows.fields.values()] == ["torch.float32", "torch.int64"]
    assert all(field.is_contiguous() for field in rows.fields.values())
