"""A table into a safe: each row checked by the task's schema, sealed as it is read; the table itself is left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from clients.data import Facts
from clients.registers import register_data
from clients.sealing import Source, seal_rows
from federation.reading import app_config, read_plan
from federation.rows import Rows
from federation.schema import Schema
from federation.table_files import open_table
from federation.table_images import FOLDER
from federation.table_reading import read_batches
from federation.table_selection import Selection, parts_of
from federation.table_source import BadCell
from federation.task import load_task
from privacy.errors import DataInvalid
from privacy.safe import Safe

_MOST_TOLD = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What an engineer asks for.

    table:      the file, or folder of images, to read
    name:       of the new data set
    label, unit, identifier, columns: as in `federation.table_selection.Selection`; label None: the schema's
    app:        folder of the app whose task's schema checks the cells; None: inputs are numbers, the label is whole
    skip_bad_rows: whether a row with a bad cell is left out; else it refuses the table
    """

    table: Path
    name: str
    label: str | None = None
    unit: str | None = None
    identifier: str | None = None
    columns: tuple[str, ...] | None = None
    app: Path | None = None
    skip_bad_rows: bool = False


@dataclass(slots=True)
class BadRows:
    """The bad cells of a table: the first few, how many there are, and in how many rows."""

    cells: int = 0
    rows: int = 0
    _first: list[BadCell] = field(default_factory=list)
    _last_row: int = 0

    def add(self, cell: BadCell) -> None:
        """Counts a cell; cells come row by row."""
        self.cells += 1
        self.rows += cell.row != self._last_row
        self._last_row = cell.row
        if len(self._first) < _MOST_TOLD:
            self._first.append(cell)

    def lines(self) -> list[str]:
        """A line a cell, and one for those that are left."""
        told = [str(cell) for cell in self._first]
        left = self.cells - len(told)
        return [*told, f"and {left:,} more"] if left else told


def import_table(safe: Safe, wanted: Import, progress: Callable[[int], None]) -> tuple[Facts, BadRows]:
    """Seals a table as a new data set; returns its facts, and the rows that were skipped.

    progress: called with the number of rows sealed so far

    Raises:
        DataInvalid: the table can't be read, lacks a column, or has a bad cell (names rows, columns and reasons); the
            name is taken. Nothing of the data set stays.
        StorageFailed, StorageBusy, KeyRefused: the safe can't be written.
    """
    selection = selection_of(wanted)
    parts = parts_of(wanted.table, open_table(wanted.table), selection)
    columns = tuple(column.name for column in parts.inputs) or tuple(parts.tensors)
    source = Source(
        name=wanted.name,
        imported=datetime.now(UTC).isoformat(timespec="seconds"),
        columns=columns,
        label=selection.label,
        unit=wanted.unit,
    )
    bad = BadRows()
    batches = _batches(wanted, selection, bad, progress)
    ledger = safe.ledger()
    ledger.books()  # one that can't be relied on is told before anything is sealed
    with safe.changing() as vault:
        data = seal_rows(vault, source, batches, lambda: bad.rows)
        register_data(vault, ledger, data.facts)
    return data.facts, bad


def selection_of(wanted: Import) -> Selection:
    """The columns and rules of an import.

    Raises:
        PlanInvalid, TaskInvalid: the app can't be read.
        DataInvalid: columns are named, and the task's schema names them too.
    """
    schema = _schema(wanted.app)
    if schema is not None and schema.columns and wanted.columns is not None:
        raise DataInvalid("the task's schema names the input columns: leave out --columns, or import without --app")
    label = wanted.label
    if label is None and schema is not None and schema.label is not None and not wanted.table.is_dir():
        label = schema.label.name
    if label is None and wanted.table.is_dir():
        label = FOLDER
    return Selection(label=label, unit=wanted.unit, identifier=wanted.identifier, columns=wanted.columns, schema=schema)


def _schema(app: Path | None) -> Schema | None:
    if app is None:
        return None
    return load_task(read_plan(app_config(app)).task, app).schema


def _batches(
    wanted: Import, selection: Selection, bad: BadRows, progress: Callable[[int], None]
) -> Iterator[tuple[Rows, list[str] | None]]:
    sealed = 0
    for batch in read_batches(wanted.table, selection, bad.add):
        if bad.cells and not wanted.skip_bad_rows:
            continue  # read on, to tell of every bad cell at once
        yield batch.rows, batch.units
        sealed += len(batch.rows)
        progress(sealed)
    if bad.cells and not wanted.skip_bad_rows:
        lines = "\n  ".join(bad.lines())
        raise DataInvalid(
            f"{wanted.table}: {bad.cells:,} bad cells in {bad.rows:,} rows; nothing was imported\n  {lines}\n"
            "correct them, or leave such rows out with --on-bad-row skip"
        )
