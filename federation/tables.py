"""A table on disk as rows in memory, every cell checked: what a task calls that reads its own file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from federation.rows import Rows, concatenate
from federation.table_reading import read_batches
from federation.table_selection import Selection
from federation.table_source import BadCell
from privacy.errors import DataInvalid


def read_table(path: Path, label: str, columns: Sequence[str] | None = None, unit: str | None = None) -> Rows:
    """The records of a CSV file with a header: `x` (n, d) float32 of `columns`, `y` (n,) int64 of `label`.

    columns: which, in which order; None takes all but the label and the unit. An empty cell becomes NaN. Parquet and
             Arrow files are read the same way.
    unit:    the column that says to which group (patient, customer) a record belongs; it is never an input

    Raises:
        DataInvalid: the file can't be read, a column is missing, or a cell is not a number (names row and column).
    """

    def refuse(cell: BadCell) -> None:
        raise DataInvalid(f"{path}: {cell}")

    selection = Selection(label=label, unit=unit, columns=None if columns is None else tuple(columns))
    batches = list(read_batches(path, selection, refuse))
    whole = concatenate([batch.rows for batch in batches])
    if unit is None:
        return whole
    numbers: dict[str, int] = {}
    units = [numbers.setdefault(name, len(numbers)) for batch in batches for name in batch.units or ()]
    return Rows(fields=whole.fields, units=torch.tensor(units, dtype=torch.int64))
