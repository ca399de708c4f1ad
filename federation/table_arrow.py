"""Parquet and Arrow files (Arrow IPC, also called Feather) as columns, read batch by batch.

Memory grows with the largest record batch of an Arrow file, or page of a Parquet file, not with the file. What was
written may be damaged or forged: every batch is validated before a cell is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.ipc
import pyarrow.parquet
import pyarrow.types as types

from federation.table_source import BATCH_CELLS, BATCH_ROWS, RawBatch, without_contents
from privacy.errors import DataInvalid

_ARROW_FILE = b"ARROW1"
_BUFFER_BYTES = 1024 * 1024
_READABLE = (types.is_string, types.is_integer, types.is_floating, types.is_boolean)


class ArrowTable:
    """A Parquet or Arrow file whose columns are known.

    Raises:
        DataInvalid: the file can't be read.
    """

    tensors: Sequence[str] = ()
    classes: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_parquet = path.suffix.lower() == ".parquet"
        with without_contents(path), path.open("rb") as stream:
            self._schema = pyarrow.parquet.read_schema(stream) if self._is_parquet else _open(stream).schema
            self.columns: Sequence[str] = self._schema.names

    def batches(self, cells: Sequence[str], tensors: Sequence[str]) -> Iterator[RawBatch]:
        """All records.

        Raises:
            DataInvalid: a column holds what is no number, text or truth value; or the file is damaged.
        """
        for name in cells:
            self._check_type(name)
        first = 1
        most_rows = max(1, min(BATCH_ROWS, BATCH_CELLS // max(1, len(cells))))
        with without_contents(self._path), self._path.open("rb") as stream:
            for batch in self._parquet(stream, cells, most_rows) if self._is_parquet else _arrow(stream, cells):
                batch.validate(full=True)
                for start in range(0, batch.num_rows, most_rows):
                    part = batch.slice(start, most_rows)
                    columns = {name: _plain(part[name]) for name in cells}
                    yield RawBatch(cells=columns, tensors={}, rows=np.arange(first, first + part.num_rows))
                    first += part.num_rows

    def _parquet(self, stream: BinaryIO, cells: Sequence[str], most_rows: int) -> Iterator[pyarrow.RecordBatch]:
        options = {"buffer_size": _BUFFER_BYTES, "pre_buffer": False, "page_checksum_verification": True}
        with pyarrow.parquet.ParquetFile(stream, **options) as table:
            yield from table.iter_batches(batch_size=most_rows, columns=list(cells), use_threads=False)

    def _check_type(self, name: str) -> None:
        kind = self._schema.field(name).type
        held = kind.value_type if types.is_dictionary(kind) else kind
        others = (types.is_decimal, types.is_null, types.is_large_string, types.is_string_view)
        if not any(test(held) for test in (*_READABLE, *others)):
            raise DataInvalid(
                f"{self._path}: column {name!r} holds {kind}, but only numbers, texts and truth values can be read: "
                "convert it, or choose the columns without it"
            )


def _arrow(stream: BinaryIO, cells: Sequence[str]) -> Iterator[pyarrow.RecordBatch]:
    schema = _open(stream).schema
    stream.seek(0)
    reader = _open(stream, [schema.get_field_index(name) for name in cells])
    if isinstance(reader, pyarrow.ipc.RecordBatchFileReader):
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from reader


def _open(
    stream: BinaryIO, fields: list[int] | None = None
) -> pyarrow.ipc.RecordBatchFileReader | pyarrow.ipc.RecordBatchStreamReader:
    options = pyarrow.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
    is_file = stream.read(len(_ARROW_FILE)) == _ARROW_FILE
    stream.seek(0)
    return (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(stream, options=options)


def _plain(cells: pyarrow.Array) -> pyarrow.Array:
    """Dictionaries resolved; the texts of numbers that float64 could not hold; every text of one type."""
    if types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if types.is_float16(cells.type):
        return pyarrow.compute.cast(cells, pyarrow.float32())
    if any(test(cells.type) for test in _READABLE):
        return cells
    return pyarrow.compute.cast(cells, pyarrow.string())
