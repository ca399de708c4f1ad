"""A site's records as tensors, and their division into training and test rows.

In tensor comments, n is the number of records.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from privacy.errors import DataInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """n records: named tensors that agree in their first dimension.

    fields:   name -> tensor of shape (n, ...), any dtype
    held_out: (n,) bool, True for records that must never be trained on; None leaves the choice to the plan's test_share
    units:    (n,) int64, the number of each record's group (patient, customer): records of one group have one number,
              of two groups never the same; None where nobody said. Numbers name groups and mean nothing else

    Raises:
        DataInvalid: there is no field, the lengths differ, or units are no whole numbers, one a record.
    """

    fields: Mapping[str, Tensor]
    held_out: Tensor | None = None
    units: Tensor | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(tensor) for name, tensor in self.fields.items()}
        if self.held_out is not None:
            lengths["held_out"] = len(self.held_out)
        if self.units is not None:
            if self.units.dtype != torch.int64 or self.units.dim() != 1:
                raise DataInvalid(
                    f"rows' units are {self.units.dtype} of shape {tuple(self.units.shape)}, but must be int64, one "
                    "number a record"
                )
            lengths["units"] = len(self.units)
        if not self.fields or len(set(lengths.values())) != 1:
            raise DataInvalid(f"rows need at least one field, all of one length, but the lengths are {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.fields:
            raise DataInvalid(f"rows have no field {name!r}, only {', '.join(self.fields)}")
        return self.fields[name]

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return next(iter(self.fields.values())).device

    def take(self, positions: Tensor) -> Rows:
        """The records at `positions` ((k,) int64) or under a mask ((n,) bool)."""
        return Rows(
            fields={name: tensor[positions] for name, tensor in self.fields.items()},
            held_out=None if self.held_out is None else self.held_out[positions],
            units=None if self.units is None else self.units[positions],
        )

    def replace(self, **fields: Tensor) -> Rows:
        """The same records with these fields exchanged or added."""
        return Rows(fields={**self.fields, **fields}, held_out=self.held_out, units=self.units)

    def to(self, device: torch.device) -> Rows:
        """The same records on another device."""
        return Rows(
            fields={name: tensor.to(device) for name, tensor in self.fields.items()},
            held_out=None if self.held_out is None else self.held_out.to(device),
            units=None if self.units is None else self.units.to(device),
        )


class RowSource(Protocol):
    """Records that are taken by position: `Rows` in memory, or a sealed data set that is read by range."""

    @property
    def device(self) -> torch.device:
        """Where taken records lie."""

    @property
    def units(self) -> Tensor | None:
        """The number of each record's group, (n,) int64; None where groups play no part."""

    def __len__(self) -> int:
        """How many records there are."""

    def take(self, positions: Tensor) -> Rows:
        """The records at these positions ((k,) int64); fewer where preparing drops some."""


def concatenate(parts: list[Rows]) -> Rows:
    """All records of the parts, in order. Parts must share their fields; held_out marks and units are dropped.

    Whether number 3 of one part is number 3 of another only the caller knows: give the whole its units anew.
    """
    return Rows(fields={name: torch.cat([part[name] for part in parts]) for name in parts[0].fields})


def split(rows: Rows, test_share: float, seed: int) -> tuple[Rows, Rows]:
    """Training and test records: by `held_out` where the rows say, else by a keyed hash of each record's own bytes.

    A record's side depends on the record alone, so adding or removing a record moves nobody else between the parts, as
    add-or-remove-one neighbouring asks (a draw by position would shift all that follow), and equal records never stand
    on both sides.
    """
    test = held_out(rows, test_share, seed)
    plain = Rows(fields=rows.fields)
    return plain.take(~test), plain.take(test)


def held_out(rows: Rows, test_share: float, seed: int) -> Tensor:
    """Which records `split` holds out: (n,) bool."""
    if rows.held_out is not None:
        return rows.held_out
    sides = [fraction(record, seed) < test_share for record in record_bytes(rows)]
    return torch.tensor(sides, dtype=torch.bool)  # (n,)


def record_bytes(rows: Rows) -> Iterator[bytes]:
    """Each record's own bytes, fields in the order of their names: equal exactly where records are."""
    flat = [rows[name].reshape(len(rows), math.prod(rows[name].shape[1:])) for name in sorted(rows.fields)]
    columns = [table.contiguous().view(torch.uint8).numpy() for table in flat if table.numel()]
    for position in range(len(rows)):
        yield b"".join(column[position].tobytes() for column in columns)


def fraction(identity: bytes, seed: int) -> float:
    """Where a record, or a group, falls in [0, 1): below test_share it is held out."""
    return keyed_hash(identity, seed) / 2**64


def keyed_hash(identity: bytes, seed: int) -> int:
    """64 bits, as if drawn once for each identity under this public seed."""
    digest = hashlib.blake2b(identity, digest_size=8, key=seed.to_bytes(8, "big"), person=b"fedseal split").digest()
    return int.from_bytes(digest, "big")
