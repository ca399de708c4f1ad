"""A backup restores to the same safe or to nothing: flipped, cut and hostile files, taken folders, busy safes."""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import sqlite3
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from clients.backup import back_up, restore
from clients.budgets import read_budget
from clients.data import DataSet
from clients.verifying import checked
from privacy import files
from privacy.errors import (
    DataInvalid,
    FedSealError,
    IdentityRefused,
    LedgerCorrupt,
    LedgerRolledBack,
    ObjectDamaged,
    StorageBusy,
    StorageFailed,
    WrongKeyFile,
    WrongPassphrase,
)
from privacy.key_stores import PassphraseStore
from privacy.passphrases import from_descriptor
from privacy.safe import Safe, key_settings
from privacy.secret import Secret
from privacy.vault import Label
from tests.client_builders import GENEROUS
from tests.clients.data_builders import again, besides_ledger, on_disk, patients, pipe, records_a_shard, same, sealed
from tests.privacy.disk_builders import never, nth, recorded
from tests.privacy.vault_builders import CHEAP, Hostage, key_file, nobody, object_file, opened, safe_in


@pytest.fixture
def safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Safe:
    """A site with a data set of three shards and a model."""
    records_a_shard(monkeypatch, 3, 16)
    made = safe_in(tmp_path / "north", "north")
    sealed(made, patients(7))
    with made.changing() as vault:
        vault.seal(Label("model", "hearts-17", 3), [b"weights"])
    return made


def backed_up(safe: Safe, name: str = "north.tar") -> Path:
    target = safe.folder.parent / "elsewhere" / name
    back_up(safe.folder, target)
    return target


def restored(source: Path, folder: Path) -> Safe:
    """The safe that was restored, unlocked as by the next command."""
    name, behind = restore(source, folder, nobody)
    found = Safe.unlock(folder, nobody)
    assert (found.name, behind) == (name, False)
    return found


def says(safe: Safe) -> list[object]:
    """All that a safe is: whose, how it is unlocked, what it holds, what it has spent."""
    identities = [safe.identity().public(), safe.public_identity()]
    return [safe.name, key_settings(safe.folder), opened(safe.vault), safe.ledger().entries(), *identities]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(source: Path, *errors: type[FedSealError]) -> str:
    """Why the backup is refused; nothing may be left of the attempt."""
    folder = source.parent.parent
    before = left(folder), left(source.parent)
    with pytest.raises(errors or FedSealError) as error:
        restore(source, folder / "again", nobody)
    assert (left(folder), left(source.parent)) == before
    return str(error.value)


def test_what_was_backed_up_comes_back(safe: Safe, tmp_path: Path) -> None:
    source = backed_up(safe)
    found = restored(source, tmp_path / "again")
    assert found.name == "north"
    assert besides_ledger(found.folder) == besides_ledger(safe.folder)
    assert says(found) == says(safe) == says(again(found))
    assert same(DataSet.open(found.vault, "heart").read(), patients(7))
    assert all(not each.problem for each in checked(found.vault))


def members(source: Path) -> list[str]:
    with tarfile.open(source) as archive:
        return archive.getnames()


def test_a_ledger_that_a_running_site_holds_open_is_backed_up_whole(safe: Safe, tmp_path: Path) -> None:
    ledger = safe.ledger()
    ledger.set_budget(read_budget(GENEROUS))
    assert (safe.folder / "ledger.db-wal").exists()  # the newest entries are not in ledger.db yet
    source = backed_up(safe)
    assert [name for name in members(source) if "ledger" in name] == ["ledger.db"]
    assert restored(source, tmp_path / "again").ledger().entries() == ledger.entries()


