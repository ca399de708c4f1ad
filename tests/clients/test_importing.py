"""A table becomes a sealed data set as its rows say, or is refused by row, column and reason and leaves nothing."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest

from clients.data import DataSet
from clients.importing import BadRows, Import, import_table
from federation import table_csv
from federation.table_source import BadCell
from privacy.errors import DataInvalid
from privacy.safe import Safe
from tests.clients.data_builders import again, on_disk, patients, records_a_shard, same, sealed
from tests.clients.import_builders import imported, refusal
from tests.federation.table_builders import csv_file
from tests.privacy.vault_builders import safe_in

SECRET = "geheim4711"
GOOD = "id,a,y,who\n1,2,0,ann\n2,3.5,1,bob\n3,,2,ann\n"


@pytest.fixture
def north(tmp_path: Path) -> Safe:
    """A site that holds a data set `lung`."""
    safe = safe_in(tmp_path / "north", "north")
    sealed(safe, patients(3), "lung")
    return safe


# What is imported


def test_rows_are_sealed_as_the_table_says_and_the_facts_tell_of_them(north: Safe, tmp_path: Path) -> None:
    wanted = Import(table=csv_file(tmp_path, GOOD), name="heart", label="y", unit="who", identifier="id")
    data, bad = imported(north, wanted)
    rows = data.read()
    assert (rows["x"][:2].tolist(), rows["x"][2].isnan().tolist(), rows["y"].tolist()) == (
        [[2], [3.5]],
        [True],
        [0, 1, 2],
    )
    facts = data.facts
    assert (facts.columns, facts.label, facts.unit, facts.units) == (("a",), "y", "who", 2)
    assert (facts.records, facts.skipped, bad.lines()) == (3, 0, [])


def test_inputs_are_those_that_are_named_in_their_order_and_no_label_is_needed(north: Safe, tmp_path: Path) -> None:
    data, _ = imported(north, Import(table=csv_file(tmp_path, "a,b,c\n1,2,x\n"), name="heart", columns=("b", "a")))
    assert (data.read()["x"].tolist(), set(data.read().fields)) == ([[2, 1]], {"x"})
    assert (data.facts.columns, data.facts.label, data.facts.units) == (("b", "a"), None, None)


def test_one_table_has_one_fingerprint_in_all_its_spellings(north: Safe, tmp_path: Path) -> None:
    plain = csv_file(tmp_path, GOOD, "plain.csv")
    spellings = [
        plain,
        csv_file(tmp_path, b"\xef\xbb\xbf" + GOOD.encode(), "bom.csv"),
        csv_file(tmp_path, GOOD.replace("\n", "\r\n"), "windows.csv"),
        csv_file(tmp_path, GOOD.replace("ann", '"ann"').replace("3.5", '" 3.50"'), "quoted.csv"),
        csv_file(tmp_path, GOOD.replace(",", "\t"), "tabs.tsv"),
        csv_file(tmp_path, gzip.compress(GOOD.encode()), "packed.csv.gz"),
        csv_file(tmp_path, "".join([GOOD.splitlines(keepends=True)[line] for line in (0, 3, 1, 2)]), "turned.csv"),
        tmp_path / "table.parquet",
    ]
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(plain), spellings[-1])
    found = {
        imported(north, Import(table=path, name=f"n{place}", label="y", unit="who"))[0].facts.fingerprint
        for place, path in enumerate(spellings)
    }
    assert len(found) == 1


def test_the_table_is_left_byte_for_byte_whether_it_is_taken_or_refused(north: Safe, tmp_path: Path) -> None:
    folder = tmp_path / "usb"
    folder.mkdir()
    for content, label in ((GOOD.replace("\n", "\r\n"), "y"), (GOOD, "who")):
        path = csv_file(folder, content)
        path.chmod(0o440)
        before = path.stat()
        wanted = Import(table=path, name=f"heart-{label}", label=label)
        refusal(north, wanted) if label == "who" else imported(north, replace(wanted, columns=("a",)))
        after = path.stat()
        assert on_disk(folder) == {"heart.csv": content.encode()}
        assert (after.st_mtime_ns, after.st_mode, after.st_ino) == (before.st_mtime_ns, before.st_mode, before.st_ino)
        path.unlink()


# What is refused


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (f"id,a,y\n1,1,0\n2,{SECRET},1\n", "row 3, column 'a' is not a number"),
        (f"id,a,y\n1,1,{SECRET}\n", "row 2, column 'y' is not a number"),
        ("id,a,y\n1,1,0.5\n", "row 2, column 'y' is not a whole number"),
        (f'id,a,y\n"{SECRET}\nsecond line",1,0\n2,x,0\n', "row 3, column 'a' is not a number"),
        (f"id,a,y\n{SECRET},1,0\n\n5,1,\n", "row 4, column 'y' is empty, but every record needs a value here"),
        (f"id,a,y\n{SECRET},1,0\n5,1,0\n {SECRET},2,1\n", "row 4, column 'id' was seen before in row 2"),
        (f"id,a,y\n,1,{SECRET}\n", "row 2, column 'id' is empty"),
        (f"id,a,y\n1,1,0\n2,{SECRET},1,7\n", "row 3 has 4 cells, the header has 3"),
        (f"id,a\n1,{SECRET}\n", "has no column 'y'; it has 'id', 'a'"),
        (f"id,a,a,y\n1,{SECRET},1,0\n", "has two columns called 'a': rename one"),
        (f'id,a,y\n1,1,0\n2,"{SECRET},1\n3,1,1\n', "can't be read as CSV from row 3 on"),
        (f"{SECRET},1,0\n2,2,1\n", "row 1 holds numbers where names should stand"),
        (f"id;a;y\n1;{SECRET};0\n", "is divided by semicolons"),
        (f"id,a,y\n1,{SECRET},0\n".encode("utf-16"), "is UTF-16 text"),
        (f"id,a,y\n1,1,0\n{SECRET}\xfc,1,1\n".encode("latin-1"), "row 3 is no UTF-8 text"),
        (b"\xef\xbb\xbf" + f"id,a,y\n1,{SECRET},0\n".encode(), "row 2, column 'a' is not a number"),
        ("", "is empty: it should begin with a header"),
        ("\ufeff", "is empty: it should begin with a header"),
        ("id,a,y\n", "has no records"),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused_without_a_cell_of_it_and_leaves_nothing(
    north: Safe, tmp_path: Path, content: str | bytes, told: str
) -> None:
    wanted = Import(table=csv_file(tmp_path, content), name="heart", label="y", identifier="id")
    said = refusal(north, wanted)
    assert told in said
    assert str(wanted.table) in said
    assert SECRET not in said


def test_all_bad_cells_are_told_at_once_the_first_twenty_by_name(
    north: Safe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_csv, "_BLOCK_BYTES", 100)
    content = "a,b,y\n" + "1,1,0\n" * 100 + "x,x,0\n" * 620 + "1,1,x\n"
    said = refusal(north, Import(table=csv_file(tmp_path, content), name="heart", label="y"))
    first, *cells, more, remedy = said.splitlines()
    assert first.endswith(": 1,241 bad cells in 621 rows; nothing was imported")
    assert cells == [f"  row {102 + place // 2}, column {'ab'[place % 2]!r} is not a number" for place in range(20)]
    assert more == "  and 1,221 more"
    assert "--on-bad-row skip" in remedy


@pytest.mark.parametrize("fault", ["a bad cell", "an open quotation"])
def test_a_fault_at_the_end_takes_back_the_shards_that_were_sealed_before(
    north: Safe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(table_csv, "_BLOCK_BYTES", 100)
    records_a_shard(monkeypatch, 10, 12)
    end, told = ("x,0\n", "row 302, column 'a'") if fault == "a bad cell" else ('1,"0\n', "as CSV from row 302 on")
    path = csv_file(tmp_path, "a,y\n" + "".join(f"{place},{place % 2}\n" for place in range(300)) + end)
    wanted = Import(table=path, name="heart", label="y")
    shards: list[int] = []
    with pytest.raises(DataInvalid):
        import_table(north, wanted, lambda _: shards.append(len(north.vault.list("rows"))))
    assert max(shards) > 5
    assert told in refusal(north, wanted)
    assert [label.name for label in again(north).vault.list("data-set")] == ["lung"]
    assert same(DataSet.open(again(north).vault, "lung").read(), patients(3))


def test_a_million_rows_are_read_to_the_end_and_the_last_one_is_named(
    north: Safe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records_a_shard(monkeypatch, 300_000, 12)
    lines = [f"{place},{place % 2}\n" for place in range(999_999)]
    path = csv_file(tmp_path, "a,y\n" + "".join(lines) + "1,x\n")
    said = refusal(north, Import(table=path, name="heart", label="y"))
    assert said.splitlines()[1] == "  row 1000001, column 'y' is not a number"


# Rows that are skipped


def test_skipped_rows_are_left_out_counted_and_listed(north: Safe, tmp_path: Path) -> None:
    content = "id,a,y\n1,1,0\n2,x,x\n2,3,1\n\n4,4,1,9\n5,5,1\n5,6,0\n"
    wanted = Import(table=csv_file(tmp_path, content), name="heart", label="y", identifier="id", skip_bad_rows=True)
    data, bad = imported(north, wanted)
    assert (data.read()["x"].tolist(), data.read()["y"].tolist()) == ([[1], [5]], [0, 1])
    assert (data.facts.skipped, data.facts.records, bad.rows, bad.cells) == (4, 2, 4, 5)
    assert bad.lines() == [
        "row 3, column 'a' is not a number",
        "row 3, column 'y' is not a number",
        "row 4, column 'id' was seen before in row 3",
        "row 6 has 4 cells, the header has 3",
        "row 8, column 'id' was seen before in row 7",
    ]


def test_a_table_of_bad_rows_only_is_refused_though_they_may_be_skipped(north: Safe, tmp_path: Path) -> None:
    wanted = Import(table=csv_file(tmp_path, "a,y\nx,0\n1,\n"), name="heart", label="y", skip_bad_rows=True)
    assert "the table holds none, or each has a bad cell" in refusal(north, wanted)


def test_a_file_that_stops_being_csv_is_refused_though_bad_rows_may_be_skipped(north: Safe, tmp_path: Path) -> None:
    path = csv_file(tmp_path, 'a,y\n1,0\nx,0\n"1,0\n2,0\n')
    wanted = Import(table=path, name="heart", label="y", skip_bad_rows=True)
    assert "can't be read as CSV from row 4 on" in refusal(north, wanted)


@pytest.mark.parametrize(("cells", "last"), [(20, "row 21 "), (21, "and 1 more"), (2000, "and 1,980 more")])
def test_twenty_bad_cells_are_listed_and_the_others_counted(cells: int, last: str) -> None:
    bad = BadRows()
    for place in range(cells):
        bad.add(BadCell(row=place + 2, column="a", reason="is not a number"))
    assert len(bad.lines()) == min(cells, 21)
    assert bad.lines()[-1].startswith(last.strip())
    assert (bad.rows, bad.cells) == (cells, cells)
