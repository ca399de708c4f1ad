"""A task that reads its own file gets rows, or the row and column to look at."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from federation.tables import read_table
from privacy.errors import DataInvalid
from tests.federation.table_builders import bits, csv_file

HEART = "age,sex,outcome\n50,0,1\n,1,0\n"


def test_all_columns_but_the_label_are_inputs(tmp_path: Path) -> None:
    rows = read_table(csv_file(tmp_path, HEART), "outcome")
    assert rows["y"].tolist() == [1, 0]
    assert rows["x"][0].tolist() == [50, 0]
    assert math.isnan(rows["x"][1, 0])
    assert [bits(field)[0] for field in rows.fields.values()] == ["torch.float32", "torch.int64"]


def test_inputs_are_chosen_in_any_order(tmp_path: Path) -> None:
    path = csv_file(tmp_path, HEART)
    assert read_table(path, label="outcome", columns=["sex"])["x"].tolist() == [[0], [1]]
    assert read_table(path, "sex", ("outcome", "age"))["x"][0].tolist() == [1, 50]


def test_a_parquet_file_is_read_the_same_way(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"a": [1.5], "outcome": [1]}), tmp_path / "heart.parquet")
    assert read_table(tmp_path / "heart.parquet", "outcome")["x"].tolist() == [[1.5]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("age,outcome\n50,1\nold,0\n", r"heart\.csv: row 3, column 'age' is not a number"),
        ("age,outcome\n50,1\n51,\n", "row 3, column 'outcome' is empty, but every record needs a value here"),
        ("age,outcome\n50,1\n51\n", "row 3 has 1 cells, the header has 2"),
        ("age,outcome\n50,0.5\n", "row 2, column 'outcome' is not a whole number"),
        ("age,result\n50,1\n", "has no column 'outcome'; it has 'age', 'result'"),
        ("age,outcome\n", "has no records"),
    ],
)
def test_a_table_with_anything_wrong_is_refused(tmp_path: Path, content: str, told: str) -> None:
    with pytest.raises(DataInvalid, match=told):
        read_table(csv_file(tmp_path, content), "outcome")
