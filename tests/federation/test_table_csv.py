"""CSV files as hospitals have them: whatever is not plain is read rightly, reported by row, or refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from federation import table_csv, table_text
from federation.table_reading import read_batches
from federation.table_selection import Selection
from federation.table_source import BadCell
from privacy.errors import DataInvalid
from tests.federation.table_builders import csv_file, read

LABELLED = Selection(label="y")


@pytest.mark.parametrize(
    "content",
    [
        "a,y\n1,0\n2,1\n",
        "a,y\r\n1,0\r\n2,1\r\n",
        "a,y\r1,0\r2,1\r",
        "a,y\n1,0\n2,1",
        "\ufeffa,y\n1,0\n2,1\n",
        '"a","y"\n"1","0"\n2,1\n',
        "a,y\n 1 , 0\n2\t,1 \n",
        "a,y\n\n1,0\n\n2,1\n\n\n",
        "a,y\n1,0\n2,1\n,\n,\n",
    ],
    ids=repr,
)
def test_one_table_is_read_from_all_its_spellings(tmp_path: Path, content: str) -> None:
    found = read(csv_file(tmp_path, content), LABELLED)
    assert (found.x, found.y, found.told) == ([[1.0], [2.0]], [0, 1], [])


def test_tabs_and_gzip_go_by_the_ending_of_the_name(tmp_path: Path) -> None:
    commas, tabs = b"a,y\n1,0\n", b"a\ty\n1\t0\n"
    for name, content in [
        ("h.tsv", tabs),
        ("h.csv.gz", gzip.compress(commas)),
        ("H.TSV.GZ", gzip.compress(tabs)),
        ("north.tsv.csv", commas),
    ]:
        assert read(csv_file(tmp_path, content, name), LABELLED).x == [[1.0]]


def test_a_quoted_cell_may_hold_commas_quotes_and_line_breaks_and_is_one_row(tmp_path: Path) -> None:
    content = 'u,a,y\n"Doe, ""J""",1,0\n"two\r\nlines",2,1\nplain,bad,1\n'
    found = read(csv_file(tmp_path, content), Selection(label="y", unit="u"))
    assert found.units == ['Doe, "J"', "two\r\nlines"]
    assert found.told == ["row 4, column 'a' is not a number"]


def test_empty_lines_count_as_rows_as_in_a_spreadsheet(tmp_path: Path) -> None:
    assert read(csv_file(tmp_path, "a,y\n\n1,0\n,,\n\nx,1\n"), LABELLED).told == [
        "row 4 has 3 cells, the header has 2",
        "row 6, column 'a' is not a number",
    ]


def test_torn_rows_are_reported_in_order_among_the_other_bad_ones(tmp_path: Path) -> None:
    content = "a,y\n1\n2,x\n3,3,3\n4,0\n5,\n6\n"
    found = read(csv_file(tmp_path, content), LABELLED)
    assert found.x == [[4.0]]
    assert found.told == [
        "row 2 has 1 cells, the header has 2",
        "row 3, column 'y' is not a number",
        "row 4 has 3 cells, the header has 2",
        "row 6, column 'y' is empty, but every record needs a value here",
        "row 7 has 1 cells, the header has 2",
    ]


@pytest.mark.parametrize("block", [6, 7, 8, 13, 40, 1000])
def test_row_numbers_do_not_depend_on_where_a_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(table_csv, "_BLOCK_BYTES", block)
    lines = ["1,0", "1", "", "x,0", "1,1", "1,1,1"] * 5
    found = read(csv_file(tmp_path, "\n".join(["a,y", *lines, ""])), LABELLED)
    rows = range(2, 32)
    assert [cell.row for cell in found.bad] == [row for row in rows if lines[row - 2] in ("1", "x,0", "1,1,1")]
    assert found.y == [0, 1] * 5


def test_a_file_of_torn_rows_only_has_no_good_record(tmp_path: Path) -> None:
    found = read(csv_file(tmp_path, "a,y\n1\n2\n"), LABELLED)
    assert (found.batches, [cell.row for cell in found.bad]) == ([], [2, 3])


def test_a_flood_of_torn_rows_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_text, "_MOST_TORN_ROWS", 10)
    with pytest.raises(DataInvalid, match=r"from row 2 on.*delimiter another one"):
        read(csv_file(tmp_path, "a,y\n" + "1\n" * 11), LABELLED)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty: it should begin with a header"),
        ("\ufeff", "is empty: it should begin with a header"),
        ("a,y", "has no records"),
        ("a,y\n", "has no records"),
        ("\ufeffa,y\r\n", "has no records"),
        ("a,y\n\n\n,\n", "has no records"),
        ("\na,y\n1,0\n", "begins with an empty line"),
        (",,\na,y\n1,0\n", "begins with an empty line"),
        ("a;y\n1,5;0\n", "divided by semicolons"),
        ("a,y,a\n1,0,2\n", "has two columns called 'a'"),
        ('"a,y\n1,0\n', "no column 'y'"),
        (",a,y\n0,1,0\n", "column 1 has no name"),
    ],
    ids=repr,
)
def test_what_is_wrong_with_the_whole_file_is_said(tmp_path: Path, content: str, told: str) -> None:
    with pytest.raises(DataInvalid, match=told):
        read(csv_file(tmp_path, content), LABELLED)


