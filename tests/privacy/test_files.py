"""Power failures, kill -9, second writers, other users: a file is the old one or the new one, whole and private."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy import files
from privacy.errors import ObjectMissing, StorageBusy, StorageFailed
from privacy.vault import Label, Vault
from tests.privacy.disk_builders import Act, Tape, after_power_failure, prefixes, recorded, without
from tests.privacy.vault_builders import (
    ROWS,
    Hostage,
    content,
    drafts,
    in_child,
    object_file,
    safe_in,
    unlocked,
    vault_in,
)

OLD, NEW = b"the old content, longer than the new", b"the new content"


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Tape:
    return recorded(monkeypatch)


@pytest.mark.parametrize("old", [OLD, None])
def test_a_power_failure_at_any_instant_leaves_the_old_file_or_the_new(
    tmp_path: Path, tape: Tape, old: bytes | None
) -> None:
    target = tmp_path / "file"
    if old is not None:
        target.write_bytes(old)
    with files.replacing(target) as draft:
        for piece in (NEW[:4], NEW[4:5], NEW[5:]):
            draft.write(piece)
    for acts in prefixes(tape.acts):
        assert after_power_failure(acts, target, old) <= {old, NEW}
    assert after_power_failure(tape.acts, target, old) == {NEW}


def test_the_order_is_write_sync_rename_sync_the_folder(tmp_path: Path, tape: Tape) -> None:
    files.replace(tmp_path / "file", NEW)
    draft, folder = tape.acts[0].path, tmp_path
    assert [(act.name, act.path) for act in tape.acts] == [
        ("open", draft),
        ("write", draft),
        ("fsync", draft),
        ("close", draft),
        ("replace", draft),
        ("open", folder),
        ("fsync", folder),
        ("close", folder),
    ]
    assert draft.parent == folder


def test_a_missing_sync_would_be_found_by_these_tests(tmp_path: Path, tape: Tape) -> None:
    target = tmp_path / "file"
    files.replace(target, NEW)
    of_file, of_folder = (number for number, act in enumerate(tape.acts) if act.name == "fsync")

    torn = [state for acts in prefixes(without(tape.acts, of_file)) for state in after_power_failure(acts, target, OLD)]
    assert NEW[:3] in torn
    assert bytes(len(NEW)) in torn
    assert after_power_failure(without(tape.acts, of_folder), target, OLD) == {OLD, NEW}  # returned, and not durable

    too_late = [*tape.acts[:2], tape.acts[4], tape.acts[2], tape.acts[3], *tape.acts[5:]]
    assert NEW[:3] in {state for acts in prefixes(too_late) for state in after_power_failure(acts, target, OLD)}

    in_place = [Act("write", target, NEW), Act("fsync", target)]
    assert NEW[:3] in {state for acts in prefixes(in_place) for state in after_power_failure(acts, target, OLD)}


def test_a_power_failure_at_any_instant_leaves_an_object_that_opens(tmp_path: Path, tape: Tape) -> None:
    vault = Vault(tmp_path / "vault", vault_in(tmp_path).keyring)
    vault.seal(ROWS, [OLD])
    path = object_file(vault, ROWS)
    old = path.read_bytes()
    tape.acts.clear()
    vault.seal(ROWS, [NEW[:7], NEW[7:]])
    states = {state for acts in prefixes(tape.acts) for state in after_power_failure(acts, path, old)}
    assert None not in states
    held = []
    for state in states:
        path.write_bytes(state or b"")
        held.append(bytes(vault.open(ROWS)))
    assert sorted(held) == sorted([OLD, NEW])


def test_a_first_object_is_there_whole_or_not_at_all(tmp_path: Path, tape: Tape) -> None:
    vault = Vault(tmp_path / "vault", vault_in(tmp_path).keyring)
    files.make_folder(vault.folder)
    tape.acts.clear()
    vault.seal(ROWS, [NEW])
    path = object_file(vault, ROWS)
    whole = path.read_bytes()
    for acts in prefixes(tape.acts):
        assert after_power_failure(acts, path, None) <= {None, whole}
    path.unlink()
    with pytest.raises(ObjectMissing):
        vault.open(ROWS)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: files.remove(folder / "gone"),
        lambda folder: files.make_folder(folder / "new"),
        lambda folder: files.remove_folder(folder / "full"),
        lambda folder: files.move(folder / "full", folder / "new"),
    ],
    ids=["remove", "make_folder", "remove_folder", "move"],
)
def test_a_change_of_names_is_durable_when_it_returns(
    tmp_path: Path, tape: Tape, change: Callable[[Path], None]
) -> None:
    (tmp_path / "gone").write_bytes(b"")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_bytes(b"")
    before = sorted(os.listdir(tmp_path))
    change(tmp_path)
    assert sorted(os.listdir(tmp_path)) != before
    assert [(act.name, act.path) for act in tape.acts[-3:]] == [
        ("open", tmp_path),
        ("fsync", tmp_path),
        ("close", tmp_path),
    ]


def test_every_new_parent_folder_is_synced_into_its_own_parent(tmp_path: Path, tape: Tape) -> None:
    files.make_folder(tmp_path / "a/b/c")
    synced = [os.path.relpath(act.path, tmp_path) for act in tape.acts if act.name == "fsync"]
    assert synced == [".", "a", "a/b"]


def half_written(draft: files.Draft) -> None:
    draft.write(NEW[:5])
    raise ZeroDivisionError


def test_a_block_that_fails_changes_nothing(tmp_path: Path) -> None:
    for replacing in (files.replacing, files.writing):
        (tmp_path / "file").write_bytes(OLD)
        with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as draft:
            half_written(draft)
        assert (tmp_path / "file").read_bytes() == OLD
        assert drafts(tmp_path) == []


def test_kill_9_while_writing_leaves_a_complete_object_no_older_than_the_last_finished(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "site")
    label = Label("model", "round")
    with safe.changing() as vault:
        vault.seal(label, [bytes(50000)])

    def write_for_ever(report: Callable[[], None]) -> None:
        with safe.changing() as vault:
            for number in range(1, 10**6):
                vault.seal(label, [number.to_bytes(4, "big") * 12500])
                report()

    for kill in range(20):
        writer = Hostage(write_for_ever)
        writer.wait_for(1 + kill % 5)
        for _ in range(kill * 997):
            pass  # so that the kill falls at another instant of the next object
        finished = 1 + kill % 5 + writer.kill()
        held = bytes(unlocked(safe.folder).vault.open(label))
        number = int.from_bytes(held[:4], "big")
        assert held == number.to_bytes(4, "big") * 12500
        assert number in (finished, finished + 1)
    with safe.changing() as vault:
        assert drafts(safe.folder) == []
        assert len(vault.open(label)) == 50000


def test_what_a_killed_writer_left_behind_is_swept_by_the_next(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "site")

    def die_writing() -> None:
        with safe.changing() as vault, vault.sealing(ROWS) as sealer:
            sealer.write(content(50000))
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die_writing) == -signal.SIGKILL
    assert len(drafts(safe.folder)) == 1
    assert safe.vault.list("rows") == []
    with safe.changing() as vault:
        assert drafts(safe.folder) == []
        assert vault.list("rows") == []


def test_a_second_writer_is_told_that_the_folder_is_busy_until_the_first_is_killed(tmp_path: Path) -> None:
    def hold(report: Callable[[], None]) -> None:
        with files.locked(tmp_path):
            report()
            signal.pause()

    holder = Hostage(hold)
    holder.wait_for(1)
    with pytest.raises(StorageBusy, match="being changed by another process"), files.locked(tmp_path):
        pytest.fail("two writers at once")
    holder.kill()
    with files.locked(tmp_path):
        assert in_child(lambda: files.locked(tmp_path).__enter__()) == 1


def test_a_lock_is_released_when_its_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.locked(tmp_path):
        raise ZeroDivisionError
    with files.locked(tmp_path), pytest.raises(StorageBusy), files.locked(tmp_path):
        pytest.fail("locked twice")


def test_only_the_owner_may_enter_or_read_whatever_the_umask_is(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        safe = safe_in(tmp_path / "home/site")
        modes = []
        ledger = safe.ledger()
        with safe.changing() as vault, vault.sealing(ROWS) as sealer:
            sealer.write(b"half")
            ledger.reseal()
            modes = [(path.is_dir(), path.stat().st_mode) for path in (tmp_path / "home").rglob("*")]
    finally:
        os.umask(umask)
    # keys and its file, site, objects, lock, settings, keyring, both identities, a draft, the ledger's three files
    assert len(modes) == 13
    for folder, mode in modes:
        assert stat.S_IMODE(mode) == (0o700 if folder else 0o600)
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_a_folder_that_can_not_be_made_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for act in (
        lambda: files.make_folder(tmp_path / "file/folder"),
        lambda: files.replace(tmp_path / "nowhere/file", b""),
        lambda: files.move(tmp_path / "nowhere", tmp_path / "there"),
        lambda: files.remove_folder(tmp_path / "nowhere"),
        lambda: files.locked(tmp_path / "nowhere").__enter__(),
    ):
        with pytest.raises(StorageFailed, match=str(tmp_path)):
            act()
    files.remove(tmp_path / "nothing")
