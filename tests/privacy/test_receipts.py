"""Receipts: an honest one proves what grew, and no forged, cut, replayed or nonsensical one is believed."""

from __future__ import annotations

import hashlib
import json
import random
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privacy.entries import Entry, read_entry
from privacy.errors import ForkedLedger, IdentityRefused, LedgerCorrupt, MalformedReceipt, OrderRefused, ReportRefused
from privacy.identity import Signer
from privacy.ledger import Ledger
from privacy.merkle import EMPTY_ROOT
from privacy.notes import Checkpoint, signed
from privacy.receipts import Receipt, judged
from privacy.shown import Shown, checked, origin_of
from privacy.witness import digest_of, newer_views
from tests.privacy.ledger_builders import Desk, asked, desk_in, in_memory, spend

MUTATIONS = 10_000
NONSENSE = [
    *(None, True, 0, -1, 1e400, float("nan"), 10**400, 2**53, "", "AAAA", "\ud800", "0", [], {}, [[]], {"note": 1}),
    ["", "", ""],
    *([0, "", []], "—", "\n\n", b64encode(bytes(32)).decode(), b64encode(bytes(31)).decode()),
]


@pytest.fixture
def desk() -> Iterator[Desk]:
    with in_memory() as folder:
        yield desk_in(folder)


@pytest.fixture
def ledger(desk: Desk) -> Iterator[Ledger]:
    with desk.ledger() as ledger:
        spend(ledger, range(1, 4), "earlier")
        spend(ledger, range(1, 3), "1")
        yield ledger


def shown(receipt: Receipt) -> Shown:
    return Shown(verifying=receipt.verifying, note=receipt.note)


def test_a_receipt_proves_growth_and_reveals_one_runs_entries_and_nothing_else(ledger: Ledger) -> None:
    first = ledger.receipt("1", 0)
    known, entries = judged(first, None)
    assert sorted(entries) == [8, 9, 10, 11]
    assert entries == dict(enumerate(ledger.entries()[8:], 8))
    assert b"earlier" not in b"".join(found.row for found in first.revealed)
    spend(ledger, range(3, 4), "1")
    spend(ledger, range(1, 2), "later")
    newest, entries = judged(ledger.receipt("1", checked(known).size), known)
    assert (checked(newest).size, sorted(entries)) == (16, [12, 13])
    assert judged(Receipt.from_json(first.to_json()), None) == judged(first, None)


def test_every_size_known_before_is_proved_and_no_other(ledger: Ledger, desk: Desk) -> None:
    notes = {}
    with desk_in(desk.path.parent / "grown").ledger() as growing:
        for number in range(12):
            notes[checked(shown(growing.receipt("1", 0))).size] = shown(growing.receipt("1", 0))
            growing.reserve(asked(number))
        for size, note in notes.items():
            receipt = growing.receipt("1", size)
            judged(receipt, note)
            for other in set(notes) - {size}:
                if growing.receipt("1", other).consistency != receipt.consistency:
                    with pytest.raises(ForkedLedger):
                        judged(receipt, notes[other])


def mutated(value: Any, rng: random.Random) -> Any:
    """The JSON value with one place changed: a bit of a text, a number, an element more or less, or nonsense."""
    if rng.random() < 0.15:
        return rng.choice(NONSENSE)
    match value:
        case dict():
            key = rng.choice(sorted(value))
            if rng.random() < 0.1:
                return {name: item for name, item in value.items() if name != key}
            return {**value, key: mutated(value[key], rng)}
        case list() if value and rng.random() < 0.9:
            place = rng.randrange(len(value))
            kind = rng.randrange(8)
            if kind == 0:
                return value[:place] + value[place + 1 :]
            if kind == 1:
                return [*value[:place], value[rng.randrange(len(value))], *value[place:]]
            return [*value[:place], mutated(value[place], rng), *value[place + 1 :]]
        case list():
            return [*value, rng.choice(NONSENSE)]
        case str() if value:
            place = rng.randrange(len(value))
            return value[:place] + chr(ord(value[place]) ^ 1 << rng.randrange(7)) + value[place + 1 :]
        case int():
            return value + rng.choice([-1, 1, 2**32])
        case _:
            return rng.choice(NONSENSE)


def test_ten_thousand_mutations_raise_nothing_else_and_none_is_accepted_with_other_entries(ledger: Ledger) -> None:
    rng, known = random.Random(3), shown(ledger.receipt("1", 0))
    spend(ledger, range(3, 4), "1")
    honest = ledger.receipt("1", 12)
    newest, entries = judged(honest, known)
    value, accepted = json.loads(honest.to_json()), 0
    for _ in range(MUTATIONS):
        wounded = mutated(value, rng)
        try:
            found, revealed = judged(Receipt.from_json(json.dumps(wounded)), known)
        except ReportRefused:
            continue
        accepted += 1
        assert checked(found) == checked(newest)
        assert revealed.items() <= entries.items()
    assert accepted < MUTATIONS // 10  # an entry left out, or twice, or a number spelled otherwise


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 100_000, '{"verifying": 1e400}', "9" * 5000, "\ud800"])
def test_what_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(MalformedReceipt):
        Receipt.from_json(text)


@pytest.mark.parametrize("index", ["1e400", "-1e400", "NaN", "1" + "0" * 400, "-1", '"x"', "null"])
def test_an_index_that_is_no_number_of_an_entry_is_refused(ledger: Ledger, index: str) -> None:
    honest = ledger.receipt("1", 0)
    text = honest.to_json().replace('"revealed": [[8,', f'"revealed": [[{index},')
    assert text != honest.to_json()
    with pytest.raises(MalformedReceipt):
        judged(Receipt.from_json(text), None)


