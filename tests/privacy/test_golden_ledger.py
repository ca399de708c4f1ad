"""What version 1 wrote in a ledger is read for ever: files of that day, kept under tests/golden."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from privacy.entries import read_entry
from privacy.errors import LedgerRolledBack
from privacy.receipts import Receipt, judged
from privacy.safe import Safe
from privacy.shown import checked
from tests.privacy.ledger_builders import asked, refusal, spend
from tests.privacy.vault_builders import unlocked

GOLDEN = Path(__file__).parents[1] / "golden/ledger/1"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def golden(tmp_path: Path) -> Safe:
    """A copy of the golden safe: private, which git does not keep, and the settings name the key file where it is."""
    copy = Path(shutil.copytree(GOLDEN, tmp_path / "golden"))
    for path in copy.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    settings = copy / "safe/safe.toml"
    settings.write_text(settings.read_text().replace("/golden/site.key", str(copy / "site.key")))
    return unlocked(copy / "safe")


def test_a_ledger_of_version_1_opens_for_ever_with_the_same_entries_and_checkpoint(golden: Safe) -> None:
    ledger = golden.ledger()
    assert [json.loads(entry.to_bytes()) for entry in ledger.entries()] == EXPECTED["entries"]
    assert {entry.kind for entry in ledger.entries()} == {"open", "data", "budget", "reserve", "settle", "rotate"}
    assert ledger.checkpoint() == EXPECTED["checkpoint"]
    assert ledger.seen() == EXPECTED["seen"]
    assert ledger.refuse_rollback(EXPECTED["checkpoint"], "the golden file") == len(EXPECTED["entries"])


def test_a_ledger_of_version_1_is_written_on(golden: Safe) -> None:
    spend(golden.ledger(), range(1, 3), "a new run")
    list(golden.reseal())
    entries = unlocked(golden.folder).ledger().entries()
    assert [json.loads(entry.to_bytes()) for entry in entries[: len(EXPECTED["entries"])]] == EXPECTED["entries"]
    assert len(entries) == len(EXPECTED["entries"]) + 5


def test_a_receipt_of_version_1_is_judged_for_ever() -> None:
    receipt = Receipt.from_json(EXPECTED["receipt"])
    shown, entries = judged(receipt, None)
    assert checked(shown).size == len(EXPECTED["entries"])
    assert {number: json.loads(entry.to_bytes()) for number, entry in entries.items()} == {
        number: EXPECTED["entries"][number] for number in entries
    }
    assert len(entries) == 6


@pytest.mark.parametrize("number", range(len(EXPECTED["entries"])))
def test_each_entry_of_version_1_has_one_spelling_for_ever(number: int) -> None:
    text = json.dumps(EXPECTED["entries"][number], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert read_entry(text.encode()).to_bytes() == text.encode()


def test_an_older_copy_of_it_is_refused_by_its_checkpoint_of_that_day(golden: Safe) -> None:
    ledger = golden.ledger()
    ledger.reserve(asked(1, "a new run"))
    newer = ledger.checkpoint()
    old = unlocked(Path(shutil.copytree(golden.folder, golden.folder.with_name("again")))).ledger()
    shutil.copyfile(GOLDEN / "safe/ledger.db", golden.folder.with_name("again") / "ledger.db")
    (golden.folder.with_name("again") / "ledger.db-wal").unlink(missing_ok=True)
    assert isinstance(refusal(lambda: old.refuse_rollback(newer, "the server")), LedgerRolledBack)
