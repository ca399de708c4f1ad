"""A site's sealed data set: shards of at most 256 MiB in the vault, and the facts about them, sealed last.

A round opens the shards into memory and drops them (`read`). What is larger than memory is read by range (`take`), and
never touches the disk in the clear. Units are read apart from the records, by plans that protect groups. In comments: n
records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from federation.rows import Rows
from federation.tensors import Place, header_length, read_header, views
from privacy.errors import DataInvalid, FedSealError, ObjectDamaged, ObjectMissing
from privacy.sealing import SealedRange
from privacy.vault import Label, Vault, is_name

SHARD_BYTES = 256 * 1024 * 1024
FIELD, HELD_OUT, UNIT, SERIAL = "field/", "held-out", "unit", "serial"


class Facts(BaseModel):
    """What is known of a data set without opening its records.

    serial:      random, another for each import, also in the notes of its shards: a data set that is replaced while it
                 is read gives no record
    fingerprint: keyed hash (hex) of its records and their units, whatever their order; the key is the site's own
    units:       how many units of privacy the records belong to; None: each record is its own
    skipped:     records left out at import because a cell was bad
    shards:      records in each shard
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Annotated[int, Field(ge=1, le=1, strict=True)] = 1
    serial: str
    name: str
    imported: str
    columns: tuple[str, ...]
    label: str | None
    unit: str | None
    units: int | None
    skipped: int
    fingerprint: str
    shards: tuple[int, ...]
    plain_bytes: int

    @property
    def records(self) -> int:
        """n."""
        return sum(self.shards)


