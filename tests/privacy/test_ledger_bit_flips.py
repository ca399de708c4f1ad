"""One bit of every byte of a ledger flipped: never a third between an error and the same entries."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from privacy.entries import Entry
from privacy.errors import FedSealError
from privacy.ledger_rows import SqliteRows
from privacy.row_seal import opened_row
from tests.privacy.ledger_builders import (
    Desk,
    desk_in,
    in_memory,
    refusal,
    rows_of,
    spend,
)
from tests.privacy.vault_builders import flipped, writable


@pytest.fixture
def quick() -> Iterator[Path]:
    with in_memory() as folder:
        yield folder


def desk_of_40(folder: Path, **options: bool) -> Desk:
    desk = desk_in(folder, **options)
    with desk.ledger() as ledger:
        spend(ledger, range(1, 20))
    assert len(desk.entries()) == 40
    return desk


def outcome(desk: Desk, honest: tuple[Entry, ...], sealed: tuple[list[tuple[int, bytes]], bytes]) -> str:
    """Whether the file gives the honest entries or an error; a third fails the test."""
    try:
        with closing(SqliteRows(desk.path)) as rows, rows.reading():
            found = list(rows.since(0)), rows.head()
    except FedSealError:
        return "refused"
    changed = set(found[0]) - set(sealed[0])
    if any(refusal(lambda row=row: opened_row(desk.keyring, f"entry {row[0]}", row[1])) for row in changed):
        return "refused"
    if found != sealed:  # else the entries are the same, because nothing else tells what they are
        try:
            assert desk.entries() == honest, "undetected"
        except FedSealError:
            return "refused"
    return "same"


def test_every_byte_of_a_ledger_flipped_gives_an_error_or_the_same_entries(quick: Path) -> None:
    desk = desk_of_40(quick)
    honest, sealed, content = desk.entries(), rows_of(desk.path), desk.path.read_bytes()
    counted = {"same": 0, "refused": 0}
    for position in range(len(content)):
        with writable(desk.path) as handle, flipped(handle, position, 1 << position % 8):
            counted[outcome(desk, honest, sealed)] += 1
        if desk.path.read_bytes() != content:  # SQLite may have mended what it could
            desk.path.write_bytes(content)
    assert desk.entries() == honest
    assert counted["refused"] > 10_000


def test_bytes_of_a_write_ahead_log_flipped_are_undetected_nowhere_where_an_anchor_lives(quick: Path) -> None:
    desk = desk_of_40(quick, anchored=True)
    wal = desk.path.with_name("north.db-wal")
    with desk.ledger() as ledger:
        spend(ledger, range(21, 23))
        honest, file, log = ledger.entries(), desk.path.read_bytes(), wal.read_bytes()
        shutil.copyfile(desk.path, quick / "copy.db")
        shutil.copyfile(wal, quick / "copy.db-wal")
    copy, sealed = replace(desk, path=quick / "copy.db"), rows_of(desk.path)
    assert len(log) > 40_000
    for position in range(0, len(log), 61):
        copy.path.write_bytes(file)
        wounded = bytearray(log)
        wounded[position] ^= 1 << position % 8
        copy.path.with_name("copy.db-wal").write_bytes(wounded)
        copy.path.with_name("copy.db-shm").unlink(missing_ok=True)
        assert outcome(copy, honest, sealed) == "refused"  # SQLite drops the rest of the log, the anchor tells
