"""Which kind of file a path is; and a file of a million rows, which takes seconds and little memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from federation.table_files import ARROW, CSV, TENSORS, open_table
from federation.table_reading import read_batches
from federation.table_selection import Selection
from federation.table_source import BadCell
from privacy.errors import DataInvalid
from tests.federation.table_builders import csv_file

ROWS, COLUMNS = 1_000_000, 10
SECONDS = 30  # about 2 on one core; a cell at a time takes minutes


@pytest.mark.parametrize("name", ["heart.xlsx", "heart", "heart.csv.zip", "heart.npy", "csv"])
def test_an_unknown_kind_is_refused_and_the_known_ones_are_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataInvalid, match=r"of no known kind: there are \.csv, .*folders of images.*as CSV"):
        open_table(csv_file(tmp_path, "a,y\n1,0\n", name))


@pytest.mark.parametrize("ending", [*CSV, *ARROW, *TENSORS])
@pytest.mark.parametrize("spelling", [str.lower, str.upper])
def test_an_ending_is_known_in_large_and_small_letters_and_what_is_no_such_file_is_refused(
    tmp_path: Path, ending: str, spelling: type[str]
) -> None:
    with pytest.raises(DataInvalid, match=r"can't be read|is empty|is no|no text at all|no safetensors"):
        open_table(csv_file(tmp_path, b"\0\0\0", spelling(f"heart{ending}")))


@pytest.mark.parametrize("ending", [*CSV, *ARROW, *TENSORS])
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, ending: str) -> None:
    with pytest.raises(DataInvalid, match="can't be read: No such file or directory"):
        open_table(tmp_path / f"heart{ending}")


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A million rows of ten columns; row 500,000 and the last one have a wrong cell."""
    rng = np.random.default_rng(1)
    lines = [",".join(f"{number:.4f}" for number in row) for row in rng.normal(size=(1000, COLUMNS))]
    path = tmp_path_factory.mktemp("million") / "million.csv"
    with path.open("w") as stream:
        stream.write(",".join(f"c{place}" for place in range(COLUMNS)) + ",y\n")
        for row in range(2, ROWS + 2):
            label = "maybe" if row in (500_000, ROWS + 1) else str(row % 2)
            stream.write(f"{lines[row % 1000]},{label}\n")
    yield path
    path.unlink()


def test_a_wrong_cell_among_a_million_rows_is_found_in_seconds(million: Path) -> None:
    bad: list[BadCell] = []
    start = time.monotonic()
    count = sum(len(batch.rows) for batch in read_batches(million, Selection(label="y"), bad.append))
    assert time.monotonic() - start < SECONDS
    assert count == ROWS - 2
    assert [str(cell) for cell in bad] == [
        "row 500000, column 'y' is not a number",
        f"row {ROWS + 1}, column 'y' is not a number",
    ]


def test_memory_does_not_grow_with_the_file(million: Path) -> None:
    """Python's and NumPy's share, which pyarrow's own pool (bounded by its 32 blocks) is not part of."""
    batches = read_batches(million, Selection(label="y"), lambda _: None)
    next(batches)
    tracemalloc.start()
    peaks = []
    for place, _ in enumerate(batches):
        if place % 10 == 9:
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.reset_peak()
    tracemalloc.stop()
    assert len(peaks) >= 3
    assert peaks[-1] < 1.5 * peaks[0]
