"""Small data sets to seal, safes that hold them, and what lies on the disk afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from clients.data import DataSet
from clients.sealing import Source, seal_rows
from federation.rows import Rows
from privacy.safe import Safe
from privacy.vault import Vault
from tests.privacy.vault_builders import nobody

NOW = "2026-01-02T03:04:05+00:00"
Batch = tuple[Rows, list[str] | None]


def patients(count: int, first: int = 0) -> Rows:
    """Records that tell where they belong: x = [[0, 1], [2, 3], ...], y = 0, 1, 2, 0, ..."""
    table = torch.arange(2 * first, 2 * (first + count), dtype=torch.float32).reshape(count, 2)
    return Rows(fields={"x": table, "y": torch.arange(first, first + count) % 3})


def names(count: int) -> list[str]:
    """Two visits of each patient: patient-0000, patient-0000, patient-0001, ..."""
    return [f"patient-{number // 2:04}" for number in range(count)]


def source(name: str = "heart", unit: str | None = None) -> Source:
    return Source(name=name, imported=NOW, columns=("x",), label="y", unit=unit)


def batches(rows: Rows, size: int, units: list[str] | None = None) -> Iterator[Batch]:
    """The same records, `size` at a time."""
    for positions in torch.arange(len(rows)).split(size):
        yield rows.take(positions), None if units is None else [units[position] for position in positions.tolist()]


def sealed_in(vault: Vault, rows: Rows, name: str = "heart", units: list[str] | None = None) -> DataSet:
    return seal_rows(vault, source(name, "patient" if units else None), [(rows, units)])


def sealed(safe: Safe, rows: Rows, name: str = "heart", units: list[str] | None = None) -> DataSet:
    """A data set, imported as a site's engineer imports it: under the safe's lock."""
    with safe.changing() as vault:
        return sealed_in(vault, rows, name, units)


def records_a_shard(monkeypatch: pytest.MonkeyPatch, records: int, bytes_a_record: int) -> None:
    """From now on a shard holds only so many records."""
    monkeypatch.setattr("clients.sealing.SHARD_BYTES", records * bytes_a_record)


def again(safe: Safe) -> Safe:
    """The same safe as another process would unlock it."""
    return Safe.unlock(safe.folder, nobody)


@contextmanager
def pipe(text: bytes) -> Iterator[int]:
    """A file descriptor from which this can be read once."""
    reader, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    try:
        yield reader
    finally:
        os.close(reader)


def same(first: Rows, second: Rows) -> bool:
    """Whether both hold the same records in the same order: names, types, values, marks."""
    return (
        sorted(first.fields) == sorted(second.fields)
        and all(alike(first[name], second[name]) for name in first.fields)
        and alike(first.held_out, second.held_out)
    )


def alike(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.dtype == second.dtype and first.shape == second.shape and torch.equal(first, second)


def on_disk(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, the lock aside."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def besides_ledger(folder: Path) -> dict[str, bytes]:
    """Every file of a safe but its ledger's, of whose rows a backup keeps the content, not the bytes."""
    return {name: held for name, held in on_disk(folder).items() if not name.startswith("ledger.db")}


def objects(vault: Vault, name: str = "heart") -> list[str]:
    """What the vault holds of a data set."""
    return [str(label) for label in vault.list() if label.scope == f"data/{name}"]
