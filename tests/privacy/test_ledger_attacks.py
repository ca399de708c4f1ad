"""What an adversary does to a ledger's file: every byte, every row, older copies, another site's rows."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from privacy.entries import SALT_BYTES, Entry, Opened, Settled, commitment
from privacy.errors import KeyRefused, LedgerCorrupt, LedgerRolledBack, OrderRefused
from privacy.identity import Signer
from privacy.keys import KeyRing
from privacy.ledger import Ledger, now
from privacy.ledger_rows import SqliteRows
from privacy.merkle import Tree, leaf_hash
from privacy.notes import Checkpoint
from privacy.row_seal import opened_row, sealed_row
from privacy.shown import Shown
from tests.privacy.ledger_builders import (
    REPORT,
    Desk,
    asked,
    desk_in,
    in_memory,
    refusal,
    rows_of,
    spend,
    tampered,
)


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


@pytest.fixture
def copies(quick: Path) -> tuple[Desk, list[Path]]:
    """An anchored ledger, and 50 older copies of its file, each one release older than the next."""
    desk, older = desk_in(quick / "site", anchored=True), []
    for number in range(50):
        older.append(Path(shutil.copyfile(desk.path, quick / f"older-{number}")))
        with desk.ledger() as ledger:
            ledger.reserve(asked(number))
    return desk, older


def test_each_of_50_older_copies_is_refused_where_an_anchor_lives(copies: tuple[Desk, list[Path]]) -> None:
    desk, older = copies
    for copy in older:
        desk.put_back(copy)
        with desk.ledger() as ledger:
            for act in (ledger.entries, ledger.books, ledger.checkpoint, lambda: spend(ledger, range(60, 61))):
                assert isinstance(refusal(act), LedgerRolledBack)
    assert len(older) == 50


def test_each_of_50_older_copies_is_refused_by_what_the_server_shows(copies: tuple[Desk, list[Path]]) -> None:
    desk, older = copies
    with desk.ledger() as ledger:
        note = ledger.checkpoint()
    for copy in older:
        desk.put_back(copy)
        with replace(desk, anchor=None).ledger() as ledger:
            assert ledger.entries()  # nothing on this disk tells
            with pytest.raises(LedgerRolledBack, match="the server knows 52 entries"):
                ledger.refuse_rollback(note, "the server")


def test_an_older_copy_put_back_under_a_running_process_is_refused_every_time(
    copies: tuple[Desk, list[Path]],
) -> None:
    desk, older = copies
    without = replace(desk, anchor=None)
    with without.ledger() as ledger:
        ledger.entries()
        with closing(sqlite3.connect(older[20])) as source, closing(sqlite3.connect(desk.path)) as target:
            source.backup(target)  # in place
        for _ in range(3):
            assert isinstance(refusal(ledger.entries), LedgerCorrupt | LedgerRolledBack)
            assert isinstance(refusal(lambda: ledger.reserve(asked(99))), LedgerCorrupt | LedgerRolledBack)


def test_what_is_spent_after_a_file_was_replaced_goes_to_the_file_that_has_its_name(tmp_path: Path) -> None:
    desk = desk_in(tmp_path)
    shutil.copyfile(desk.path, tmp_path / "copy")
    with desk.ledger() as ledger:
        ledger.entries()
        os.replace(tmp_path / "copy", desk.path)
        spend(ledger, range(1, 3))
        assert len(desk.entries()) == 6


def test_a_missing_damaged_or_foreign_anchor_is_refused(copies: tuple[Desk, list[Path]], tmp_path: Path) -> None:
    desk, _ = copies
    assert desk.anchor is not None
    note = desk.anchor.read_bytes()
    with desk_in(tmp_path, "south").ledger() as other:
        foreign = other.checkpoint().encode()
    for content in (None, b"", note[:-1], note.replace(b"52", b"51"), b"\xff" + note, foreign):
        desk.anchor.unlink(missing_ok=True)
        if content is not None:
            desk.anchor.write_bytes(content)
        with desk.ledger() as ledger, pytest.raises(LedgerRolledBack, match="mount its volume"):
            ledger.entries()
    for position in range(len(note)):
        desk.anchor.write_bytes(note[:position] + bytes([note[position] ^ 1]) + note[position + 1 :])
        with desk.ledger() as ledger:
            assert isinstance(refusal(ledger.entries), LedgerRolledBack)


def test_rows_that_are_swapped_dropped_doubled_or_of_another_time_are_refused(tmp_path: Path) -> None:
    desk = desk_of_40(tmp_path)
    _, head = rows_of(desk.path)
    with desk.ledger() as ledger:
        ledger.reserve(asked(50))
    whole, (_, newest_head) = desk.path.read_bytes(), rows_of(desk.path)
    attacks: dict[str, Callable[[], None]] = {
        "swapped": lambda: tampered(
            desk.path,
            "UPDATE entry SET i = -1 WHERE i = 3",
            "UPDATE entry SET i = 3 WHERE i = 5",
            "UPDATE entry SET i = 5 WHERE i = -1",
        ),
        "head of before": lambda: tampered(desk.path, "UPDATE head SET sealed = ?", values=(head,)),
        "newest dropped": lambda: tampered(desk.path, "DELETE FROM entry WHERE i = 40"),
        "middle dropped": lambda: tampered(desk.path, "DELETE FROM entry WHERE i = 20"),
        "middle dropped, rest moved up": lambda: tampered(
            desk.path, "DELETE FROM entry WHERE i = 20", "UPDATE entry SET i = i - 1 WHERE i > 20"
        ),
        "first dropped": lambda: tampered(desk.path, "DELETE FROM entry WHERE i = 0"),
        "all dropped": lambda: tampered(desk.path, "DELETE FROM entry"),
        "all dropped, and the head": lambda: tampered(desk.path, "DELETE FROM entry", "DELETE FROM head"),
        "head dropped": lambda: tampered(desk.path, "DELETE FROM head"),
        "one doubled": lambda: tampered(desk.path, "INSERT INTO entry SELECT 41, sealed FROM entry WHERE i = 40"),
        "an old one again": lambda: tampered(
            desk.path, "UPDATE entry SET sealed = (SELECT sealed FROM entry WHERE i = 7) WHERE i = 9"
        ),
        "head as a row": lambda: tampered(desk.path, "INSERT INTO entry VALUES (41, ?)", values=(newest_head,)),
        "empty row": lambda: tampered(desk.path, "UPDATE entry SET sealed = x'' WHERE i = 4"),
        "row cut": lambda: tampered(desk.path, "UPDATE entry SET sealed = substr(sealed, 1, 20) WHERE i = 4"),
        "another table": lambda: tampered(desk.path, "DROP TABLE entry", "CREATE TABLE entry (j, k)"),
        "text for bytes": lambda: tampered(
            desk.path,
            "DROP TABLE entry",
            "CREATE TABLE entry (i, sealed)",
            "INSERT INTO entry VALUES (0, 'text')",
        ),
    }
    for name, attack in attacks.items():
        desk.path.write_bytes(whole)
        attack()
        with desk.ledger() as ledger:
            error = refusal(ledger.entries)
            assert isinstance(error, LedgerCorrupt | KeyRefused), (name, error)
            assert isinstance(refusal(lambda ledger=ledger: ledger.reserve(asked(60))), type(error)), name


def test_rows_of_other_ledgers_are_refused_under_the_same_keyring_and_another(tmp_path: Path) -> None:
    keyring = KeyRing.throw_away("north")
    desk = desk_in(tmp_path / "one", keyring=keyring)
    whole = desk.path.read_bytes()
    others = {
        "same keyring, other signer": desk_in(tmp_path / "two", keyring=keyring),
        "other keyring": desk_in(tmp_path / "three"),
        "other site": desk_in(tmp_path / "four", "south"),
    }
    for name, other in others.items():
        rows, head = rows_of(other.path)
        for index in (0, 1):
            desk.path.write_bytes(whole)
            tampered(desk.path, "UPDATE entry SET sealed = ? WHERE i = ?", values=(rows[index][1], index))
            assert isinstance(refusal(desk.entries), LedgerCorrupt), name
        desk.path.write_bytes(whole)
        tampered(desk.path, "UPDATE head SET sealed = ?", values=(head,))
        assert isinstance(refusal(desk.entries), LedgerCorrupt), name
        shutil.copyfile(other.path, desk.path)
        assert isinstance(refusal(desk.entries), LedgerCorrupt), name
    empty = KeyRing.throw_away("north")
    desk.path.write_bytes(whole)
    assert isinstance(refusal(replace(desk, keyring=empty).entries), KeyRefused)


def test_a_ledger_begun_anew_under_the_same_keys_is_refused_by_its_anchor(tmp_path: Path) -> None:
    desk = desk_in(tmp_path, anchored=True)
    with closing(SqliteRows.create(tmp_path / "new.db")) as rows:
        Ledger.create(rows, desk.keyring, desk.signer)
    desk.put_back(tmp_path / "new.db")
    assert isinstance(refusal(desk.entries), LedgerRolledBack)


def test_a_ledger_is_not_begun_over_entries_whose_head_was_deleted(tmp_path: Path) -> None:
    desk = desk_in(tmp_path)
    tampered(desk.path, "DELETE FROM head")
    with closing(SqliteRows(desk.path)) as rows, pytest.raises(LedgerCorrupt, match="never begun anew"):
        Ledger.create(rows, desk.keyring, desk.signer)


def forge(desk: Desk, entry: Entry) -> None:
    """An insider who has the sealing key writes an entry of their own, and the head that goes with it."""
    rows, _ = rows_of(desk.path)
    plains = [opened_row(desk.keyring, f"entry {index}", sealed) for index, sealed in rows]
    epoch = plains[0][0]
    plain = os.urandom(SALT_BYTES) + entry.to_bytes()
    tree = Tree()
    for each in [*(found for _, found in plains), plain]:
        tree.append(leaf_hash(commitment(each)))
    with desk.ledger() as ledger:
        mark = Checkpoint(origin=ledger.origin, size=len(tree), root=tree.root())
    place = f"entry {len(rows)}"
    tampered(
        desk.path,
        "INSERT INTO entry VALUES (?, ?)",
        values=(len(rows), sealed_row(desk.keyring, epoch, place, plain)),
    )
    head = sealed_row(desk.keyring, epoch, "head", mark.text().encode())
    tampered(desk.path, "UPDATE head SET sealed = ?", values=(head,))


def test_entries_that_make_no_sense_are_refused_although_they_are_sealed_and_counted(tmp_path: Path) -> None:
    desk = desk_in(tmp_path)
    with desk.ledger() as ledger:
        spend(ledger, range(1, 2))
    whole = desk.path.read_bytes()
    forge(desk, asked(2))
    assert len(desk.entries()) == 5  # the forger's hand is steady
    opened = Opened(time=now(), site="north", verifying=desk.signer.verifying.hex())
    settled = [Settled(time=now(), reserve=index, report=REPORT.hex()) for index in (0, 2, 4, 5, 10**6)]
    for entry in (opened, *settled):
        desk.path.write_bytes(whole)
        forge(desk, entry)
        assert isinstance(refusal(desk.entries), LedgerCorrupt), entry


def test_what_a_ledger_remembers_of_others_is_refused_once_it_was_changed(tmp_path: Path) -> None:
    desk, signer = desk_in(tmp_path), Signer.create("south")
    other = desk_in(tmp_path / "other", "south")
    with other.ledger() as theirs:
        shown = Shown(verifying=other.signer.verifying, note=theirs.checkpoint())
    with desk.ledger() as ledger:
        ledger.reserve(asked(1), shown=[shown])
        assert ledger.seen() == {shown.origin: shown.note}
    assert signer.verifying != other.signer.verifying
    broken = b"\xff".join(shown.note.encode().rsplit(b"\x94", 1))
    for note in (shown.note.replace("\n2\n", "\n1\n"), shown.note[:-9], ""):
        tampered(desk.path, "UPDATE seen SET note = ?", values=(note,))
        with desk.ledger() as ledger:
            error = refusal(lambda ledger=ledger: ledger.reserve(asked(2), shown=[shown]))
            assert isinstance(error, LedgerCorrupt | OrderRefused) or note == ""
    tampered(desk.path, "UPDATE seen SET note = CAST(? AS TEXT)", values=(broken,))
    with desk.ledger() as ledger, pytest.raises(LedgerCorrupt, match="damaged"):
        ledger.seen()
