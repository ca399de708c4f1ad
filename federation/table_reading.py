"""Any table, file of tensors or folder of images as checked batches of tensors. Memory does not grow with a table.

    for batch in read_batches(Path("heart.csv"), Selection(label="outcome", unit="patient_id"), problems.append):
        seal(batch.rows, batch.units)

What is wrong with the file as a whole is raised; what is wrong with a row is reported cell by cell, and the row is left
out: the caller decides whether that refuses the file. Neither ever says what stands in a cell. Nothing is final before
the iterator has ended, because a file may turn out damaged at its end.

In shape comments, n is the number of records, d of input columns.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray
from torch import Tensor

from federation import table_cells
from federation.rows import Rows
from federation.schema import Column
from federation.table_cells import Fault, Faults, Mask
from federation.table_files import open_table
from federation.table_selection import Parts, Selection, parts_of
from federation.table_source import BadCell, RawBatch, without_contents
from privacy.errors import DataInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some records, each without a bad cell.

    rows:    `y`, (n,) int64, where a label is selected, and the inputs: `x`, (n, d) float32, of a table; the tensors of
             a file of tensors in their own type, called by their own names, or `x` if there is but one; `x`,
             (n, channels, height, width) uint8, of images
    units:   to whom each record belongs, where a unit is selected
    numbers: the row number of each record, as `BadCell.row` counts
    """

    rows: Rows
    units: list[str] | None
    numbers: list[int]


def read_batches(path: Path, selection: Selection, bad: Callable[[BadCell], None]) -> Iterator[Batch]:
    """The records without a bad cell, in the order of the file; `bad` is told of the others' bad cells, in order too.

    Identifiers are kept in memory, about 150 bytes each; the identifier of a bad row counts as seen.

    Raises:
        DataInvalid: the file can't be read, is of no known kind, has no records, lacks a column or has two of one name;
            a column is chosen twice or holds what is no number, text or truth value.
    """
    parts = parts_of(path, open_table(path), selection)
    fields = _field_names(path, parts)
    seen: dict[str, int] = {}
    empty = True
    for raw in parts.source.batches(parts.cells, parts.tensors):
        empty &= len(raw.rows) + len(raw.bad) == 0
        with without_contents(path):
            judged = _judged(raw, parts, fields, seen)
        for cell in heapq.merge(raw.bad, judged.bad_cells(), key=lambda cell: cell.row):
            bad(cell)
        if judged.good.any():
            yield judged.batch()
    if empty:
        raise DataInvalid(f"{path} has no records")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """n records, good and bad.

    rows:    row numbers, (n,)
    fields:  name -> (n, ...)
    units:   n texts
    columns: whatever can be bad in a record, k of them
    faults:  (k, n)
    seen_in: position of a repeated identifier -> the row that had it first
    """

    rows: NDArray[np.int64]
    fields: Mapping[str, Tensor]
    units: pyarrow.Array | None
    columns: Sequence[Column]
    faults: Faults
    seen_in: Mapping[int, int]

    @property
    def good(self) -> Mask:
        """(n,)."""
        return np.logical_not(self.faults.any(axis=0))

    def bad_cells(self) -> Iterator[BadCell]:
        """By row, and in a row by column."""
        reasons: dict[tuple[int, int], str] = {}  # there may be millions of cells, but never many reasons
        for position, place in np.argwhere(self.faults.T).tolist():
            key = place, int(self.faults[place, position])
            if key not in reasons:
                reasons[key] = table_cells.reason(key[1], self.columns[place])
            where = f" in row {self.seen_in[position]}" if key[1] == Fault.SEEN else ""
            yield BadCell(row=int(self.rows[position]), column=self.columns[place].name, reason=reasons[key] + where)

    def batch(self) -> Batch:
        """The good ones."""
        good = self.good
        return Batch(
            rows=Rows(fields=self.fields).take(torch.from_numpy(good)),
            units=None if self.units is None else self.units.filter(pyarrow.array(good)).to_pylist(),
            numbers=self.rows[good].tolist(),
        )


def _judged(raw: RawBatch, parts: Parts, names: Mapping[str, str], seen: dict[str, int]) -> _Judged:
    """Every cell read and judged; `names` are the tensors' field names; `seen`, identifier -> row, is added to."""
    fields: dict[str, Tensor] = {}
    columns: list[Column] = [*parts.inputs]
    faults: list[Faults] = []  # (..., n) each
    units, seen_in = None, {}
    if parts.inputs:
        values, wrong = table_cells.inputs([raw.cells[column.name] for column in parts.inputs], parts.inputs)
        fields["x"] = torch.from_numpy(np.ascontiguousarray(values.T))  # (d, n) -> (n, d)
        faults.append(wrong)
    for name in parts.tensors:
        fields[names[name]] = raw.tensors[name]
        columns.append(Column(name=name))
        faults.append(_infinite(raw.tensors[name]))
    if parts.label:
        labels, wrong = table_cells.labels(raw.cells[parts.label.name], parts.label)
        fields["y"] = torch.from_numpy(labels)
        columns.append(parts.label)
        faults.append(wrong)
    if parts.unit:
        units, wrong = table_cells.names(raw.cells[parts.unit])
        columns.append(Column(name=parts.unit))
        faults.append(wrong)
    if parts.identifier:
        identifiers, wrong = table_cells.names(raw.cells[parts.identifier])
        there = np.flatnonzero(wrong == Fault.NONE)
        seen_in = _seen_before(identifiers.take(pyarrow.array(there)).to_pylist(), there, raw.rows, seen)
        wrong[list(seen_in)] = Fault.SEEN
        columns.append(Column(name=parts.identifier))
        faults.append(wrong)
    return _Judged(
        rows=raw.rows, fields=fields, units=units, columns=columns, faults=np.vstack(faults), seen_in=seen_in
    )


def _seen_before(
    identifiers: Sequence[str], positions: NDArray[np.int64], rows: NDArray[np.int64], seen: dict[str, int]
) -> dict[int, int]:
    """Position of each repeated identifier -> the row that had it first."""
    found = {}
    for identifier, position, row in zip(identifiers, positions.tolist(), rows[positions].tolist(), strict=True):
        first = seen.setdefault(identifier, row)
        if first != row:
            found[position] = first
    return found


def _infinite(tensor: Tensor) -> Faults:
    """(n,): the records of a tensor (n, ...) that hold infinity."""
    flat = tensor.reshape(len(tensor), prod(tensor.shape[1:]))
    marks = flat.isinf().any(dim=1).numpy() * np.uint8(Fault.TOO_LARGE)  # (n, m) -> (n,)
    return np.asarray(marks, dtype=np.uint8)


def _field_names(path: Path, parts: Parts) -> Mapping[str, str]:
    """Tensor -> field."""
    if len(parts.tensors) == 1:
        return {parts.tensors[0]: "x"}
    if parts.label and "y" in parts.tensors:
        raise DataInvalid(f"{path}: array 'y' would be an input beside label {parts.label.name!r}: name the inputs")
    return {name: name for name in parts.tensors}
