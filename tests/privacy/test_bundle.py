"""An auditor's bundle: every entry of a long ledger, checked without a key, and no other site's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from privacy.bundle import read_bundle, write_bundle
from privacy.errors import DataInvalid, IdentityRefused, ReportRefused, StorageFailed
from privacy.identity import Identity
from privacy.keys import KeyRing
from privacy.ledger import Ledger
from privacy.ledger_rows import MemoryRows
from tests.privacy.ledger_builders import budget, refusal, releases, spend


def site(name: str = "north") -> tuple[Identity, Ledger]:
    identity = Identity.create(name)
    ledger = Ledger.create(MemoryRows(), KeyRing.throw_away(name), identity.signer())
    ledger.set_budget(budget())
    return identity, ledger


def test_a_bundle_of_thousands_of_entries_is_read_whole(tmp_path: Path) -> None:
    identity, ledger = site()
    spend(ledger, range(1, 2101))
    entries = ledger.entries()
    write_bundle(tmp_path / "bundle", identity, ledger.reveal(range(len(entries))))
    assert (tmp_path / "bundle").stat().st_size > 4 * 1024 * 1024
    found = read_bundle(tmp_path / "bundle")
    assert tuple(found.entries.values()) == entries
    assert len(releases(entries)) == 2100
    assert found.checkpoint.size == 4202
    assert found.identity == identity.public()


def test_a_bundle_signed_by_another_than_the_ledgers_owner_is_refused(tmp_path: Path) -> None:
    (north, ledger), (south, _) = site(), site("south")
    write_bundle(tmp_path / "bundle", south, ledger.reveal([0, 1]))
    with pytest.raises(IdentityRefused, match="not signed by south's key"):
        read_bundle(tmp_path / "bundle")
    write_bundle(tmp_path / "bundle", north, ledger.reveal([0, 1]))
    assert sorted(read_bundle(tmp_path / "bundle").entries) == [0, 1]


def test_every_byte_of_a_bundle_changed_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    identity, ledger = site()
    spend(ledger, range(1, 2))
    path = tmp_path / "bundle"
    write_bundle(path, identity, ledger.reveal(range(4)))
    honest, content = read_bundle(path), path.read_bytes()
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1 << position % 8]) + content[position + 1 :])
        error = refusal(lambda: read_bundle(path) == honest or 1 / 0)
        assert error is None or isinstance(error, DataInvalid | IdentityRefused | ReportRefused)


@pytest.mark.parametrize("half", ["bundle", "signature"])
def test_half_a_character_in_a_bundle_is_refused(tmp_path: Path, half: str) -> None:
    inner = json.dumps({"format": 1, "identity": "x", "receipt": "y"})
    outer = {"bundle": inner[:-1] + ', "more": "\ud800"}', "signature": ""}
    outer = outer if half == "bundle" else {"bundle": inner, "signature": "\ud800"}
    (tmp_path / "bundle").write_text(json.dumps(outer))
    with pytest.raises(DataInvalid, match="no auditor bundle"):
        read_bundle(tmp_path / "bundle")


def test_a_bundle_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    identity, ledger = site()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailed):
        write_bundle(tmp_path / "file/bundle", identity, ledger.reveal([0]))
