"""CSV as columns of texts: RFC 4180 with a header, commas (tabs in .tsv), UTF-8 with or without a BOM, perhaps gzipped.

Memory does not grow with the file. No type is guessed: every cell stays text until `table_cells` reads it. A row whose
cells are all empty is no record (an empty line, or what spreadsheets leave at the end), but it counts as a row.

Two silent accidents are refused: a file without its header, because its first record would be taken for names, and
errors repeat names; and a quotation that never ends, which pyarrow closes at the end of the file, records and all.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.csv
from numpy.typing import NDArray

from federation.table_source import BadCell, RawBatch, without_contents
from federation.table_text import TornRows, Utf8Stream
from privacy.errors import DataInvalid

_BLOCK_BYTES = 2 * 1024 * 1024  # pyarrow reads up to 32 ahead; the header and every record must fit into one
_NUMBER = re.compile(r"\s*[+-]?[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?\s*")
_SAVE_AS_UTF8 = "save it as UTF-8 and try again"


class CsvTable:
    """A CSV file whose header has been read.

    Raises:
        DataInvalid: the file can't be opened, is empty, or has no header that can be read.
    """

    tensors: Sequence[str] = ()
    classes: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._delimiter = "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","
        self.columns, self._has_records = self._header()

    def batches(self, cells: Sequence[str], tensors: Sequence[str]) -> Iterator[RawBatch]:
        """All records.

        Raises:
            DataInvalid: the file is no UTF-8, or stops being CSV.
        """
        if not self._has_records:
            return
        with without_contents(self._path), self._opened() as stream:
            text, torn = Utf8Stream(stream), TornRows()
            last = None
            for batch in self._blocks(text, torn):
                rows, bad = torn.place(batch.num_rows)
                last = batch if batch.num_rows else last
                if not text.cut:
                    yield _raw(batch, cells, rows, self._judged(bad))
            rows, bad = torn.place(0)
            if text.cut:
                raise DataInvalid(f"{self._path}: row {torn.next_row - 1} is no UTF-8 text: {_SAVE_AS_UTF8}")
            if last is not None and text.tail[-1:] != b'"' and _has_line_break(last[-1][-1].as_py()):
                raise self._unclosed(torn.next_row - 1)
            if bad:
                yield RawBatch(cells=dict.fromkeys(cells, _NOTHING), tensors={}, rows=rows, bad=self._judged(bad))

    def _header(self) -> tuple[Sequence[str], bool]:
        """The columns' names, and whether anything follows."""
        with without_contents(self._path), self._opened() as stream:
            head = stream.read(_BLOCK_BYTES)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head[:1000]:
            raise DataInvalid(f"{self._path} is UTF-16 text, or no text at all: {_SAVE_AS_UTF8}")
        text = Utf8Stream(io.BytesIO(head))
        lines = io.StringIO(text.read(_BLOCK_BYTES).decode("utf-8-sig", errors="ignore"), newline="")
        try:
            names, follows = next(csv.reader(lines, delimiter=self._delimiter), None), lines.read(1)
        except csv.Error:
            raise DataInvalid(f"{self._path}: row 1, the header, can't be read as CSV") from None
        if text.cut and not follows:
            raise DataInvalid(f"{self._path}: row 1 is no UTF-8 text: {_SAVE_AS_UTF8}")
        if names is None:
            raise DataInvalid(f"{self._path} is empty: it should begin with a header")
        if not any(names):
            raise DataInvalid(f"{self._path} begins with an empty line: its first line should be the header")
        if len(names) == 1 and ";" in names[0]:
            raise DataInvalid(f"{self._path} is divided by semicolons: save it with commas and decimal points")
        if _is_record(names):
            raise DataInvalid(
                f"{self._path}: row 1 holds numbers where names should stand: is the header missing? "
                "(Names may be numbers if there are three or more, in rising order.)"
            )
        return names, bool(follows)

    def _blocks(self, text: Utf8Stream, torn: TornRows) -> Iterator[pyarrow.RecordBatch]:
        """All columns as texts; pyarrow numbers torn rows only without threads."""
        try:
            reader = pyarrow.csv.open_csv(
                text,
                read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=self._delimiter,
                    newlines_in_values=True,
                    ignore_empty_lines=False,
                    invalid_row_handler=torn.note,
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(self.columns, pyarrow.string()), null_values=[]
                ),
            )
            if reader.schema.names != list(self.columns):
                raise DataInvalid(f"{self._path}: row 1, the header, can't be read as CSV")
            yield from reader
        except pyarrow.ArrowInvalid:
            if text.cut:
                raise DataInvalid(f"{self._path} is no UTF-8 text: {_SAVE_AS_UTF8}") from None
            raise self._unclosed(torn.next_row) from None

    def _judged(self, torn: Sequence[tuple[int, int, bool]]) -> list[BadCell]:
        for row, _, has_line_breaks in torn:
            if has_line_breaks:
                raise self._unclosed(row)
        width = len(self.columns)
        return [
            BadCell(row=row, column="", reason=f"has {count} cells, the header has {width}") for row, count, _ in torn
        ]

    def _unclosed(self, row: int) -> DataInvalid:
        return DataInvalid(
            f"{self._path} can't be read as CSV from row {row} on: "
            "is a quotation mark opened there and never closed, is the delimiter another one, or is the row over "
            f"{_BLOCK_BYTES >> 20} MiB long?"
        )

    def _opened(self) -> BinaryIO:
        if self._path.suffix.lower() == ".gz":
            return cast(BinaryIO, gzip.open(self._path, "rb"))
        return self._path.open("rb")


_NOTHING = pyarrow.array([], pyarrow.string())


def _raw(batch: pyarrow.RecordBatch, cells: Sequence[str], rows: NDArray[np.int64], bad: Sequence[BadCell]) -> RawBatch:
    """The batch without its rows of empty cells only."""
    filled: NDArray[np.bool_] = np.zeros(batch.num_rows, dtype=np.bool_)  # (n,)
    for place in range(batch.num_columns):
        filled |= pyarrow.compute.not_equal(batch[place], "").to_numpy(zero_copy_only=False)
        if filled.all():
            break
    if not filled.all():
        batch, rows = batch.filter(pyarrow.array(filled)), rows[filled]
    return RawBatch(cells={name: batch[name] for name in cells}, tensors={}, rows=rows, bad=bad)


def _is_record(names: Sequence[str]) -> bool:
    """Whether the first line is no header: it holds numbers, and not a scale (years, wavelengths, 0 to 783)."""
    numbers = [float(name) for name in names if _NUMBER.fullmatch(name)]
    scale = len(numbers) >= 3 and all(first < second for first, second in pairwise(numbers))
    return bool(numbers) and not scale


def _has_line_break(cell: str) -> bool:
    return "\n" in cell or "\r" in cell