def test_a_backup_while_the_ledger_grows_holds_a_whole_beginning_of_it(safe: Safe, tmp_path: Path) -> None:
    def grow(report: Callable[[], None]) -> None:
        ledger = again(safe).ledger()
        while True:
            for _ in range(30):
                ledger.set_budget(read_budget(GENEROUS))
            report()
            with closing(sqlite3.connect(safe.folder / "ledger.db")) as other:
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    writer = Hostage(grow)
    sizes = []
    for number in range(20):
        writer.wait_for(1)
        found = restored(backed_up(safe, f"{number}.tar"), tmp_path / f"again-{number}").ledger()
        sizes.append(len(found.entries()))
        assert found.entries() == safe.ledger().entries()[: sizes[-1]]
    writer.kill()
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_a_ledger_that_is_behind_its_anchor_is_restored_and_told_and_allows_nothing(safe: Safe, tmp_path: Path) -> None:
    safe.anchor_at(tmp_path / "usb/anchor")
    source = backed_up(safe)
    assert restored(source, tmp_path / "level").ledger().entries() == safe.ledger().entries()
    again(safe).ledger().set_budget(read_budget(GENEROUS))
    assert restore(source, tmp_path / "older", nobody) == ("north", True)
    with pytest.raises(LedgerRolledBack, match="an older copy"):
        Safe.unlock(tmp_path / "older", nobody).ledger().set_budget(read_budget(GENEROUS))
    (tmp_path / "usb/anchor").unlink()
    assert restore(source, tmp_path / "lost", nobody) == ("north", True)


def test_a_backup_whose_ledger_was_changed_is_refused(safe: Safe) -> None:
    safe.ledger().set_budget(read_budget(GENEROUS))
    with closing(sqlite3.connect(safe.folder / "ledger.db")) as rows:
        rows.execute("DELETE FROM entry WHERE i = 1")
        rows.commit()
    assert "do not agree with its own head" in refused(backed_up(safe), LedgerCorrupt)


def test_a_backup_without_its_ledger_is_refused(safe: Safe) -> None:
    (safe.folder / "ledger.db").unlink()
    assert "ledger.db is missing" in refused(backed_up(safe), LedgerCorrupt)


def test_a_ledger_that_can_not_be_copied_leaves_no_backup(safe: Safe) -> None:
    (safe.folder / "ledger.db").write_bytes(b"no database" * 100)
    with pytest.raises(LedgerCorrupt, match="damaged, or no ledger"):
        backed_up(safe)
    assert left(safe.folder.parent / "elsewhere") == []


def test_a_backup_brings_back_what_was_shredded_and_deleted_after_it(safe: Safe, tmp_path: Path) -> None:
    source = backed_up(safe)
    with safe.changing() as vault:
        vault.shred("data/heart")
    for path in safe.folder.rglob("*"):
        if path.is_file():
            path.unlink()
    assert same(DataSet.open(restored(source, tmp_path / "again").vault, "heart").read(), patients(7))


def test_a_restored_safe_can_be_changed_and_restored_into_a_new_home(safe: Safe, tmp_path: Path) -> None:
    found = restored(backed_up(safe), tmp_path / "deep" / "new" / "home")
    sealed(found, patients(2), "lung")
    assert same(DataSet.open(again(found).vault, "lung").read(), patients(2))


def test_a_backup_is_as_sealed_and_as_private_as_the_safe(safe: Safe) -> None:
    source = backed_up(safe)
    held = source.read_bytes()
    assert stat.S_IMODE(source.stat().st_mode) == 0o600
    for secret in (
        b"weights",
        patients(7)["x"][5].numpy().tobytes(),
        (safe.folder.parent / "keys/old.key").read_bytes(),
    ):
        assert secret not in held
    with tarfile.open(source) as archive:
        assert {(member.uid, member.gid, member.uname, member.gname) for member in archive} == {(0, 0, "", "")}


def test_no_lock_and_no_draft_of_a_killed_writer_is_backed_up(safe: Safe) -> None:
    draft = safe.vault.folder / ".rows.heart.9.0123456789abcdef.draft"
    draft.write_bytes(b"half an object")
    with tarfile.open(backed_up(safe)) as archive:
        assert sorted(archive.getnames()) == sorted(on_disk(safe.folder))
    assert not draft.exists()


def test_a_backup_needs_no_key(safe: Safe) -> None:
    (safe.folder.parent / "keys/old.key").unlink()
    assert backed_up(safe).stat().st_size > 0


