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

    Raises:
        DataInvalid: there is no field, or the lengths differ.
    """

    fields: Mapping[str, Tensor]
    held_out: Tensor | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(tensor) for name, tensor in self.fields.items()}
        if self.held_out is not None:
            lengths["held_out"] = len(self.held_out)
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
        )

    def replace(self, **fields: Tensor) -> Rows:
        """The same records with these fields exchanged or added."""
        return Rows(fields={**self.fields, **fields}, held_out=self.held_out)

    def to(self, device: torch.device) -> Rows:
        """The same records on another device."""
        return Rows(
            fields={name: tensor.to(device) for name, tensor in self.fields.items()},
            held_out=None if self.held_out is None else self.held_out.to(device),
        )


class RowSource(Protocol):
    """Records that are taken by position: `Rows` in memory, or a sealed data set that is read by range."""

    @property
    def device(self) -> torch.device:
        """Where taken records lie."""

    def __len__(self) -> int:
        """How many records there are."""

    def take(self, positions: Tensor) -> Rows:
        """The records at these positions ((k,) int64); fewer where preparing drops some."""


def concatenate(parts: list[Rows]) -> Rows:
    """All records of the parts, in order. Parts must share their fields; held_out marks are dropped."""
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
    sides = [_fraction(record, seed) < test_share for record in record_bytes(rows)]
    return torch.tensor(sides, dtype=torch.bool)  # (n,)


def record_bytes(rows: Rows) -> Iterator[bytes]:
    """Each record's own bytes, fields in the order of their names: equal exactly where records are."""
    flat = [rows[name].reshape(len(rows), math.prod(rows[name].shape[1:])) for name in sorted(rows.fields)]
    columns = [table.contiguous().view(torch.uint8).numpy() for table in flat if table.numel()]
    for position in range(len(rows)):
        yield b"".join(column[position].tobytes() for column in columns)


def _fraction(record: bytes, seed: int) -> float:
    digest = hashlib.blake2b(record, digest_size=8, key=seed.to_bytes(8, "big"), person=b"fedseal split").digest()
    return int.from_bytes(digest, "big") / 2**64
