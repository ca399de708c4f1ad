"""New rows through a trained model. n is the number of rows, C of classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from federation.rows import Rows, concatenate
from federation.table_files import open_table
from federation.table_images import FOLDER
from federation.table_reading import read_batches
from federation.table_selection import Selection, parts_of
from federation.table_source import BadCell
from federation.task import Task
from privacy.errors import DataInvalid

_BATCH = 8192
_ROW = "row-number"


def table_rows(
    task: Task, path: Path, label: str | None, columns: tuple[str, ...] | None, *, labelled: bool
) -> tuple[Rows, list[int]]:
    """A table's rows as the task's `prepare` takes them, and their numbers in the file.

    labelled: whether labels are read; else a label column is only left out of the inputs, and not looked at

    Raises:
        DataInvalid: the table can't be read, has a bad cell, or lacks a column.
    """
    schema = task.schema
    known = schema.label.name if schema is not None and schema.label is not None else None
    answers = label or (FOLDER if path.is_dir() else known)
    if labelled and answers is None:
        raise DataInvalid("which column holds the right answers? Name it with --label-column")
    named = schema is not None and bool(schema.columns)
    if not labelled and label is not None and columns is None and not named:
        columns = _all_but(label, path)
    selection = Selection(
        label=answers if labelled else None,
        columns=None if named else columns,
        schema=schema,
    )

    def refuse(cell: BadCell) -> None:
        raise DataInvalid(f"{path}: {cell}")

    batches = list(read_batches(path, selection, refuse))
    return concatenate([batch.rows for batch in batches]), [number for batch in batches for number in batch.numbers]


@contextmanager
def fitting(rows: Rows) -> Iterator[None]:
    """Says in words that a table's rows are not what a task and its model take: torch's own words may quote cells.

    Raises:
        DataInvalid: instead of what torch raises.
    """
    try:
        yield
    except (RuntimeError, IndexError, ValueError) as error:
        held = ", ".join(f"{name} of shape {tuple(tensor.shape[1:])}" for name, tensor in rows.fields.items())
        raise DataInvalid(
            f"the model can't take these rows, which hold {held} ({type(error).__name__}): name the inputs with "
            "--columns and the right answers with --label-column; each answer should be one of the model's classes"
        ) from None


def predictions(task: Task, model: nn.Module, rows: Rows, numbers: list[int]) -> Iterator[list[object]]:
    """A header and a line a row: its number, the class with the highest score, and each class's probability.

    Where the model gives one number a row, that number. Rows that `prepare` drops have no line.

    Raises:
        DataInvalid: the task's `prepare` changes the number of rows and does not carry fields along, or the rows are
            not the model's.
    """
    with fitting(rows):
        prepared = task.prepare(rows.replace(**{_ROW: torch.tensor(numbers)}))
    if _ROW not in prepared.fields and len(prepared) != len(rows):
        raise DataInvalid("the task's prepare drops rows without saying which: let it keep every field of its rows")
    kept = prepared[_ROW].tolist() if _ROW in prepared.fields else numbers
    names = list(task.schema.label.categories) if task.schema is not None and task.schema.label is not None else []
    start = 0
    with torch.no_grad():
        for positions in torch.arange(len(prepared)).split(_BATCH):
            with fitting(rows):
                outputs = model(prepared.take(positions)["x"])  # (n, C)
            if outputs.dim() != 2:
                raise DataInvalid(f"the model gives outputs of shape {tuple(outputs.shape)}, not one line a row")
            one = outputs.shape[1] == 1
            if start == 0:
                classes = names or [str(number) for number in range(outputs.shape[1])]
                yield ["row", "value"] if one else ["row", "predicted", *(f"p({name})" for name in classes)]
            for line in outputs.tolist() if one else _scored(outputs, classes):
                yield [kept[start], *line]
                start += 1


def _all_but(label: str, path: Path) -> tuple[str, ...]:
    """The inputs of a table that has a label column, too."""
    parts = parts_of(path, open_table(path), Selection(label=None, unit=label))
    return tuple(column.name for column in parts.inputs) or tuple(parts.tensors)


def _scored(outputs: torch.Tensor, classes: list[str]) -> list[list[object]]:
    chances = outputs.softmax(dim=1)
    best = chances.argmax(dim=1).tolist()
    return [
        [classes[winner], *(f"{chance:.4f}" for chance in line)]
        for winner, line in zip(best, chances.tolist(), strict=True)
    ]
