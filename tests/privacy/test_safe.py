"""A safe appears whole, opens with the one lock that its settings name, and is changed by one process at a time."""

from __future__ import annotations

import errno
import random
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import (
    EpochRetired,
    FedSealError,
    IdentityRefused,
    KeyFileInvalid,
    KeyRefused,
    KeyringDamaged,
    ObjectDamaged,
    StorageBusy,
    StorageFailed,
    WrongKeyFile,
    WrongPassphrase,
)
from privacy.key_stores import KeyFileStore
from privacy.keys import KeyRing
from privacy.safe import Safe, is_safe, key_settings
from privacy.secret import Secret
from privacy.unlocking import KeyFileSettings, PassphraseSettings
from privacy.vault import Label
from tests.privacy.disk_builders import nth, recorded
from tests.privacy.vault_builders import (
    content,
    fill,
    flipped,
    key_file,
    mutated,
    nobody,
    object_file,
    opened,
    safe_in,
    unlocked,
    writable,
)

OWN = Label("identity", "own")
HEART = Label("rows", "heart", 0)
FILES = ["identity.json", "keyring-1", "ledger.db", "objects", "safe.toml"]


def test_a_new_safe_opens_with_its_key_and_knows_who_it_is(tmp_path: Path) -> None:
    made = safe_in(tmp_path / "home/site", "clinic-1")
    safe = unlocked(tmp_path / "home/site")
    assert (safe.name, is_safe(safe.folder)) == ("clinic-1", True)
    assert safe.vault.list() == [OWN]
    assert safe.identity().to_secret() == made.identity().to_secret()
    assert safe.identity().public() == safe.public_identity() == made.public_identity()
    assert safe.public_identity().name == "clinic-1"
    assert sorted(path.name for path in safe.folder.iterdir()) == FILES
    assert [path.name for path in (tmp_path / "home").iterdir() if path.name.startswith(".")] == []


def test_the_settings_of_a_safe_say_how_it_is_unlocked_and_hold_no_secret(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "site")
    path = tmp_path / "keys/old.key"
    assert tomllib.loads((safe.folder / "safe.toml").read_text()) == {
        "format": 1,
        "name": "own",
        "keyring": 1,
        "keys": {"store": "key-file", "path": str(path)},
    }
    assert key_settings(safe.folder) == KeyFileSettings(path=path)


@pytest.mark.parametrize("name", ['with "quotes"', "back\\slash", "new\nline", "tab\t", "schlüssel", "鍵", "a = b # c"])
def test_a_key_file_of_any_name_is_found_again(tmp_path: Path, name: str) -> None:
    Safe.create(tmp_path / "site", "own", key_file(tmp_path / name), nobody)
    assert key_settings(tmp_path / "site") == KeyFileSettings(path=tmp_path / name)
    assert unlocked(tmp_path / "site").name == "own"