@pytest.mark.parametrize(
    "record", ["63,1,145,233", "Smith,63,0", "1,2,Smith", "0.5,0.5,0.5", "3,2,1", " 7 ,x,y", "-1e5,x,y", ".5,1,x"]
)
def test_a_file_without_its_header_is_refused_and_its_first_record_not_repeated(tmp_path: Path, record: str) -> None:
    for selection in (LABELLED, Selection(label=None), Selection(label=None, columns=("Smith",))):
        with pytest.raises(DataInvalid, match="row 1 holds numbers where names should stand") as raised:
            read(csv_file(tmp_path, f"{record}\n{record}\n"), selection)
        assert record not in str(raised.value)


@pytest.mark.parametrize("header", ["0,1,2,y", "y,2019,2020,2021", "400,400.5,y,1e3", "x1,2nd,y", "1.2.3,1 2,y"])
def test_names_may_be_numbers_where_they_are_a_scale(tmp_path: Path, header: str) -> None:
    assert read(csv_file(tmp_path, f"{header}\n{'1,' * header.count(',')}1\n"), LABELLED).y == [1]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_of_wide_characters_is_refused_with_the_remedy(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(DataInvalid, match="is UTF-16 text, or no text at all: save it as UTF-8"):
        read(csv_file(tmp_path, "a,y\n1,0\n".encode(encoding)), LABELLED)


@pytest.mark.parametrize("block", [16, 1000])
@pytest.mark.parametrize(
    ("content", "row"),
    [
        (b"a\xe9,y\n1,0\n", 1),
        (b"a,y\n\xe9,0\n1,1\n", 2),
        (b"a,y\n1,0\n1,0\n\n1,\xe9\n1,1\n", 5),
        (b'a,y\n1,0\n"1\n\xe9",0\n1,1\n', 3),
        (b"a,y\n1,0\n\xe9,\xff,1\n1,1\n", 3),
        (b"a,y\n1,0\n1,0\n1,0\n1,0\n1,\xc3", 6),
        (b"a,y\n1,0\n1,0\n1,0\n1,0\n\xf0\x9f\x99,0\n", 6),
    ],
    ids=repr,
)
def test_the_row_that_is_no_utf8_is_named_and_nothing_else_of_it_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, row: int, block: int
) -> None:
    monkeypatch.setattr(table_csv, "_BLOCK_BYTES", block)
    bad: list[BadCell] = []
    with pytest.raises(DataInvalid, match=f"row {row} is no UTF-8 text: save it as UTF-8"):
        list(read_batches(csv_file(tmp_path, content), LABELLED, bad.append))
    assert bad == []


@pytest.mark.parametrize("block", [7, 8, 9, 10, 1000])
def test_letters_of_several_bytes_may_straddle_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(table_csv, "_BLOCK_BYTES", block)
    units = ["é", "👩", "é", "x👩"]
    content = "u,y\n" + "".join(f"{unit},{place}\n" for place, unit in enumerate(units))
    found = read(csv_file(tmp_path, content), Selection(label=None, unit="u"))
    assert found.units == units


@pytest.mark.parametrize(
    "content",
    [
        'a,y,note\n1,0,fine\n2,1,"never closed\n3,0,lost\n4,1,lost\n',
        'a,y\n1,0\n"2,1\n3,0\n',
        'a,y\n1,0\n2,"1\n3,0\n',
        'note,a,y\nfine,1,0\n"never closed,2,1\nlost,3,0\n',
    ],
)
def test_a_quotation_that_never_ends_may_not_swallow_records(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataInvalid, match=r"from row \d on: is a quotation mark opened there and never closed"):
        read(csv_file(tmp_path, content), Selection(label="y", columns=("a",)))


def test_a_quotation_longer_than_a_block_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_csv, "_BLOCK_BYTES", 30)
    content = 'a,y\n1,0\n2,"' + "3,0\n" * 30
    with pytest.raises(DataInvalid, match="from row 3 on: is a quotation mark"):
        read(csv_file(tmp_path, content), LABELLED)


def test_a_quotation_with_line_breaks_may_end_the_file(tmp_path: Path) -> None:
    content = 'a,y,note\n1,0,fine\n2,1,"two\nlines"\n'
    assert read(csv_file(tmp_path, content), Selection(label="y", columns=("a",))).y == [0, 1]


@pytest.mark.parametrize("lost", [1, 8, 20])
def test_a_gzip_file_that_was_cut_is_refused(tmp_path: Path, lost: int) -> None:
    content = gzip.compress(b"a,y\n" + b"1,0\n" * 100)[:-lost]
    with pytest.raises(DataInvalid, match="it is damaged"):
        read(csv_file(tmp_path, content, "h.csv.gz"), LABELLED)
