"""A site's records as a round takes them: divided into training and held-out records, prepared, on the device.

Sealed records are opened for the round and dropped after it; a data set too large for memory is read batch by batch,
straight from its sealed shards. Then `Task.prepare` sees one batch at a time, which is all the same to a task that
keeps its promise to look at each record alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import psutil
import torch
from torch import Tensor

from clients.data import DataSet
from federation.rows import Rows, RowSource, held_out
from federation.site_info import SiteInfo
from federation.task import Task

_SHARE_OF_FREE_MEMORY = 0.25


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
    _divided: str = field(default="", init=False, repr=False)

    def training(self, device: torch.device) -> RowSource:
        """What may be trained on.

        Raises:
            DataInvalid, ObjectDamaged, KeyRefused: the records can't be read.
        """
        return self._part(False, device)

    def testing(self, device: torch.device) -> RowSource:
        """What is held out. Raises as `training`."""
        return self._part(True, device)

    def look_again(self) -> DataSet | None:
        """The sealed data set as it is now, from which the coming round reads, and no other.

        Another process may have replaced it; it is then divided anew.

        Raises:
            DataInvalid, ObjectDamaged, KeyRefused: it is gone, or does not open.
        """
        if self.data is not None:
            self.data = DataSet.open(self.data.vault, self.data.facts.name)
            if self._divided != self.data.facts.serial:
                self._divided, self._held_out = self.data.facts.serial, None
        return self.data

    def _part(self, test: bool, device: torch.device) -> RowSource:
        if self.data is not None and self.data.facts.plain_bytes > self._memory_bytes():
            positions = (self._sides(self.data) == test).nonzero()[:, 0]
            return _StreamedRows(self.data, positions, self.task, device)
        rows = self._read()
        if self._held_out is None:
            self._held_out = held_out(rows, self.info.plan.data.test_share, self.info.plan.seed)
        chosen = Rows(fields=rows.fields).take(self._held_out == test)
        return self.task.prepare(chosen).to(device)

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
    task: Task
    device: torch.device

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, positions: Tensor) -> Rows:
        rows = self.data.take(self.positions[positions.cpu()])
        return self.task.prepare(Rows(fields=rows.fields)).to(self.device)
