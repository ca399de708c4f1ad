"""An app's task says what a table or folder of images must hold, what its label is, and how classes are numbered."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from clients.importing import Import
from privacy.safe import Safe
from tests.clients.data_builders import patients, sealed
from tests.clients.import_builders import imported, refusal
from tests.command_builders import app_in
from tests.federation.table_builders import csv_file
from tests.privacy.vault_builders import safe_in

GOOD = "who,outcome,pressure,sex,age\nann,dead,1.5,m,30\nbob,alive,,f,120\n"
BAD = "age,sex,pressure,outcome\n30,f,1,alive\n121,x,-1,gone\n,m,2,\n40.5,m,oh,dead\n"
ABOUT_BAD = [
    "row 3, column 'age' is above the schema's upper bound 120",
    "row 3, column 'sex' is not one of the schema's categories",
    "row 3, column 'pressure' is below the schema's lower bound 0",
    "row 3, column 'outcome' is not one of the schema's categories",
    "row 4, column 'age' is empty, but the schema asks for a value",
    "row 4, column 'outcome' is empty, but every record needs a value here",
    "row 5, column 'age' is not a whole number",
    "row 5, column 'pressure' is not a number",
]
ANIMALS = """
from federation.schema import Column, Schema
from federation.task import Task


class Animals(Task):
    schema = Schema(columns=(), label=Column(name="animal", kind="category", categories=("dog", "cat")))

    def model(self):
        raise NotImplementedError

    def rows(self, site):
        raise NotImplementedError


task = Animals()
"""


@pytest.fixture
def north(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Safe:
    """A site that holds a data set `lung`; what apps add to the search path is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    safe = safe_in(tmp_path / "north", "north")
    sealed(safe, patients(3), "lung")
    return safe


def animals(folder: Path) -> Path:
    """Three grey images of 2 x 1 pixels: cat/1.png, cat/2.png, dog/1.png."""
    for name, colour in (("cat/1.png", 10), ("cat/2.png", 20), ("dog/1.png", 30)):
        path = folder / "animals" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 1), colour).save(path)
    return folder / "animals"


def test_the_schema_gives_the_inputs_their_order_and_the_label_its_name_and_number(north: Safe, tmp_path: Path) -> None:
    wanted = Import(table=csv_file(tmp_path, GOOD), name="heart", unit="who", app=app_in(tmp_path))
    data, _ = imported(north, wanted)
    rows = data.read()
    assert rows["x"].nan_to_num(-9).tolist() == [[30, 1, 1.5], [120, 0, -9]]
    assert rows["y"].tolist() == [1, 0]
    assert (data.facts.columns, data.facts.label) == (("age", "sex", "pressure"), "outcome")
    assert (data.facts.unit, data.facts.units) == ("who", 2)


def test_the_schemas_rules_hold_for_a_label_column_of_another_name(north: Safe, tmp_path: Path) -> None:
    path = csv_file(tmp_path, GOOD.replace("outcome", "status"))
    wanted = Import(table=path, name="heart", app=app_in(tmp_path))
    assert "has no column 'outcome'" in refusal(north, wanted)
    data, _ = imported(north, replace(wanted, label="status"))
    assert (data.facts.label, data.read()["y"].tolist()) == ("status", [1, 0])


def test_cells_that_break_the_schema_are_told_by_its_rules(north: Safe, tmp_path: Path) -> None:
    said = refusal(north, Import(table=csv_file(tmp_path, BAD), name="heart", app=app_in(tmp_path)))
    assert said.splitlines()[0].endswith(": 8 bad cells in 3 rows; nothing was imported")
    assert [line.strip() for line in said.splitlines()[1:-1]] == ABOUT_BAD


def test_rows_that_break_the_schema_can_be_skipped(north: Safe, tmp_path: Path) -> None:
    wanted = Import(table=csv_file(tmp_path, BAD), name="heart", app=app_in(tmp_path), skip_bad_rows=True)
    data, bad = imported(north, wanted)
    assert (data.read()["x"].tolist(), data.facts.skipped, bad.lines()) == ([[30, 0, 1]], 3, ABOUT_BAD)


def test_columns_that_the_schema_names_are_not_named_again(north: Safe, tmp_path: Path) -> None:
    wanted = Import(table=csv_file(tmp_path, GOOD), name="heart", columns=("age",), app=app_in(tmp_path))
    assert "the task's schema names the input columns: leave out --columns" in refusal(north, wanted)
    assert "sex" not in imported(north, replace(wanted, app=None))[0].facts.columns


def test_an_app_without_a_plan_or_task_is_refused(north: Safe, tmp_path: Path) -> None:
    app = app_in(tmp_path)
    wanted = Import(table=csv_file(tmp_path, GOOD), name="heart", app=app)
    (app / "pyproject.toml").write_text('[tool.flwr.app.config]\ntask = "not_in_this_app:task"\n')
    assert "not_in_this_app" in refusal(north, wanted)
    (app / "pyproject.toml").unlink()
    assert "is no app: it has no pyproject.toml" in refusal(north, wanted)


def test_images_are_labelled_by_their_sub_folders(north: Safe, tmp_path: Path) -> None:
    data, _ = imported(north, Import(table=animals(tmp_path), name="animals", unit="file"))
    rows = data.read()
    assert rows["x"].tolist() == [[[[10, 10]]], [[[20, 20]]], [[[30, 30]]]]
    assert rows["y"].tolist() == [0, 0, 1]
    assert (data.facts.columns, data.facts.label, data.facts.units) == (("image",), "folder", 3)


def test_the_schema_says_in_which_order_sub_folders_count_and_which_there_may_be(north: Safe, tmp_path: Path) -> None:
    wanted = Import(table=animals(tmp_path), name="animals", app=app_in(tmp_path, "animals_of_an_app", ANIMALS))
    assert imported(north, wanted)[0].read()["y"].tolist() == [1, 1, 0]
    (wanted.table / "dog").rename(wanted.table / "horse")
    said = refusal(north, replace(wanted, name="horses"))
    assert "row 3, column 'folder' is not one of the schema's categories" in said


def test_a_damaged_image_is_a_bad_row_that_refuses_the_folder_or_is_skipped(north: Safe, tmp_path: Path) -> None:
    folder = animals(tmp_path)
    (folder / "cat/2.png").write_bytes(b"no image")
    wanted = Import(table=folder, name="animals")
    assert "row 2, column 'file' is damaged, or no image" in refusal(north, wanted)
    data, bad = imported(north, replace(wanted, skip_bad_rows=True))
    assert (data.read()["y"].tolist(), data.facts.skipped) == ([0, 1], 1)
    assert bad.lines() == ["row 2, column 'file' is damaged, or no image"]
