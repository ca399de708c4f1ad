"""Full disks and failing disks: what was there stands, the refusal says what to do, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from privacy import files
from privacy.errors import StorageFailed
from privacy.vault import Vault
from tests.privacy.disk_builders import Tape, never, nth, recorded
from tests.privacy.vault_builders import ROWS, content, drafts, object_file, vault_in

OLD, NEW = b"the old content, longer than the new", b"the new content"


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Tape:
    return recorded(monkeypatch)


def assert_refused_and_unchanged(vault: Vault, new: bytes, remedy: str) -> None:
    path = object_file(vault, ROWS)
    with pytest.raises(StorageFailed, match=remedy) as error:
        vault.seal(ROWS, [new[:20000], new[20000:]])
    assert str(path) in str(error.value)
    assert "nothing was changed" in str(error.value)
    assert bytes(vault.open(ROWS)) == OLD
    assert drafts(vault.folder) == []


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "disk is full: make room"),
        (errno.EDQUOT, "quota is used up"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "disk reports an error: check it"),
        (errno.EPERM, "permission is denied"),
        (errno.ENOLCK, "the system says: No locks available"),
    ],
)
@pytest.mark.parametrize("number", range(4))
def test_a_disk_that_fails_at_any_write_changes_nothing(
    tmp_path: Path, tape: Tape, number: int, code: int, remedy: str
) -> None:
    vault = Vault(tmp_path / "vault", vault_in(tmp_path).keyring)
    vault.seal(ROWS, [OLD])
    tape.acts.clear()
    tape.failing = nth("write", number, code)
    assert_refused_and_unchanged(vault, content(50000), remedy)
    assert tape.names().count("write") == number + 1
    tape.failing = never
    vault.seal(ROWS, [content(50000)])
    assert vault.open(ROWS) == content(50000)


@pytest.mark.parametrize("name", ["fsync", "close", "replace"])
def test_a_disk_that_fails_at_the_end_changes_nothing_and_the_handle_is_given_up(
    tmp_path: Path, tape: Tape, name: str
) -> None:
    vault = Vault(tmp_path / "vault", vault_in(tmp_path).keyring)
    vault.seal(ROWS, [OLD])
    tape.acts.clear()
    tape.failing = nth(name, 0, errno.EIO)
    assert_refused_and_unchanged(vault, NEW, "disk reports an error")
    assert tape.names().count("fsync") == 1
    tape.failing = never
    vault.seal(ROWS, [NEW])
    assert vault.open(ROWS) == NEW


def test_after_a_failed_sync_the_draft_is_only_closed(tmp_path: Path, tape: Tape) -> None:
    (tmp_path / "file").write_bytes(OLD)
    tape.failing = nth("fsync", 0, errno.EIO)
    with pytest.raises(StorageFailed):
        files.replace(tmp_path / "file", NEW)
    failed = tape.names().index("fsync")
    assert tape.names()[failed + 1 :] == ["close"]


def test_a_failed_sync_of_the_folder_says_that_the_new_file_may_not_last(tmp_path: Path, tape: Tape) -> None:
    target = tmp_path / "file"
    target.write_bytes(OLD)
    tape.failing = nth("fsync", 1, errno.EIO)
    with pytest.raises(StorageFailed, match="may or may not survive a power failure"):
        files.replace(target, NEW)
    assert target.read_bytes() == NEW
    assert drafts(tmp_path) == []


def test_a_short_write_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(data[:7])))
    files.replace(tmp_path / "file", content(100))
    assert (tmp_path / "file").read_bytes() == content(100)


@contextmanager
def largest_file(length: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("length", [0, 1, 12, 13, 20000, 50131])
def test_a_file_size_limit_changes_nothing(tmp_path: Path, length: int) -> None:
    vault = Vault(tmp_path / "vault", vault_in(tmp_path).keyring)
    vault.seal(ROWS, [OLD])
    with largest_file(length):
        assert_refused_and_unchanged(vault, content(50000), "size limit")
    with largest_file(50132):
        vault.seal(ROWS, [content(50000)])
    assert vault.open(ROWS) == content(50000)


def test_a_full_file_system_changes_nothing_and_takes_the_object_once_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mount.returncode:
        pytest.skip("only root may mount a small file system")
    try:
        vault = Vault(disk / "vault", vault_in(tmp_path).keyring)
        vault.seal(ROWS, [OLD])
        (disk / "ballast").write_bytes(bytes(900 * 1024))
        assert_refused_and_unchanged(vault, content(400_000), "disk is full: make room")
        (disk / "ballast").unlink()
        vault.seal(ROWS, [content(400_000)])
        assert vault.open(ROWS) == content(400_000)
    finally:
        subprocess.run(["umount", disk], check=True)