def test_a_backup_tells_its_size(safe: Safe, tmp_path: Path) -> None:
    assert back_up(safe.folder, tmp_path / "north.tar") == (tmp_path / "north.tar").stat().st_size


def test_a_backup_never_overwrites_a_file(safe: Safe) -> None:
    source = backed_up(safe)
    held = source.read_bytes()
    with pytest.raises(DataInvalid, match="is there already"):
        backed_up(safe)
    assert source.read_bytes() == held


@pytest.mark.parametrize("inside", ["north.tar", "objects/north.tar", "new/folder/north.tar", "objects/../north.tar"])
def test_a_backup_inside_of_what_it_backs_up_is_refused(safe: Safe, inside: str) -> None:
    before = on_disk(safe.folder)
    with pytest.raises(DataInvalid, match="inside of what is backed up"):
        back_up(safe.folder, safe.folder / inside)
    assert on_disk(safe.folder) == before
    assert not (safe.folder / "new").exists()


def test_a_backup_through_a_link_into_the_safe_is_refused(safe: Safe, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(safe.folder / "objects")
    with pytest.raises(DataInvalid):
        back_up(safe.folder, tmp_path / "link/north.tar")


def test_while_the_safe_is_being_changed_it_is_not_backed_up(safe: Safe, tmp_path: Path) -> None:
    def change(report: Callable[[], None]) -> None:
        with files.locked(safe.folder):
            report()
            signal.pause()

    writer = Hostage(change)
    writer.wait_for(1)
    with pytest.raises(StorageBusy):
        back_up(safe.folder, tmp_path / "north.tar")
    writer.kill()
    assert not (tmp_path / "north.tar").exists()
    back_up(safe.folder, tmp_path / "north.tar")


@pytest.mark.parametrize("act", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_no_half_backup(
    safe: Safe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    tape = recorded(monkeypatch)
    tape.failing = nth(act, 0, errno.ENOSPC)
    with pytest.raises(StorageFailed, match="make room"):
        backed_up(safe)
    assert left(tmp_path / "elsewhere") == []
    tape.failing = never
    backed_up(safe)


def test_an_existing_folder_is_never_restored_over(safe: Safe, tmp_path: Path) -> None:
    source = backed_up(safe)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("precious")
    before = on_disk(tmp_path)
    for taken in (safe.folder, tmp_path / "empty", tmp_path / "file", source):
        with pytest.raises(StorageFailed, match="is there already"):
            restore(source, taken, nobody)
    assert on_disk(tmp_path) == before


@pytest.mark.parametrize("act", ["write", "fsync", "replace"])
@pytest.mark.parametrize("number", [0, 3, 8])
def test_a_disk_that_fails_while_restoring_leaves_nothing(
    safe: Safe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, number: int
) -> None:
    source = backed_up(safe)
    tape = recorded(monkeypatch)
    tape.failing = nth(act, number, errno.ENOSPC)
    before = left(tmp_path)
    with pytest.raises(StorageFailed):
        restore(source, tmp_path / "again", nobody)
    assert [name for name in left(tmp_path) if name != ".again.new"] == before
    tape.failing = never
    assert says(restored(source, tmp_path / "again")) == says(safe)
    assert ".again.new" not in left(tmp_path)


def test_a_backup_does_not_open_with_another_key(safe: Safe, tmp_path: Path) -> None:
    source = backed_up(safe)
    (tmp_path / "keys/old.key").write_bytes(key_file(tmp_path / "keys/new.key").path.read_bytes())
    refused(source, WrongKeyFile)


def test_a_backup_opens_with_its_passphrase_and_no_other(safe: Safe, tmp_path: Path) -> None:
    right, wrong = Secret(b"four random words here"), Secret(b"four other words there")
    cheap = safe.vault.keyring.rewrapped(safe.folder / "keyring-2", PassphraseStore(right, CHEAP))
    assert cheap.owner == "north"
    (safe.folder / "safe.toml").write_text('format = 1\nname = "north"\nkeyring = 2\n\n[keys]\nstore = "passphrase"\n')
    source = backed_up(safe)
    with pytest.raises(WrongPassphrase):
        restore(source, tmp_path / "again", lambda: wrong)
    assert "again" not in left(tmp_path)
    with pipe(right.reveal()) as number:
        restore(source, tmp_path / "again", lambda: from_descriptor(number))  # from where it can be read once
    found = Safe.unlock(tmp_path / "again", lambda: right)
    assert same(DataSet.open(found.vault, "heart").read(), patients(7))


@pytest.mark.parametrize("damage", ["a missing shard", "a flipped byte", "swapped shards"])
def test_a_backup_of_a_damaged_safe_is_not_restored_and_the_damage_is_named(safe: Safe, damage: str) -> None:
    first, second = (object_file(safe.vault, Label("rows", "heart", number)) for number in (0, 1))
    held = first.read_bytes()
    match damage:
        case "a missing shard":
            first.unlink()
        case "a flipped byte":
            first.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
        case _:
            first.write_bytes(second.read_bytes())
            second.write_bytes(held)
    assert "rows/heart/0" in refused(backed_up(safe), ObjectDamaged)


def test_a_backup_with_any_flipped_byte_is_refused_or_restores_the_same_safe(safe: Safe, tmp_path: Path) -> None:
    source = backed_up(safe)
    honest, expected = source.read_bytes(), says(safe)
    same_safe = 0
    for position in range(0, len(honest), 61):
        wounded = bytearray(honest)
        wounded[position] ^= 1 << position % 8
        source.write_bytes(wounded)
        try:
            found = restored(source, tmp_path / "again")
        except FedSealError:
            assert left(tmp_path) == ["elsewhere", "keys", "north"]
            continue
        same_safe += 1
        assert says(found) == expected
        files.remove_folder(tmp_path / "again")
    assert 0 < same_safe < len(honest) // 61  # the padding between files may be flipped, nothing else


def test_a_cut_backup_is_refused_wherever_it_is_cut(safe: Safe, tmp_path: Path) -> None:
    source = backed_up(safe)
    honest = source.read_bytes()
    with tarfile.open(source) as archive:
        end = max(member.offset_data + member.size for member in archive)
    for length in (*range(0, end, 509), end - 1):
        source.write_bytes(honest[:length])
        refused(source)
    source.write_bytes(honest)
    assert says(restored(source, tmp_path / "again")) == says(safe)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def packed(safe: Safe, extra: Iterable[tarfile.TarInfo], first: bool) -> Path:
    """An honest backup with hostile members before or after the honest ones."""
    source = safe.folder.parent / "elsewhere" / "hostile.tar"
    source.parent.mkdir(exist_ok=True)
    with tarfile.open(source, "w", format=tarfile.PAX_FORMAT) as archive:
        honest = [(member(name), held) for name, held in on_disk(safe.folder).items()]
        hostile = [(each, b"evil") for each in extra]
        for each, held in [*hostile, *honest] if first else [*honest, *hostile]:
            each.size = len(held) if each.isreg() else 0
            archive.addfile(each, io.BytesIO(held))
    return source


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    "hostile",
    [
        member("../evil"),
        member("objects/../../evil"),
        member("objects/.."),
        member("a/b/c"),
        member("objects/deep/er"),
        member("safe.toml", tarfile.SYMTYPE, "/etc/passwd"),
        member("objects", tarfile.SYMTYPE, "/tmp"),
        member("keyring-1", tarfile.LNKTYPE, "/etc/shadow"),
        member("keyring-1", tarfile.LNKTYPE, "safe.toml"),
        member("safe.toml", tarfile.CHRTYPE),
        member("safe.toml", tarfile.BLKTYPE),
        member("safe.toml", tarfile.FIFOTYPE),
        member("folder", tarfile.DIRTYPE),
        member("n" * 300),
        member("n" * 300 + "/n"),
        member("objects/" + "n" * 5000),
        member("."),
        member(""),
        member("safe.toml/evil"),
    ],
    ids=lambda hostile: f"{hostile.name[:20]} {hostile.type!r} {hostile.linkname}",
)
def test_a_backup_that_holds_what_no_safe_holds_is_refused(safe: Safe, hostile: tarfile.TarInfo, first: bool) -> None:
    refused(packed(safe, [hostile], first))


@pytest.mark.parametrize("folder", ["/", "/tmp"])
def test_a_backup_never_writes_to_an_absolute_path(safe: Safe, folder: str) -> None:
    evil = Path(folder) / f"fedseal-evil-{os.getpid()}"
    try:
        refused(packed(safe, [member(str(evil))], True), DataInvalid)
        assert not evil.exists()
    finally:
        evil.unlink(missing_ok=True)


@contextmanager
def largest_file(length: int) -> Iterator[None]:
    """No file may become longer while the block lasts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


SPARSE = {"GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,4"}


@pytest.mark.parametrize(
    "headers",
    [
        {"path": "a\0b"},
        {"path": "../evil"},
        {"GNU.sparse.map": "a,b"},
        {"GNU.sparse.size": "x"},
        {**SPARSE, "GNU.sparse.size": "8"},
        {**SPARSE, "GNU.sparse.size": str(1 << 40)},
        {"size": "99999999999999999999"},
        {"linkpath": "/etc/passwd", "path": "/etc/passwd"},
    ],
    ids=str,
)
def test_a_backup_with_hostile_headers_is_refused_and_does_not_fill_the_disk(
    safe: Safe, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    hostile = member("file")
    hostile.pax_headers = headers
    source = packed(safe, [hostile], True)
    with largest_file(1 << 20):
        refused(source, DataInvalid)


def test_another_identity_in_a_backup_is_refused(safe: Safe, tmp_path: Path) -> None:
    held = (safe.folder / "identity.json").read_bytes()
    other = (safe_in(tmp_path / "other/north", "north").folder / "identity.json").read_bytes()
    for identity in (other, held.replace(b"north", b"south"), held[:-9] + b"\n", b"", None):
        (safe.folder / "identity.json").unlink()
        if identity is not None:
            (safe.folder / "identity.json").write_bytes(identity)
        source = backed_up(safe)
        refused(source, IdentityRefused)
        source.unlink()
        (safe.folder / "identity.json").write_bytes(held)


def test_the_hostile_backups_above_are_refused_for_what_is_hostile_in_them(safe: Safe, tmp_path: Path) -> None:
    assert says(restored(packed(safe, [], True), tmp_path / "again")) == says(safe)


@pytest.mark.parametrize("held", [b"", bytes(10240), b"no tar at all" * 1000, b"\x1f\x8b" + bytes(600)])
def test_what_is_no_backup_is_refused(safe: Safe, held: bytes) -> None:
    source = backed_up(safe)
    source.write_bytes(held)
    assert "is no backup of a safe" in refused(source, DataInvalid)


def test_a_backup_that_is_not_there_or_a_folder_is_refused(safe: Safe) -> None:
    source = backed_up(safe)
    for wrong in (source.with_name("nowhere.tar"), source.parent):
        with pytest.raises(DataInvalid, match="can't be read"):
            restore(wrong, safe.folder.parent / "again", nobody)
    assert left(safe.folder.parent) == ["elsewhere", "keys", "north"]


def test_another_sites_objects_in_a_backup_do_not_open(safe: Safe, tmp_path: Path) -> None:
    other = safe_in(tmp_path / "south", "south")
    sealed(other, patients(7))
    held = object_file(other.vault, Label("rows", "heart", 0)).read_bytes()
    object_file(safe.vault, Label("rows", "heart", 0)).write_bytes(held)
    source = backed_up(safe)
    with pytest.raises(ObjectDamaged, match="rows/heart/0"):
        restore(source, tmp_path / "again", nobody)


def test_what_a_killed_restore_left_is_taken_away_by_the_next(safe: Safe, tmp_path: Path) -> None:
    source = backed_up(safe)
    (tmp_path / ".again.new/objects").mkdir(parents=True)
    (tmp_path / ".again.new/objects/rows.heart.7").write_bytes(b"half an object")
    assert besides_ledger(restored(source, tmp_path / "again").folder) == besides_ledger(safe.folder)
    assert left(tmp_path) == ["again", "elsewhere", "keys", "north"]
