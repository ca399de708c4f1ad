"""A site's records as a round takes them: divided into training and held-out records, prepared, on the device.

Sealed records are opened for the round and dropped after it; a data set too large for memory is read batch by batch,
straight from its sealed shards. Then `Task.prepare` sees one batch at a time, which is all the same to a task that
keeps its promise to look at each record alone. Where the plan protects groups, records come with the numbers of theirs,
and a group stands on one side whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import psutil
import torch
from torch import Tensor

from clients.data import DataSet
from federation.groups import (
    divided,
    held_out_by_identity,
    numbered,
    refuse_cut_groups,
    refuse_lost_units,
    units_of,
)
from federation.plan import Plan
from federation.rows import Rows, RowSource, held_out
from federation.site_info import SiteInfo
from federation.task import Task
from privacy.errors import DataInvalid

_SHARE_OF_FREE_MEMORY = 0.25

Prepare: TypeAlias = Callable[[Rows], Rows]


@dataclass(slots=True, kw_only=True)
class Records:
    """The records of one site.

    data: the sealed data set; None for a site whose task reads its records from elsewhere, which are then kept
    """

    task: Task
    info: SiteInfo
    data: DataSet | None = None
    _kept: Rows | None = field(default=None, init=False, repr=False)
    _held_out: Tensor | None = field(default=None, init=False, repr=False)
    _units: Tensor | None = field(default=None, init=False, repr=False)
    _divided: str = field(default="", init=False, repr=False)

    def training(self, device: torch.device) -> RowSource:
        """What may be trained on.

        Raises:
            DataInvalid, ObjectDamaged, KeyRefused: the records can't be read, or do not say whose they are.
            TaskInvalid: the task's `prepare` lost the groups of its records.
        """
        return self._part(False, device, self.task.prepare)

    def testing(self, device: torch.device) -> RowSource:
        """What is held out. Raises as `training`."""
        return self._part(True, device, self.task.prepare)

    def raw(self, device: torch.device) -> RowSource:
        """What may be trained on, before `prepare`. Raises as `training`."""
        return self._part(False, device, lambda rows: rows)

    def look_again(self) -> DataSet | None:
        """The sealed data set as it is now, from which the coming round reads, and no other.

        Another process may have replaced it; it is then divided anew.

        Raises:
            DataInvalid, ObjectDamaged, KeyRefused: it is gone, or does not open.
        """
        if self.data is not None:
            self.data = DataSet.open(self.data.vault, self.data.facts.name)
            if self._divided != self.data.facts.serial:
                self._divided, self._held_out, self._units = self.data.facts.serial, None, None
        return self.data

    def refuse_missing_units(self) -> None:
        """Passes a site whose sealed records can serve the plan's unit, as far as their facts say, before any is read.

        Raises:
            DataInvalid: the plan protects groups, and the records were imported without units.
        """
        if self.data is not None and self.info.plan.privacy.unit == "group" and self.data.facts.unit is None:
            raise _without_groups(self.data)

    def _part(self, test: bool, device: torch.device, prepare: Prepare) -> RowSource:
        if self._held_out is None and self.data is not None and self.info.plan.privacy.unit == "group":
            self._units, self._held_out = _sealed_groups(self.data, self.info.plan)
        if self.data is not None and self.data.facts.plain_bytes > self._memory_bytes():
            positions = (self._sides(self.data) == test).nonzero()[:, 0]
            units = None if self._units is None else self._units[positions]
            return _StreamedRows(self.data, positions, units, prepare, device)
        rows = self._read()
        if self._held_out is None:
            self._held_out = divided(rows, self.info.plan)
            if self.info.plan.privacy.unit == "group":
                self._units = numbered(units_of(rows))
        chosen = Rows(fields=rows.fields, units=self._units).take(self._held_out == test)
        return _prepared(prepare, chosen).to(device)

    def _read(self) -> Rows:
        if self.data is not None:
            return self.data.read()
        if self._kept is None:
            self._kept = self.task.rows(self.info)
        return self._kept

    def _sides(self, data: DataSet) -> Tensor:
        if self._held_out is None:
            settings = self.info.plan
            shards = [held_out(shard, settings.data.test_share, settings.seed) for shard in data.shards()]
            self._held_out = torch.cat(shards)
        return self._held_out

    def _memory_bytes(self) -> int:
        return self.info.rows_memory_bytes or int(psutil.virtual_memory().available * _SHARE_OF_FREE_MEMORY)


@dataclass(frozen=True, slots=True)
class _StreamedRows:
    """Records of a sealed data set at these positions, (n,) int64, opened and prepared as they are taken."""

    data: DataSet
    positions: Tensor
    units: Tensor | None
    prepare: Prepare
    device: torch.device

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, positions: Tensor) -> Rows:
        here = positions.cpu()
        rows = self.data.take(self.positions[here])
        units = None if self.units is None else self.units[here]
        return _prepared(self.prepare, Rows(fields=rows.fields, units=units)).to(self.device)


def _sealed_groups(data: DataSet, plan: Plan) -> tuple[Tensor, Tensor]:
    """The number of each sealed record's group, and whether it is held out: (n,) int64 and (n,) bool."""
    hashes = data.unit_hashes()
    if hashes is None:
        raise _without_groups(data)
    units, marks = numbered(hashes), data.marks()
    if marks is None:
        return units, held_out_by_identity(hashes, plan.data.test_share, plan.seed)
    refuse_cut_groups(marks, units)
    return units, marks


def _without_groups(data: DataSet) -> DataInvalid:
    return DataInvalid(
        f"the plan protects groups (privacy.unit = 'group'), but data set {data.facts.name!r} was imported without "
        "units: import its table again with --unit-column, which names the column of patients or customers"
    )


def _prepared(prepare: Prepare, rows: Rows) -> Rows:
    prepared = prepare(rows)
    if rows.units is not None:
        refuse_lost_units(prepared, "prepare")
    return prepared
