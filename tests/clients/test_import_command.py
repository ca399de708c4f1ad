"""`fedseal site import` as an engineer meets it: what it says of rows sealed, skipped or refused, and its status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clients.data import DataSet
from privacy import files
from privacy.safe import Safe
from tests.clients.data_builders import again, on_disk, patients, same, sealed
from tests.clients.import_builders import nothing_is_left
from tests.command_builders import app_in, done, fedseal_says, refused
from tests.federation.table_builders import csv_file
from tests.privacy.vault_builders import safe_in

GOOD = "id,a,y,who\n1,2,0,ann\n2,3.5,1,bob\n3,,2,ann\n"
MIXED = "id,a,y\n1,1,0\n2,geheim4711,1\n3,2,1\n3,5,oh\n"


@pytest.fixture
def north(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Safe:
    """A site `north` in the current folder, with a data set `lung`."""
    monkeypatch.chdir(tmp_path)
    safe = safe_in(tmp_path / "north", "north")
    sealed(safe, patients(3), "lung")
    return safe


def refused_import(safe: Safe, *arguments: str | Path) -> str:
    """What a refused import says; nothing of it may stay."""
    before, scopes = on_disk(safe.folder / "objects"), safe.vault.keyring.scopes()
    said = refused("site", "import", *arguments)
    nothing_is_left(safe, before, scopes)
    return said


def test_an_import_says_what_it_sealed_and_that_the_table_is_still_there(north: Safe, tmp_path: Path) -> None:
    csv_file(tmp_path, GOOD)
    options = ("--as", "heart", "--label-column", "y", "--unit-column", "who", "--id-column", "id")
    shown = done("site", "import", "heart.csv", *options)
    data = DataSet.open(again(north).vault, "heart")
    assert shown.splitlines() == [
        "sealed 3 rows of 2 units as heart",
        "1 columns: a; label: y",
        f"fingerprint {data.facts.fingerprint}",
        "heart.csv still holds the rows in the clear: it is yours to keep or delete",
    ]
    assert (tmp_path / "heart.csv").read_text() == GOOD
    assert data.read()["y"].tolist() == [0, 1, 2]
    assert "heart  3 rows of 2 units" in done("site", "data")
    assert "open and are whole" in done("site", "verify")


def test_bad_rows_refuse_the_table_and_are_listed_without_their_cells(north: Safe, tmp_path: Path) -> None:
    csv_file(tmp_path, MIXED)
    said = refused_import(north, "heart.csv", "--as", "heart", "--label-column", "y", "--id-column", "id")
    assert said.splitlines() == [
        "heart.csv: 3 bad cells in 2 rows; nothing was imported",
        "  row 3, column 'a' is not a number",
        "  row 5, column 'y' is not a number",
        "  row 5, column 'id' was seen before in row 4",
        "correct them, or leave such rows out with --on-bad-row skip",
    ]
    assert (tmp_path / "heart.csv").read_text() == MIXED


def test_skipped_rows_are_counted_and_listed_without_their_cells(north: Safe, tmp_path: Path) -> None:
    csv_file(tmp_path, MIXED)
    options = ("--as", "heart", "--label-column", "y", "--id-column", "id", "--on-bad-row", "skip")
    shown = done("site", "import", "heart.csv", *options).splitlines()
    assert shown[0] == "sealed 2 rows as heart"
    assert shown[3:7] == [
        "skipped 2 rows with a bad cell:",
        "  row 3, column 'a' is not a number",
        "  row 5, column 'y' is not a number",
        "  row 5, column 'id' was seen before in row 4",
    ]
    assert DataSet.open(again(north).vault, "heart").read()["x"].tolist() == [[1], [2]]


def test_a_flood_of_bad_rows_is_told_in_a_few_lines(north: Safe, tmp_path: Path) -> None:
    csv_file(tmp_path, "a,y\n1,0\n" + "x,0\n" * 3000)
    shown = done("site", "import", "heart.csv", "--as", "heart", "--label-column", "y", "--on-bad-row", "skip")
    assert "skipped 3,000 rows with a bad cell:" in shown
    assert shown.count("is not a number") == 20
    assert "\n  and 2,980 more\n" in shown


def test_inputs_are_named_with_commas_between_and_spaces_do_not_matter(north: Safe, tmp_path: Path) -> None:
    csv_file(tmp_path, "a,b,c,y\n1,2,x,0\n")
    shown = done("site", "import", "heart.csv", "--as", "heart", "--label-column", "y", "--columns", "b, a")
    assert "2 columns: b, a; label: y" in shown
    assert DataSet.open(again(north).vault, "heart").read()["x"].tolist() == [[2, 1]]


def test_an_apps_schema_checks_the_table_and_names_the_label(north: Safe, tmp_path: Path) -> None:
    app_in(tmp_path)
    csv_file(tmp_path, "age,sex,pressure,outcome\n30,f,1,alive\n130,m,1,dead\n")
    said = refused_import(north, "heart.csv", "--as", "heart", "--app", "app")
    assert "row 3, column 'age' is above the schema's upper bound 120" in said
    shown = done("site", "import", "heart.csv", "--as", "heart", "--app", "app", "--on-bad-row", "skip")
    assert "3 columns: age, sex, pressure; label: outcome" in shown


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--label-column", "z"], "has no column 'z'"),
        (["--unit-column", "patient"], "has no column 'patient'"),
        (["--label-column", "y", "--unit-column", "y"], "column 'y' is chosen twice"),
        (["--columns", "a,a"], "column 'a' is chosen twice"),
        (["--columns", "a,,y"], "has no column ''"),
        (["--columns", "a", "--app", "app"], "the task's schema names the input columns: leave out --columns"),
        (["--app", "nowhere"], "nowhere is no app"),
        (["--site", "nowhere"], "nowhere is no site"),
        (["--as", "Heart Rate"], "'Heart Rate' can't name a data set"),
        (["--as", "lung"], "there is a data set 'lung' already"),
    ],
)  # fmt: skip
def test_what_can_not_be_imported_so_is_refused_with_one_and_leaves_nothing(
    north: Safe, tmp_path: Path, options: list[str], told: str
) -> None:
    app_in(tmp_path)
    csv_file(tmp_path, "a,y\n1,0\n")
    named = [] if "--as" in options else ["--as", "heart"]
    assert told in refused_import(north, "heart.csv", *named, *options)
    assert same(DataSet.open(again(north).vault, "lung").read(), patients(3))


@pytest.mark.parametrize("name", ["nowhere.csv", "letter.docx", "empty"])
def test_what_is_no_table_is_refused(north: Safe, tmp_path: Path, name: str) -> None:
    (tmp_path / "letter.docx").write_text("dear reader")
    (tmp_path / "empty").mkdir()
    assert name in refused_import(north, name, "--as", "heart")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["heart.csv"],
        ["--as", "heart"],
        ["heart.csv", "--as"],
        ["heart.csv", "--as", "heart", "--on-bad-row", "maybe"],
        ["heart.csv", "--as", "heart", "--passphrase-fd", "three"],
    ],
)
def test_wrong_usage_exits_with_two_and_imports_nothing(north: Safe, tmp_path: Path, arguments: list[str]) -> None:
    csv_file(tmp_path, GOOD)
    before = on_disk(north.folder)
    assert fedseal_says("site", "import", *arguments).status == 2
    assert on_disk(north.folder) == before


def test_nothing_is_imported_into_a_site_that_another_process_changes(north: Safe, tmp_path: Path) -> None:
    csv_file(tmp_path, GOOD)
    with files.locked(north.folder):
        said = refused("site", "import", "heart.csv", "--as", "heart", "--columns", "a")
    assert "is being changed by another process" in said
    assert [label.name for label in again(north).vault.list("data-set")] == ["lung"]


@pytest.mark.parametrize("column", ["pressure [mmHg]", "risk [/24h]", "[bold]"])
def test_names_with_brackets_are_shown_as_they_are(north: Safe, tmp_path: Path, column: str) -> None:
    csv_file(tmp_path, f"{column},y\n1,0\nx,1\n", f"{column.replace('/', '')}.csv")
    table = f"{column.replace('/', '')}.csv"
    shown = done("site", "import", table, "--as", "heart", "--label-column", "y", "--on-bad-row", "skip")
    assert f"1 columns: {column}; label: y" in shown
    assert f"  row 3, column {column!r} is not a number" in shown
    assert f"{table} still holds the rows" in shown


def test_the_command_itself_exits_with_its_status_and_without_a_traceback(north: Safe, tmp_path: Path) -> None:
    csv_file(tmp_path, MIXED)
    command = [sys.executable, "-m", "fedseal", "site", "import", "heart.csv", "--as", "heart", "--label-column", "y"]
    for options, status in (([], 1), (["--on-bad-row", "skip"], 0), (["--on-bad-row", "maybe"], 2)):
        ran = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert ran.returncode == status, ran.stderr
        assert "Traceback" not in ran.stderr
        assert "geheim4711" not in ran.stdout + ran.stderr
