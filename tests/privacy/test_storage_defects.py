"""Defects that attacks found in files, keys, vaults and safes: each stays mended."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from pathlib import Path

import pytest

from privacy import files
from privacy.errors import FedSealError, IdentityRefused, KeyRefused, KeyringDamaged, ObjectDamaged, StorageFailed
from privacy.identity import PublicIdentity
from privacy.key_stores import KeyFileStore, PassphraseStore
from privacy.keys import KeyRing
from privacy.passphrases import from_descriptor
from privacy.safe import Safe
from privacy.secret import Secret
from privacy.vault import Label
from tests.privacy.disk_builders import nth, recorded
from tests.privacy.vault_builders import (
    CHEAP,
    MemoryStore,
    fill,
    flipped,
    in_child,
    key_file,
    killed_before_act,
    nobody,
    object_file,
    safe_in,
    vault_in,
    writable,
)

HEART = Label("rows", "heart", 0)
NEW_ROWS = Label("rows", "new")


def unlocked(folder: Path) -> Safe:
    return Safe.unlock(folder, nobody)


def test_a_lock_that_the_disk_refused_to_change_loses_no_object_sealed_later(tmp_path, monkeypatch):
    safe = safe_in(tmp_path / "site")
    new = key_file(tmp_path / "keys/new.key")
    with monkeypatch.context() as patch:
        tape = recorded(patch)
        tape.failing = nth("replace", 1, errno.ENOSPC)  # the keyring is written, safe.toml is not
        with pytest.raises(StorageFailed):
            safe.lock_with(new, nobody)
    with safe.changing() as vault:
        vault.seal(NEW_ROWS, [b"rows"])
    assert unlocked(safe.folder).vault.open(NEW_ROWS) == b"rows"


@pytest.mark.parametrize("settings_written", [False, True])
def test_after_a_killed_change_of_the_lock_shredding_still_deletes_every_copy_of_the_key(tmp_path, settings_written):
    safe = safe_in(tmp_path / "site")
    fill(safe)
    copy = object_file(safe.vault, HEART).read_bytes()
    new = key_file(tmp_path / "keys/new.key")
    # acts: 0-3 keyring-2, 4-7 safe.toml, 8-9 remove keyring-1
    assert killed_before_act(8 if settings_written else 4, lambda: safe.lock_with(new, nobody))
    now = unlocked(safe.folder)
    with now.changing() as vault:
        vault.shred("data/heart")
    object_file(now.vault, HEART).write_bytes(copy)
    for path in safe.folder.glob("keyring-*"):
        for key in (tmp_path / "keys/old.key", new.path):
            try:
                now.vault.keyring = KeyRing.open(path, "own", KeyFileStore(key))
            except KeyRefused:
                continue
            with pytest.raises(KeyRefused):
                now.vault.open(HEART)


def test_a_safe_unlocked_before_the_lock_changed_does_not_write_into_the_old_keyring(tmp_path):
    running = safe_in(tmp_path / "site")
    other = unlocked(running.folder)
    new = key_file(tmp_path / "keys/new.key")
    assert killed_before_act(8, lambda: other.lock_with(new, nobody))
    try:
        with running.changing() as vault:
            vault.seal(NEW_ROWS, [b"rows"])
    except FedSealError:
        return  # a refusal is fine
    assert unlocked(running.folder).vault.open(NEW_ROWS) == b"rows"


def test_a_safe_unlocked_before_the_lock_changed_is_told_to_unlock_again(tmp_path):
    running = safe_in(tmp_path / "site")
    unlocked(running.folder).lock_with(key_file(tmp_path / "keys/new.key"), nobody)
    with pytest.raises(KeyRefused) as error, running.changing():
        pass
    assert "restore it from a backup" not in str(error.value)


def test_resealing_goes_on_after_a_killed_shredding(tmp_path):
    safe = safe_in(tmp_path / "site")
    held = fill(safe)
    kept = {label for label in held if label.scope != "data/heart"}

    def shred():
        with safe.changing() as vault:
            vault.shred("data/heart")

    assert killed_before_act(5, shred)  # the keys are gone, the objects' files are not
    now = unlocked(safe.folder)
    assert kept < set(now.reseal())


def test_a_safe_whose_folder_can_not_be_synced_is_told_so(tmp_path, monkeypatch):
    keys = key_file(tmp_path / "keys/key")
    tape = recorded(monkeypatch)
    Safe.create(tmp_path / "another", "own", keys, nobody)
    syncs = tape.names().count("fsync")
    assert syncs > 12
    tape.failing = nth("fsync", syncs - 1, errno.EIO)  # the last: of the parent folder, after the rename
    with pytest.raises(StorageFailed) as error:
        Safe.create(tmp_path / "site", "own", keys, nobody)
    assert tape.names().count("fsync") == 2 * syncs
    there = (tmp_path / "site").exists()
    assert not there or "may or may not survive" in str(error.value)


@pytest.mark.parametrize("line", ["format = 2", "format = 0", "format = true", 'format = "1"'])
def test_a_safe_of_another_format_is_refused(tmp_path, line):
    safe = safe_in(tmp_path / "site")
    path = safe.folder / "safe.toml"
    path.write_text(path.read_text().replace("format = 1", line))
    with pytest.raises(KeyringDamaged):
        unlocked(safe.folder)


@pytest.mark.parametrize("name", ["k\x7f", os.fsdecode(b"k\xff")])
def test_a_key_file_whose_name_toml_can_not_say_is_refused_before_anything_changes(tmp_path, name):
    safe = safe_in(tmp_path / "site")
    with pytest.raises(FedSealError):
        safe.lock_with(key_file(tmp_path / name), nobody)
    unlocked(safe.folder).identity()


@pytest.mark.parametrize("text", ["a = " + "[" * 10000, '[keys]\nstore = "key-file"\npath = "/k\\u0000"'])
def test_settings_that_no_parser_likes_are_damage(tmp_path, text):
    safe = safe_in(tmp_path / "site")
    (safe.folder / "safe.toml").write_text(f'format = 1\nname = "own"\nkeyring = 1\n{text}\n')
    with pytest.raises(KeyRefused):
        unlocked(safe.folder)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        json.dumps({"keys": "00" * 1248, "name": "\ud800"}),
        json.dumps({"keys": "00" * 1248, "name": None}),
        json.dumps({"keys": "00" * 1248, "name": "x\x1b[2J\n"}),
        json.dumps({"keys": "00" * 1248, "name": "own"}),
        json.dumps({"keys": "ff" * 1248, "name": "own"}),
    ],
    ids=["deep", "surrogate", "null", "escape", "zero keys", "no ML-KEM key"],
)
def test_a_public_identity_that_can_not_be_used_is_refused(text):
    with pytest.raises(IdentityRefused):
        PublicIdentity.from_json(text)


def test_a_folder_in_an_objects_place_is_damage(tmp_path):
    vault = vault_in(tmp_path / "vault")
    object_file(vault, HEART).mkdir(parents=True)
    for open_ in (vault.open, lambda label: vault.read(label, 0, 1)):
        with pytest.raises(FedSealError):
            open_(HEART)


def test_an_object_made_absurdly_long_is_damage_and_asks_for_no_memory(tmp_path):
    vault = vault_in(tmp_path / "vault")
    vault.seal(HEART, [b"rows"])
    os.truncate(object_file(vault, HEART), 12 * 2**40)
    with pytest.raises(ObjectDamaged):
        vault.open(HEART)


@pytest.mark.parametrize("call", ["readv", "pread", "read"])
def test_a_disk_that_fails_while_an_object_is_read_is_told(tmp_path, monkeypatch, call):
    vault = vault_in(tmp_path / "vault")
    vault.seal(HEART, [b"rows"])

    def failing(*rest):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(StorageFailed):
            vault.read(HEART, 0, 1) if call == "pread" else vault.open(HEART)


def test_the_size_of_a_missing_object_is_missing(tmp_path):
    with pytest.raises(FedSealError):
        vault_in(tmp_path / "vault").sealed_bytes(HEART)


def test_a_folder_that_can_not_be_opened_to_sync_it_is_told(tmp_path, monkeypatch):
    real = os.open

    def no_handles(path, flags, *rest, **options):
        if flags & os.O_DIRECTORY:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", no_handles)
    with pytest.raises(StorageFailed, match="may or may not survive"):
        files.replace(tmp_path / "file", b"new")


def test_a_removal_that_could_not_be_synced_does_not_say_that_nothing_was_changed(tmp_path, monkeypatch):
    real = os.open
    (tmp_path / "file").write_bytes(b"")

    def no_handles(path, flags, *rest, **options):
        if flags & os.O_DIRECTORY:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", no_handles)
    with pytest.raises(StorageFailed) as error:
        files.remove(tmp_path / "file")
    assert (tmp_path / "file").exists() or "nothing was changed" not in str(error.value)


class ShortStore(MemoryStore):
    def unwrap(self, blob, context):
        return Secret(super().unwrap(blob, context).reveal()[:-1])


def test_a_ring_key_of_a_wrong_length_is_refused(tmp_path):
    store = ShortStore()
    KeyRing.create(tmp_path / "keyring", "own", store)
    with pytest.raises(FedSealError):
        KeyRing.open(tmp_path / "keyring", "own", store)


def test_the_identity_in_the_open_can_not_be_swapped_unnoticed(tmp_path):
    safe, other = safe_in(tmp_path / "site"), safe_in(tmp_path / "other", "other")
    (safe.folder / "identity.json").write_bytes((other.folder / "identity.json").read_bytes())
    with pytest.raises(IdentityRefused):
        unlocked(safe.folder).public_identity()


def test_an_argon2_cost_beyond_this_machines_memory_is_refused(tmp_path):
    blob = bytearray(PassphraseStore(Secret(b"words"), CHEAP).wrap(Secret.random(), b""))
    blob[11:15] = (4 * 1024 * 1024).to_bytes(4, "big")

    def attempt():
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        try:
            PassphraseStore(Secret(b"words")).unwrap(bytes(blob), b"")
        except FedSealError:
            os._exit(7)
        except BaseException as error:
            print(repr(error))
            os._exit(8)

    assert in_child(attempt) == 7


def test_an_interrupted_change_of_the_keyring_did_not_happen(tmp_path, monkeypatch):
    store = MemoryStore()
    ring = KeyRing.create(tmp_path / "keyring", "own", store)

    def interrupted(handle):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ring.begin("model")
    assert ring.living("model") == KeyRing.open(tmp_path / "keyring", "own", store).living("model")


def test_a_folder_named_like_a_draft_does_not_stop_every_change(tmp_path):
    safe = safe_in(tmp_path / "site")
    (safe.folder / ".x.draft").mkdir()
    fill(safe)
    assert (safe.folder / ".x.draft").is_dir()


def test_the_folder_one_stands_in_can_be_made_a_safe(tmp_path, monkeypatch):
    keys = key_file(tmp_path / "keys/key")
    (tmp_path / "site").mkdir()
    monkeypatch.chdir(tmp_path / "site")
    Safe.create(Path("."), "own", keys, nobody)  # `fedseal site init .`
    unlocked(tmp_path / "site").identity()


def test_an_object_whose_head_names_a_retired_epoch_of_another_scope_is_damaged_and_not_deleted(tmp_path):
    safe = safe_in(tmp_path / "north", "north")  # epoch 1: identity
    model = Label("model", "hearts", 3)
    with safe.changing() as vault:
        vault.seal(model, [b"weights"])  # epoch 2
        vault.seal(HEART, [b"rows"])  # epoch 3
        vault.shred("data/heart")
    with writable(object_file(safe.vault, model)) as handle, flipped(handle, 11):  # 2 -> 3
        with unlocked(safe.folder).changing():
            pass
        assert unlocked(safe.folder).vault.list("model") == [model]
    assert unlocked(safe.folder).vault.open(model) == b"weights"


def test_a_passphrase_on_a_pipe_that_stays_open_is_not_waited_for():
    reader, writer = os.pipe()
    os.write(writer, b"four random words here\n")

    def impatient():
        signal.alarm(5)
        assert from_descriptor(reader).reveal() == b"four random words here"

    try:
        assert in_child(impatient) == 0  # -14 would be the alarm
    finally:
        os.close(reader)
        os.close(writer)