def test_a_receipt_longer_than_a_server_reads_is_refused() -> None:
    with pytest.raises(MalformedReceipt):
        Receipt.from_json('{"note": "' + "x" * 5_000_000 + '"}')


def forged(verifying: bytes, origin: str, signer: Signer) -> Receipt:
    note = signed(Checkpoint(origin=origin, size=0, root=EMPTY_ROOT), origin, signer.sign_note, signer.verifying)
    return Receipt(verifying=verifying, note=note, consistency=(), revealed=())


def test_checkpoints_by_other_keys_and_impossible_names_and_keys_are_refused(ledger: Ledger) -> None:
    signer, honest = Signer.create("north"), ledger.receipt("1", 0)
    key = signer.verifying
    judged(forged(key, origin_of("north", key), signer), None)
    for receipt in (
        forged(honest.verifying, ledger.origin, signer),  # signed by another key than its origin's
        forged(key, ledger.origin, signer),  # shown with another key than its origin's
        forged(key, origin_of("north", bytes(32)), signer),
        replace(honest, verifying=key),
        replace(honest, note=honest.note.replace("\n12\n", "\n13\n")),
    ):
        with pytest.raises(MalformedReceipt):
            judged(receipt, None)
    for wrong in (key[:31], key + b"\x00", b"", bytes(32)):
        origin = origin_of("north", wrong)
        receipt = Receipt(verifying=wrong, note=forged(key, origin, signer).note, consistency=(), revealed=())
        with pytest.raises(MalformedReceipt):
            judged(receipt, None)
    for name in ("a b", "a+b", "x" * 300, "\ud800", "a\nb", "a\tb", ""):
        origin, honest_note = origin_of(name, key), forged(key, origin_of("north", key), signer).note
        note = honest_note.replace(origin_of("north", key), origin)
        with pytest.raises(MalformedReceipt):
            judged(Receipt(verifying=key, note=note, consistency=(), revealed=()), None)


def test_an_entry_under_another_number_with_another_salt_or_proof_is_refused(ledger: Ledger) -> None:
    honest = ledger.receipt("1", 0)
    first, second = honest.revealed[:2]
    for wrong in (
        replace(first, index=second.index),
        replace(first, index=first.index + 12),
        replace(first, row=b"\x00" + first.row[1:]),
        replace(first, row=first.row[:-1]),
        replace(first, row=b""),
        replace(first, row=second.row),
        replace(first, proof=second.proof),
        replace(first, proof=first.proof[:-1]),
        replace(first, proof=(*first.proof, bytes(32))),
        replace(first, proof=(b"short", *first.proof[1:])),
    ):
        with pytest.raises(MalformedReceipt):
            judged(replace(honest, revealed=(wrong,)), None)


@pytest.mark.parametrize("number", ["1e400", "1" + "0" * 400, "1" + "0" * 5000, "NaN", "-1", "true", '"1"', "1.5"])
def test_entries_with_numbers_that_nobody_can_mean_are_refused_or_read_as_they_are(number: str) -> None:
    body = asked(1).to_bytes()
    for field in (b'"round":1', b'"noise_multiplier":50.0', b'"sample_rate":1.0', b'"steps":1'):
        assert field in body
        name = field.partition(b":")[0]
        wounded = body.replace(field, name + b":" + number.encode())
        try:
            entry: Entry = read_entry(wounded)
        except LedgerCorrupt:
            continue
        assert entry.to_bytes() == wounded


def test_newer_views_refuses_what_contradicts_or_is_older_than_what_was_shown_and_keeps_the_newest(
    ledger: Ledger, desk: Desk
) -> None:
    older = shown(ledger.receipt("1", 0))
    fork = desk.copied("fork.db")
    spend(ledger, range(9, 10))
    newest = shown(ledger.receipt("1", 0))
    with fork.ledger() as other:
        spend(other, range(8, 9))
        forked = shown(other.receipt("1", 0))
    assert (
        newer_views({}, [older, newest])
        == newer_views({older.origin: older.note}, [newest])
        == {older.origin: newest.note}
    )
    assert newer_views({newest.origin: newest.note}, [newest]) == {}
    with pytest.raises(OrderRefused, match="showed 14 before") as told:
        newer_views({newest.origin: newest.note}, [older])
    assert older.note in str(told.value)
    for seen, offered in (({newest.origin: newest.note}, [forked]), ({}, [newest, forked])):
        with pytest.raises(OrderRefused, match="two histories of 14 entries") as told:
            newer_views(seen, offered)
        assert newest.note in str(told.value)
        assert forked.note in str(told.value)
    for wrong in (
        replace(newest, verifying=bytes(32)),
        replace(newest, note=newest.note[:-5]),
        replace(newest, note=""),
    ):
        with pytest.raises(OrderRefused, match="does not hold"):
            newer_views({}, [wrong])
    assert digest_of([older, newest]) == digest_of([newest, older]) != digest_of([newest])
    assert digest_of([]) != hashlib.sha256(b"").hexdigest()


def test_a_server_that_shows_a_forged_checkpoint_of_the_ledger_itself_is_refused(
    ledger: Ledger, tmp_path: Path
) -> None:
    with desk_in(tmp_path).ledger() as other, pytest.raises(IdentityRefused):
        ledger.refuse_rollback(other.checkpoint(), "the server")
    note = ledger.checkpoint()
    with pytest.raises(IdentityRefused):
        ledger.refuse_rollback(note.replace("\n12\n", "\n11\n"), "the server")
    assert ledger.refuse_rollback(note, "the server") == 12
    assert b64decode(note.splitlines()[2]) != bytes(32)
