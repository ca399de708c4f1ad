"""CSV files as rows: every column a number, one of them the label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv
import torch
from torch import Tensor

from federation.rows import Rows
from privacy.errors import DataInvalid


def read_table(path: Path, label: str, columns: Sequence[str] | None = None) -> Rows:
    """The records of a CSV file with a header: `x` (n, d) float32 of `columns`, `y` (n,) int64 of `label`.

    columns: which, in which order; None takes all but the label. An empty cell becomes NaN.

    Raises:
        DataInvalid: the file can't be read, a column is missing, or a cell is not a number (names the column).
    """
    try:
        table = pyarrow.csv.read_csv(path)
    except OSError as error:
        raise DataInvalid(f"{path} can't be opened: {error}") from None
    except pyarrow.ArrowInvalid:
        # Its text quotes the record, and a refusal's reason goes to the server.
        raise DataInvalid(
            f"{path} can't be read as CSV: it is empty, or a row's cells don't match the header"
        ) from None
    wanted = [name for name in table.column_names if name != label] if columns is None else list(columns)
    missing = [name for name in (*wanted, label) if name not in table.column_names]
    if missing:
        raise DataInvalid(f"{path} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    labels = _numbers(path, label, table[label])
    if not labels.isfinite().all():
        raise DataInvalid(f"{path}: column {label!r} has empty cells, but every record needs a label")
    inputs = torch.stack([_numbers(path, name, table[name]) for name in wanted], dim=1)  # (n, d)
    return Rows(fields={"x": inputs, "y": labels.long()})


def _numbers(path: Path, name: str, column: pyarrow.ChunkedArray) -> Tensor:
    try:
        return torch.from_numpy(column.cast(pyarrow.float64()).to_numpy().astype(np.float32))
    except pyarrow.ArrowInvalid:
        raise DataInvalid(f"{path}: column {name!r} holds a cell that is no number") from None