@dataclass(frozen=True)
class DataSet(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The records of one sealed data set. Also a torch Dataset: item i is record i's fields."""

    vault: Vault
    facts: Facts

    @staticmethod
    def open(vault: Vault, name: str) -> DataSet:
        """The data set of that name; its records stay sealed until they are asked for.

        Raises:
            DataInvalid: there is none; says which there are.
            ObjectDamaged, KeyRefused: it does not open.
        """
        try:
            if not is_name(name):
                raise ObjectMissing
            facts = Facts.model_validate_json(bytes(vault.open(facts_label(name))))
        except ObjectMissing:
            known = ", ".join(label.name for label in vault.list("data-set")) or "none"
            raise DataInvalid(f"there is no data set {name!r} in {vault.folder}; there is: {known}") from None
        except ValidationError:
            raise DataInvalid(f"data set {name!r} was written by another version of FedSeal") from None
        return DataSet(vault, facts)

    def __len__(self) -> int:
        return self.facts.records

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[dict[str, Tensor]]:
        rows = self.take(torch.tensor(positions))
        return [{name: tensor[item] for name, tensor in rows.fields.items()} for item in range(len(rows))]

    def read(self) -> Rows:
        """All records, in memory.

        Raises:
            ObjectDamaged, ObjectMissing, KeyRefused: a shard does not open.
        """
        shards = list(self.shards())
        return shards[0] if len(shards) == 1 else _joined(shards, len(self))

    def shards(self) -> Iterator[Rows]:
        """The records shard by shard. Raises as `read`."""
        for number in range(len(self.facts.shards)):
            tensors, notes = views(self.vault.open(rows_label(self.facts.name, number)))
            self._refuse_other(notes)
            yield _rows(tensors)

    def take(self, positions: Tensor) -> Rows:
        """The records at `positions` ((k,) int64, any order), reading only their chunks. Raises as `read`."""
        wanted = positions.cpu()
        if len(wanted) and (int(wanted.min()) < 0 or int(wanted.max()) >= len(self)):
            raise IndexError(f"data set {self.facts.name!r} has no such record")
        shard = torch.searchsorted(self._ends, wanted, right=True)  # (k,)
        parts, order = [], []
        for number in torch.unique(shard).tolist() or [0]:
            mine = (shard == number).nonzero()[:, 0]
            first = int(self._ends[number]) - self.facts.shards[number]
            with self.vault.range(rows_label(self.facts.name, number)) as opened:
                places, notes = _header(opened)
                self._refuse_other(notes)
                parts.append(_taken(opened, places, wanted[mine] - first))
            order.append(mine)
        joined = parts[0] if len(parts) == 1 else _joined(parts, len(wanted))
        return joined.take(torch.cat(order).argsort())

    def unit_hashes(self) -> Tensor | None:
        """The keyed hash of each record's unit, (n, 16) uint8, read alone; None where none was imported.

        Raises as `read`.
        """
        return self._alone(UNIT)

    def marks(self) -> Tensor | None:
        """The held-out marks, (n,) bool, read alone; None where the records have none. Raises as `read`."""
        return self._alone(HELD_OUT)

    def _alone(self, name: str) -> Tensor | None:
        """One tensor of all records, without opening the others."""
        parts = []
        for number, records in enumerate(self.facts.shards):
            with self.vault.range(rows_label(self.facts.name, number)) as opened:
                places, notes = _header(opened)
                self._refuse_other(notes)
                if name not in places:
                    return None
                parts.append(_records(opened, places[name], torch.arange(records)))
        return torch.cat(parts)

    def _refuse_other(self, notes: Mapping[str, str]) -> None:
        if notes.get(SERIAL) != self.facts.serial:
            raise ObjectDamaged(f"data set {self.facts.name!r} was replaced while it was read: try again")

    @cached_property
    def _ends(self) -> Tensor:
        """The position after each shard's last record."""
        return torch.tensor(self.facts.shards).cumsum(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A data set as it is listed: its facts, or why they don't open, and the size of its sealed files in bytes."""

    name: str
    facts: Facts | None
    problem: str
    sealed_bytes: int


def data_sets(vault: Vault) -> list[Listed]:
    """Every data set; one that does not open hides no other."""
    found = []
    for label in vault.list("data-set"):
        mine = [each for each in vault.list() if each.scope == label.scope]
        facts, problem = None, ""
        try:
            facts = DataSet.open(vault, label.name).facts
        except FedSealError as error:
            problem = str(error)
        size = sum(vault.sealed_bytes(each) for each in mine)
        found.append(Listed(name=label.name, facts=facts, problem=problem, sealed_bytes=size))
    return found


def facts_label(name: str) -> Label:
    """Where the facts of a data set lie."""
    return Label("data-set", name)


def rows_label(name: str, shard: int) -> Label:
    """Where the records of a shard lie."""
    return Label("rows", name, shard)


def _rows(tensors: dict[str, Tensor]) -> Rows:
    fields = {name.removeprefix(FIELD): tensor for name, tensor in tensors.items() if name.startswith(FIELD)}
    return Rows(fields=fields, held_out=tensors.get(HELD_OUT))


def _joined(parts: list[Rows], records: int) -> Rows:
    """All records of the parts; each part is let go of as soon as it is copied."""
    fields = {name: tensor.new_empty((records, *tensor.shape[1:])) for name, tensor in parts[0].fields.items()}
    held_out = None if parts[0].held_out is None else torch.empty(records, dtype=torch.bool)
    start = 0
    while parts:
        part = parts.pop(0)
        for name, tensor in part.fields.items():
            fields[name][start : start + len(part)] = tensor
        if held_out is not None and part.held_out is not None:
            held_out[start : start + len(part)] = part.held_out
        start += len(part)
    return Rows(fields=fields, held_out=held_out)


def _header(opened: SealedRange) -> tuple[dict[str, Place], dict[str, str]]:
    """Where a shard's tensors lie, and its notes."""
    return read_header(opened.read(8, header_length(opened.read(0, 8))), opened.length)


def _taken(opened: SealedRange, places: Mapping[str, Place], positions: Tensor) -> Rows:
    """The records at these positions of one shard, in ascending order of reading and in the order asked for."""
    ascending, back = torch.unique(positions, return_inverse=True)
    found = {name: _records(opened, place, ascending)[back] for name, place in places.items() if name != UNIT}
    return _rows(found)


def _records(opened: SealedRange, place: Place, positions: Tensor) -> Tensor:
    """Records of one tensor, runs of neighbours in one read: (k, ...)."""
    records = place.shape[0]
    stride = (place.end - place.start) // max(records, 1)
    breaks = (positions.diff() != 1).nonzero()[:, 0] + 1
    content = bytearray()
    for run in torch.tensor_split(positions, breaks.tolist()):
        if len(run):
            content += opened.read(place.start + int(run[0]) * stride, len(run) * stride)
    shape = (len(positions), *place.shape[1:])
    return (
        torch.frombuffer(content, dtype=place.dtype).reshape(shape)
        if content
        else torch.empty(shape, dtype=place.dtype)
    )
