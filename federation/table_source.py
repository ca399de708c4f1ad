"""What every kind of file of records is to its reader: named columns of cells, named tensors, and batches of both.

n is the number of records of a batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow
from numpy.typing import NDArray
from torch import Tensor

from privacy.errors import DataInvalid

BATCH_ROWS = 65_536
BATCH_CELLS = 4_000_000
_MOST_NAMES = 20
BATCH_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BadCell:
    """What is wrong with a cell of a row that is left out. It never says what stands in the cell.

    row:    as a person counts: the header of a CSV file is row 1 and its first record row 2 (records are counted, not
            lines: a quoted cell may hold line breaks; an empty line counts, as in a spreadsheet). Without a header
            (Parquet, Arrow, tensors; images in the order of their paths) the first record is row 1
    column: "" where the row as a whole is bad
    reason: goes on after "the cell ...": "is not a number"

    As a text it is a sentence: "row 17, column 'age' is not a number".
    """

    row: int
    column: str
    reason: str

    def __str__(self) -> str:
        where = f", column {self.column!r}" if self.column else ""
        return f"row {self.row}{where} {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBatch:
    """n records as they stand in the file, not yet checked.

    cells:   column -> n cells: texts (CSV: not trimmed, missing ones are ""), numbers or truth values
    tensors: name -> (n, ...), contiguous
    rows:    (n,) the row number of each, ascending
    bad:     the records that could not even be taken apart, by ascending row; they are not among the n
    """

    cells: Mapping[str, pyarrow.Array]
    tensors: Mapping[str, Tensor]
    rows: NDArray[np.int64]
    bad: Sequence[BadCell] = ()


class TableSource(Protocol):
    """A file of records, opened."""

    @property
    def columns(self) -> Sequence[str]:
        """The names that hold one cell for each record."""

    @property
    def tensors(self) -> Sequence[str]:
        """The names that are inputs as they are, each a field of its own; none in a table."""

    @property
    def classes(self) -> Sequence[str]:
        """What a label may be, in order, where the file itself says so; else none."""

    def batches(self, cells: Sequence[str], tensors: Sequence[str]) -> Iterator[RawBatch]:
        """All records, from the first on, with these columns as cells and these names as tensors."""


def told(names: Sequence[str]) -> str:
    """Some names for an error: a table may have thousands."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(repr, names[:_MOST_NAMES])) + more


@contextmanager
def without_contents(path: Path) -> Iterator[None]:
    """Turns a library's errors into DataInvalid in our words: their own words quote records."""
    try:
        yield
    except OSError as error:
        reason = error.strerror if error.errno else "it is damaged, cut off or encrypted"
        raise DataInvalid(f"{path} can't be read: {reason}") from None
    except MemoryError:
        raise DataInvalid(f"{path} can't be read: it asks for more memory than there is") from None
    except (pyarrow.ArrowException, ValueError, EOFError, zlib.error):
        raise DataInvalid(
            f"{path} can't be read: it is damaged, encrypted, or not what the ending of its name says"
        ) from None
