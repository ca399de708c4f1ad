"""Which columns of a file play which part, and whether the file has them."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from federation.schema import Column, Schema
from federation.table_source import TableSource, told
from federation.table_tensors import MatrixTable
from privacy.errors import DataInvalid

_MOST_MISSING = 5  # looked up and told


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a person chooses of a file.

    label:      column of the label; None reads no label, even where the schema has one
    unit:       column that says to whom a record belongs; the same text, the same unit
    identifier: column whose values must differ from record to record
    columns:    inputs, in this order; None takes the schema's, or without one all others in the file's order
    schema:     how inputs and label are checked; its label's rules hold for `label`, whatever that column is called

    Without a schema inputs are numbers that may be missing, and the label is a whole number.

    Raises:
        ValueError: columns, and a schema that names columns too.
    """

    label: str | None
    unit: str | None = None
    identifier: str | None = None
    columns: tuple[str, ...] | None = None
    schema: Schema | None = None

    def __post_init__(self) -> None:
        if self.columns is not None and self.schema is not None and self.schema.columns:
            raise ValueError("a selection takes its columns from the schema or names them, not both")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A selection as this file can answer it.

    source:  the file; an array of two dimensions is taken apart into the schema's columns
    inputs:  the columns whose cells become the field `x`, with their rules
    tensors: the names that become fields as they are
    label, unit, identifier: columns as selected, the label with its rules
    """

    source: TableSource
    inputs: Sequence[Column]
    tensors: Sequence[str]
    label: Column | None
    unit: str | None
    identifier: str | None

    @property
    def cells(self) -> list[str]:
        """Every column that is read cell by cell."""
        label = self.label.name if self.label else None
        return [*(column.name for column in self.inputs), *_named(label, self.unit, self.identifier)]


def parts_of(path: Path, source: TableSource, selection: Selection) -> Parts:
    """What the selection means for this file.

    Raises:
        DataInvalid: the file lacks a column, one is chosen twice, or nothing is left as input.
    """
    schema = selection.schema
    taken = _named(selection.label, selection.unit, selection.identifier)
    names = _inputs(source, selection, taken)
    if schema and schema.columns and source.tensors and not set(names) <= set(source.columns):
        source = _taken_apart(path, source, names, taken)
    _check_chosen(path, source, (*taken, *names))
    if not names:
        raise DataInvalid(f"{path} has no column that is an input: all are label, unit or identifier")
    if schema and schema.columns:
        inputs: Sequence[Column] = schema.columns
    else:
        inputs = [Column(name=name) for name in names if name not in source.tensors]
    return Parts(
        source=source,
        inputs=inputs,
        tensors=() if inputs else names,
        label=None if selection.label is None else _label(selection.label, schema, source),
        unit=selection.unit,
        identifier=selection.identifier,
    )


def _named(*names: str | None) -> list[str]:
    return [name for name in names if name is not None]


def _inputs(source: TableSource, selection: Selection, taken: Sequence[str]) -> Sequence[str]:
    if selection.columns is not None:
        return selection.columns
    if selection.schema and (selection.schema.columns or not source.tensors):
        return [column.name for column in selection.schema.columns]
    return [name for name in source.tensors or source.columns if name not in taken]


def _taken_apart(path: Path, source: TableSource, names: Sequence[str], taken: Sequence[str]) -> TableSource:
    arrays = [name for name in source.tensors if name not in taken]
    if len(arrays) != 1:
        raise DataInvalid(
            f"{path}: the schema's columns should be arrays of their names, or one array of shape "
            f"(n, {len(names)}), but there are {told(source.tensors)}"
        )
    return MatrixTable(path, source, arrays[0], names)


def _check_chosen(path: Path, source: TableSource, chosen: Sequence[str]) -> None:
    there = dict.fromkeys((*source.columns, *source.tensors))  # a set in the file's order
    missing = [name for name in chosen if name not in there]
    if missing:
        raise DataInvalid(f"{path} has no column {_with_nearest(missing, list(there))}; it has {told(list(there))}")
    twice = sorted(name for name, count in Counter(chosen).items() if count > 1)
    if twice:
        raise DataInvalid(
            f"{path}: column {told(twice)} is chosen twice, but label, unit, identifier and inputs differ"
        )
    if "" in chosen:
        raise DataInvalid(
            f"{path}: column {list(there).index('') + 1} has no name in the header: give it one, or choose the columns"
        )


def _with_nearest(missing: Sequence[str], there: Sequence[str]) -> str:
    lines = []
    by_letters = {name.strip().lower(): name for name in there}
    for name in missing[:_MOST_MISSING]:
        near = difflib.get_close_matches(name.strip().lower(), by_letters, n=1)
        lines.append(f"{name!r} (the nearest is {by_letters[near[0]]!r})" if near else repr(name))
    return ", ".join(lines)


def _label(name: str, schema: Schema | None, source: TableSource) -> Column:
    if schema and schema.label:
        return replace(schema.label, name=name)
    if source.classes:
        return Column(name=name, kind="category", categories=tuple(source.classes))
    return Column(name=name, kind="integer")