def test_a_safe_in_an_empty_folder_is_private_whatever_the_folder_was(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir(mode=0o777)
    safe_in(tmp_path / "site")
    assert (tmp_path / "site").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_holds_something_is_never_made_a_safe(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/thesis.txt").write_text("years of work")
    with pytest.raises(StorageFailed, match="not empty: name a new folder"):
        safe_in(tmp_path / "site")
    safe_in(tmp_path / "other")
    with pytest.raises(StorageFailed, match="not empty"):
        safe_in(tmp_path / "other")
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["thesis.txt"]
    unlocked(tmp_path / "other").identity()


@pytest.mark.parametrize("name", ["", "Clinic", "a b", "../up", "a/b", "n" * 101, 'x"\nkeyring = 2'])
def test_a_name_that_could_be_mistaken_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyRefused, match="can't name a safe"):
        safe_in(tmp_path / "site", name)
    assert not (tmp_path / "site").exists()


def test_a_key_file_inside_the_folder_that_it_locks_is_refused(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "site")
    inside = [safe.folder / "key", safe.folder / "objects/key", tmp_path / "link"]
    KeyFileStore.create(safe.folder / "key")
    inside[2].symlink_to(safe.folder / "key")
    for path in inside:
        with pytest.raises(KeyFileInvalid, match="keep it on another volume"):
            safe.lock_with(KeyFileSettings(path=path), nobody)
        with pytest.raises(KeyFileInvalid, match="keep it on another volume"):
            Safe.create(safe.folder, "own", KeyFileSettings(path=path), nobody)
    unlocked(safe.folder).identity()


def test_a_passphrase_is_asked_for_only_where_the_safe_is_locked_by_one(tmp_path: Path) -> None:
    words, others = Secret(b"correct horse battery staple"), Secret(b"incorrect horse battery staple")
    Safe.create(tmp_path / "site", "own", PassphraseSettings(), lambda: words)
    safe = Safe.unlock(tmp_path / "site", lambda: words)
    assert safe.identity().public() == safe.public_identity()
    with pytest.raises(WrongPassphrase):
        Safe.unlock(safe.folder, lambda: others)
    safe.lock_with(key_file(tmp_path / "key"), nobody)
    assert unlocked(safe.folder).identity().public() == safe.public_identity()


def test_every_way_of_not_unlocking_has_a_name_of_its_own(tmp_path: Path) -> None:
    fill(safe_in(tmp_path / "site"))
    safe_in(tmp_path / "other", "other")  # the same key file, another owner
    site, key, keyring = tmp_path / "site", tmp_path / "keys/old.key", tmp_path / "site/keyring-1"
    honest = {path: path.read_bytes() for path in (key, keyring, site / "safe.toml")}

    def refused(error: type[FedSealError], change: Callable[[], Any], match: str) -> None:
        change()
        with pytest.raises(error, match=match) as caught:
            unlocked(site).vault.open(HEART)
        assert type(caught.value) is error
        for path, content_ in honest.items():
            path.write_bytes(content_)
            path.chmod(0o600)
        assert unlocked(site).vault.open(HEART) == content(20000)

    KeyFileStore.create(tmp_path / "keys/another.key")
    another = (tmp_path / "keys/another.key").read_bytes()
    refused(WrongKeyFile, lambda: key.write_bytes(another), "another key file, or the keyring was changed")
    refused(KeyFileInvalid, lambda: key.write_bytes(honest[key][:40]), "no key file of FedSeal, or was cut")
    refused(KeyFileInvalid, lambda: key.chmod(0o640), "can be read by others")
    refused(KeyFileInvalid, key.unlink, "can't be read")
    refused(KeyringDamaged, keyring.unlink, "can't be read")
    refused(WrongKeyFile, lambda: shutil.copy(tmp_path / "other/keyring-1", keyring), "the keyring was changed")
    refused(KeyringDamaged, (site / "safe.toml").unlink, "is no safe: it has no safe.toml")
    refused(KeyringDamaged, lambda: (site / "safe.toml").write_bytes(b"\xff"), "can't be read")
    renamed = honest[site / "safe.toml"].replace(b'"own"', b'"other"')
    refused(WrongKeyFile, lambda: (site / "safe.toml").write_bytes(renamed), "the keyring was changed")

    safe = unlocked(site)
    copy = object_file(safe.vault, HEART).read_bytes()
    safe.vault.shred("data/heart")
    object_file(safe.vault, HEART).write_bytes(copy)
    with pytest.raises(EpochRetired):
        unlocked(site).vault.open(HEART)


def test_the_identity_in_the_open_and_the_sealed_one_are_each_refused_when_damaged(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "site")
    (safe.folder / "identity.json").write_bytes(b"{}")
    with pytest.raises(IdentityRefused, match="no public identity"):
        safe.public_identity()
    (safe.folder / "identity.json").unlink()
    with pytest.raises(IdentityRefused, match="can't be read"):
        safe.public_identity()
    path = object_file(safe.vault, OWN)
    with writable(path) as handle, flipped(handle, path.stat().st_size - 1), pytest.raises(ObjectDamaged):
        safe.identity()


def test_a_safe_is_changed_by_one_process_at_a_time(tmp_path: Path) -> None:
    one = safe_in(tmp_path / "site")
    two = unlocked(one.folder)
    with one.changing() as vault:
        with pytest.raises(StorageBusy), two.changing():
            pytest.fail("two writers")
        with pytest.raises(StorageBusy):
            two.lock_with(key_file(tmp_path / "keys/new.key"), nobody)
        with pytest.raises(StorageBusy):
            list(two.reseal())
        assert two.identity().public() == one.public_identity()  # reading needs no lock
        vault.seal(HEART, [b"rows"])
    with two.changing() as vault:
        # 1 is the identity's and 2 the ledger's; and not 3 again: what the other process did is read first
        assert vault.keyring.begin("data/lung") == 4
    assert unlocked(one.folder).vault.open(HEART) == b"rows"


@pytest.mark.parametrize("name", ["write", "replace"])
def test_a_disk_that_fails_while_a_safe_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    keys = key_file(tmp_path / "keys/key")
    tape = recorded(monkeypatch)
    for number in range(100):
        tape.failing = nth(name, number, errno.ENOSPC)
        try:
            Safe.create(tmp_path / "site", "own", keys, nobody)
            break
        except StorageFailed:
            assert [path.name for path in tmp_path.iterdir()] == ["keys"]
    assert number >= 4
    unlocked(tmp_path / "site").identity()


def test_the_old_lock_opens_nothing_after_the_lock_was_changed(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "site")
    held = fill(safe)
    new = key_file(tmp_path / "keys/new.key")
    safe.lock_with(new, nobody)
    assert opened(safe.vault) == opened(unlocked(safe.folder).vault) == held
    assert sorted(path.name for path in safe.folder.glob("keyring-*")) == ["keyring-2"]
    with pytest.raises(WrongKeyFile):
        KeyRing.open(safe.folder / "keyring-2", "own", KeyFileStore(tmp_path / "keys/old.key"))
    with safe.changing() as vault:
        vault.seal(Label("rows", "new"), [b"after"])
    assert unlocked(safe.folder).vault.open(Label("rows", "new")) == b"after"


def test_a_new_lock_that_refuses_leaves_the_old_one(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "site")
    with pytest.raises(KeyFileInvalid):
        safe.lock_with(KeyFileSettings(path=tmp_path / "none"), nobody)
    unlocked(safe.folder).identity()


def test_after_resealing_no_old_copy_opens(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "site")
    held = fill(safe)
    copies = {label: object_file(safe.vault, label).read_bytes() for label in held}
    list(safe.reseal())
    assert opened(safe.vault) == held
    for label, copy in copies.items():
        object_file(safe.vault, label).write_bytes(copy)
        with pytest.raises(EpochRetired):
            unlocked(safe.folder).vault.open(label)


def test_the_keys_of_a_throw_away_safe_die_with_it(tmp_path: Path) -> None:
    safe = Safe.throw_away(tmp_path / "site", "own")
    safe.vault.seal(HEART, [b"rows"])
    assert safe.vault.open(HEART) == b"rows"
    assert [path.name for path in safe.folder.iterdir()] == ["rows.heart.0"]
    assert not is_safe(safe.folder)
    with pytest.raises(KeyringDamaged):
        Safe.throw_away(tmp_path / "site", "own").vault.open(HEART)


def test_ten_thousand_wounded_settings_open_the_same_safe_or_nothing(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "site")
    held = fill(safe)
    path, rng = safe.folder / "safe.toml", random.Random(6)
    honest = path.read_bytes()
    for _ in range(10_000):
        path.write_bytes(mutated(honest, rng))
        try:
            found = unlocked(safe.folder)
            assert (found.name, found.vault.open(HEART)) == ("own", held[HEART])
        except FedSealError:
            pass
