"""Kill -9 before any act on the disk, of every change of a safe: nothing is lost, and the change can be finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privacy.entries import BudgetSet, Opened, Rotated
from privacy.errors import EpochRetired, WrongKeyFile
from privacy.key_stores import KeyFileStore
from privacy.keys import KeyRing
from privacy.safe import Safe, key_settings
from privacy.vault import Label
from tests.privacy.vault_builders import (
    drafts,
    every_death,
    fill,
    key_file,
    nobody,
    object_file,
    opened,
    safe_in,
    unlocked,
)

OWN = Label("identity", "own")
HEART = Label("rows", "heart", 0)
BUDGET = BudgetSet(time="", account=None, epsilon=8.0, delta=1e-5, per_run=None, per_round=None, allow=["record"])


def copied(original: Path, number: int) -> Path:
    """A copy of a safe to kill somebody over; its key file is the original's."""
    return Path(shutil.copytree(original, original.with_name(f"{original.name}-{number}")))


def test_a_safe_whose_making_was_killed_is_whole_or_not_there_and_can_be_made_again(tmp_path: Path) -> None:
    keys = key_file(tmp_path / "keys/key")
    folder = tmp_path / "site"
    whole = 0
    for _ in every_death(lambda _: lambda: Safe.create(folder, "own", keys, nobody)):
        if folder.exists():
            whole += 1
        else:
            Safe.create(folder, "own", keys, nobody)
        safe = unlocked(folder)
        assert safe.identity().public() == safe.public_identity()
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
        files = ["identity.json", "keyring-1", "ledger.db", "objects", "safe.toml"]
        assert sorted(path.name for path in folder.iterdir()) == files
        (first,) = safe.ledger().entries()
        assert isinstance(first, Opened)
        assert (first.site, first.verifying) == ("own", safe.public_identity().verifying.hex())
        assert drafts(folder) == []
        shutil.rmtree(folder)
    assert whole == 1  # killed after the rename, before the last sync


def test_a_change_of_the_lock_killed_at_any_act_leaves_the_old_lock_or_the_new_and_every_object(
    tmp_path: Path,
) -> None:
    original = safe_in(tmp_path / "site")
    held = fill(original)
    old, new = (key_file(tmp_path / f"keys/{name}.key") for name in ("old", "new"))

    def change_of_the_lock(number: int) -> Callable[[], Any]:
        safe = unlocked(copied(original.folder, number))
        return lambda: safe.lock_with(new, nobody)

    names = []
    for number in every_death(change_of_the_lock):
        folder = tmp_path / f"site-{number}"
        assert key_settings(folder) in (old, new)
        now, other = (old, new) if key_settings(folder) == old else (new, old)
        names.append(now.path.stem)
        assert opened(unlocked(folder).vault) == held
        counted = folder / f"keyring-{1 if now == old else 2}"
        with pytest.raises(WrongKeyFile):
            KeyRing.open(counted, "own", KeyFileStore(other.path))
        unlocked(folder).lock_with(new, nobody)
        safe = unlocked(folder)
        assert key_settings(folder) == new
        assert opened(safe.vault) == held
        assert safe.identity().public() == safe.public_identity() == original.public_identity()
        assert len(list(folder.glob("*keyring-*"))) == 1
        assert drafts(folder) == []
    assert names == sorted(names, reverse=True)  # old, old, ... new, new: one instant at which it changes
    assert set(names) == {"old", "new"}


def test_resealing_killed_at_any_act_loses_no_object_and_goes_on(tmp_path: Path) -> None:
    original = safe_in(tmp_path / "site")
    held = fill(original)
    original.ledger().set_budget(BUDGET)
    entries = original.ledger().entries()

    def resealing(number: int) -> Callable[[], Any]:
        safe = unlocked(copied(original.folder, number))
        return lambda: list(safe.reseal())

    deaths = 0
    for number in every_death(resealing):
        folder = tmp_path / f"site-{number}"
        safe = unlocked(folder)
        assert opened(safe.vault) == held
        assert safe.ledger().entries()[:2] == entries
        assert list(safe.reseal()) == safe.vault.list() == sorted([*held, OWN])
        again = unlocked(folder)
        assert opened(again.vault) == held
        first, second, *rotated = again.ledger().entries()
        assert (first, second) == entries
        assert {type(entry) for entry in rotated} == {Rotated}
        assert again.identity().public() == original.public_identity()
        assert {scope: len(again.vault.keyring.living(scope)) for scope in again.vault.keyring.scopes()} == {
            "data/heart": 1,
            "data/lung": 1,
            "identity": 1,
            "ledger": 1,
            "model": 1,
        }
        assert drafts(folder) == []
        shutil.rmtree(folder)
        deaths += 1
    assert deaths > 40


def test_a_killed_shredding_can_be_finished_and_touches_no_other_data_set(tmp_path: Path) -> None:
    original = safe_in(tmp_path / "site")
    held = fill(original)
    copies = {label: object_file(original.vault, label).read_bytes() for label in held}
    kept = {label: plain for label, plain in held.items() if label.scope != "data/heart"}

    def shred(safe: Safe) -> None:
        with safe.changing() as vault:
            vault.shred("data/heart")

    def shredding(number: int) -> Callable[[], Any]:
        safe = unlocked(copied(original.folder, number))
        return lambda: shred(safe)

    for number in every_death(shredding):
        folder = tmp_path / f"site-{number}"
        shred(unlocked(folder))
        safe = unlocked(folder)
        assert opened(safe.vault) == kept
        object_file(safe.vault, HEART).write_bytes(copies[HEART])
        with pytest.raises(EpochRetired):
            safe.vault.open(HEART)
