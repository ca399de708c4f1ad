"""One table as a Parquet file, an Arrow file, an Arrow stream or a Feather file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

Write = Callable[[pyarrow.Table, Path], Path]


def as_parquet(table: pyarrow.Table, folder: Path, **options: Any) -> Path:
    pyarrow.parquet.write_table(table, folder / "heart.parquet", **options)
    return folder / "heart.parquet"


def as_file(table: pyarrow.Table, folder: Path, **options: Any) -> Path:
    settings = pyarrow.ipc.IpcWriteOptions(**options)
    with pyarrow.ipc.new_file(str(folder / "heart.arrow"), table.schema, options=settings) as writer:
        writer.write_table(table)
    return folder / "heart.arrow"


def as_stream(table: pyarrow.Table, folder: Path) -> Path:
    with pyarrow.ipc.new_stream(str(folder / "heart.ipc"), table.schema) as writer:
        writer.write_table(table)
    return folder / "heart.ipc"


def as_feather(table: pyarrow.Table, folder: Path) -> Path:
    return as_file(table, folder, compression="zstd").rename(folder / "heart.feather")


WRITERS = pytest.mark.parametrize("write", [as_parquet, as_file, as_stream, as_feather])
