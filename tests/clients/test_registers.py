"""Budgets outlive data sets: what shares a unit or a record goes on with its account, whatever it is called."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from clients.account import Account
from clients.data import DataSet
from clients.registers import register_data
from federation.promise import round_mechanism
from privacy.entries import DataRegistered
from privacy.errors import BudgetExhausted
from privacy.ledger import Ledger
from privacy.ledger_rows import SqliteRows
from privacy.safe import Safe
from privacy.vault import Label
from tests.client_builders import PRIVATE, DotTask, order, plan
from tests.clients.data_builders import again, names, patients, sealed
from tests.command_builders import done, refused
from tests.federation.table_builders import csv_file
from tests.privacy.ledger_builders import HEART, LUNG, asked, books, budget, data
from tests.privacy.vault_builders import object_file, safe_in

ALLOWED = ("--allow", "record", "--allow", "plain-updates")


@pytest.fixture
def north(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Safe:
    """A site `north` in the current folder, whose budget covers exactly one private round of noise 1."""
    monkeypatch.chdir(tmp_path)
    safe = safe_in(tmp_path / "north", "north")
    safe.ledger().set_budget(budget(6.0))
    return safe


def ask(safe: Safe, name: str, run: str = "1") -> None:
    """Reserves a private round on a data set, as a site does in a run."""
    agreed, task = plan(PRIVATE), DotTask()
    account = Account(ledger=again(safe).ledger(), data=DataSet.open(again(safe).vault, name))
    wish = order(task, agreed)
    wish = replace(wish, address=replace(wish.address, run=run))
    account.reserve(wish, agreed, "update", round_mechanism(agreed))


def table(patients: range, with_units: bool) -> str:
    lines = [f"{number},{number % 2}" + f",p{number // 2}" * with_units for number in patients]
    return "\n".join(["a,y" + ",who" * with_units, *lines, ""])


def imported(folder: Path, name: str, rows: range, with_units: bool) -> None:
    csv_file(folder, table(rows, with_units), f"{name}.csv")
    options = ("--unit-column", "who") if with_units else ()
    done("site", "import", f"{name}.csv", "--as", name, "--label-column", "y", *options)


@pytest.mark.parametrize("with_units", [True, False])
def test_shredded_rows_imported_again_with_a_few_more_continue_their_account(
    north: Safe, tmp_path: Path, with_units: bool
) -> None:
    imported(tmp_path, "heart", range(10), with_units)
    ask(north, "heart")
    done("site", "shred", "heart", "--yes")
    imported(tmp_path, "heart", range(14), with_units)
    with pytest.raises(BudgetExhausted, match="in 1 releases"):
        ask(north, "heart", run="2")
    imported(tmp_path, "other", range(100, 110), with_units)
    ask(north, "other", run="2")


@pytest.mark.parametrize("with_units", [True, False])
def test_the_same_rows_under_another_name_are_the_same_account(north: Safe, tmp_path: Path, with_units: bool) -> None:
    imported(tmp_path, "heart", range(10), with_units)
    ask(north, "heart")
    imported(tmp_path, "cor", range(10), with_units)
    with pytest.raises(BudgetExhausted):
        ask(north, "cor", run="2")


def test_one_patient_with_a_new_visit_is_enough_to_compose(north: Safe) -> None:
    sealed(north, patients(4), "heart", ["ann", "ann", "bob", "cyd"])
    sealed(north, patients(3, first=50), "lung", ["dan", "eve", "bob"])
    sealed(north, patients(3, first=70), "liver", ["dan", "fay", "gil"])
    for name in ("heart", "lung", "liver"):
        register_data(north.vault, north.ledger(), DataSet.open(north.vault, name).facts)
    known = north.ledger().books()
    account = {called: found for found, called in known.names.items()}
    assert known.alike(account["heart"]) == {account["heart"], account["lung"]}
    assert known.alike(account["lung"]) == {account["heart"], account["lung"], account["liver"]}


def test_records_without_units_are_recognised_in_a_data_set_with_units(north: Safe) -> None:
    sealed(north, patients(4), "plain")
    sealed(north, patients(6), "named", names(6))
    ask(north, "plain")
    with pytest.raises(BudgetExhausted):
        ask(north, "named", run="2")


def test_a_data_set_whose_register_is_lost_is_taken_to_overlap_with_every_other(north: Safe) -> None:
    sealed(north, patients(4), "heart")
    ask(north, "heart")
    account = DataSet.open(north.vault, "heart").facts.fingerprint
    object_file(north.vault, Label("register", account)).unlink()
    sealed(north, patients(4, first=50), "lung")
    with pytest.raises(BudgetExhausted):
        ask(north, "lung", run="2")


def test_a_second_run_on_the_same_rows_goes_on_with_the_account(north: Safe) -> None:
    sealed(north, patients(4), "heart")
    ask(north, "heart", run="1")
    with pytest.raises(BudgetExhausted, match="data set 'heart', for ever"):
        ask(north, "heart", run="2")


def test_a_data_set_is_registered_once_and_again_under_a_new_name(north: Safe) -> None:
    facts = sealed(north, patients(4), "heart").facts
    ledger = north.ledger()
    for _ in range(3):
        register_data(north.vault, ledger, facts)
    register_data(north.vault, ledger, facts.model_copy(update={"name": "cor"}))
    found = [entry for entry in ledger.entries() if isinstance(entry, DataRegistered)]
    assert [(entry.name, entry.records) for entry in found] == [("heart", 4), ("cor", 4)]


def test_a_data_set_that_another_process_registers_in_the_meantime_is_looked_at(
    north: Safe, monkeypatch: pytest.MonkeyPatch
) -> None:
    lung, heart = (sealed(north, patients(4, first=start), name).facts for start, name in ((0, "lung"), (3, "heart")))
    ledger, register = north.ledger(), Ledger.register

    def late(self: Ledger, *said: object) -> bool:
        monkeypatch.setattr(Ledger, "register", register)
        register_data(north.vault, again(north).ledger(), lung)
        return register(self, *said)  # type: ignore[arg-type]

    monkeypatch.setattr(Ledger, "register", late)
    register_data(north.vault, ledger, heart)
    assert ledger.books().alike(heart.fingerprint) == {heart.fingerprint, lung.fingerprint}


def test_units_and_records_never_stand_in_the_ledger_or_the_register_in_the_clear(north: Safe) -> None:
    sealed(north, patients(4), "heart", ["ann", "ann", "bob", "cyd"])
    ask(north, "heart")
    objects = b"".join(path.read_bytes() for path in (north.folder / "objects").iterdir())
    with closing(SqliteRows(north.folder / "ledger.db")) as rows:
        content = rows.copied() + objects
    account = DataSet.open(north.vault, "heart").facts.fingerprint
    for word in ("heart", "noise_multiplier", account, "2026-"):
        assert word.encode() not in content


def test_a_budget_that_was_set_for_a_data_set_holds_for_its_successor(north: Safe, tmp_path: Path) -> None:
    imported(tmp_path, "heart", range(10), with_units=True)
    done("ledger", "budget", "set", "--data", "heart", "--epsilon", "1", "--delta", "1e-5", *ALLOWED)
    done("ledger", "budget", "set", "--epsilon", "100", "--delta", "1e-5", *ALLOWED)
    done("site", "shred", "heart", "--yes")
    imported(tmp_path, "heart2", range(12), with_units=True)
    with pytest.raises(BudgetExhausted, match="data set 'heart', for ever: epsilon 1 "):
        ask(north, "heart2")
    assert "which data set?" in refused("ledger", "plot", "--data", "nothing")


def test_books_know_the_newest_name(north: Safe) -> None:
    known = books(data(HEART, "heart"), data(LUNG, "lung", HEART), data(HEART, "cor", LUNG), asked(1, account=HEART))
    assert known.names[HEART] == "cor"
    assert known.accounts() == [HEART, LUNG]
