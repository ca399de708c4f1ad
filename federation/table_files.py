"""Which kind of file a path is, by the ending of its name, and the file opened."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from federation.table_arrow import ArrowTable
from federation.table_csv import CsvTable
from federation.table_images import ImageFolder
from federation.table_source import TableSource, told
from federation.table_tensors import TensorFile
from privacy.errors import DataInvalid

CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
ARROW = (".parquet", ".arrow", ".feather", ".ipc")
TENSORS = (".npz", ".safetensors")


def open_table(path: Path) -> TableSource:
    """A table, a file of tensors or a folder of images, with what it says of itself read and no record yet.

    Raises:
        DataInvalid: it is of no known kind, can't be read, or has two columns of one name.
    """
    source = _opened(path)
    twice = sorted(name for name, count in Counter(source.columns).items() if count > 1)
    if twice:
        raise DataInvalid(f"{path} has two columns called {told(twice)}: rename one")
    return source


def _opened(path: Path) -> TableSource:
    name = path.name.lower()
    if path.is_dir():
        return ImageFolder(path)
    if name.endswith(CSV):
        return CsvTable(path)
    if name.endswith(ARROW):
        return ArrowTable(path)
    if name.endswith(TENSORS):
        return TensorFile(path)
    raise DataInvalid(
        f"{path} is of no known kind: there are {', '.join((*CSV, *ARROW, *TENSORS))} and folders of images "
        "(save a spreadsheet as CSV)"
    )
