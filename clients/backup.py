"""A safe in one file and back. A backup is as sealed as the safe: whoever finds it needs the passphrase or key.

It is a tar of the safe's files (POSIX.1-2001), made under the safe's lock; the ledger grows without that lock, and is
copied as it is between two changes. Restoring checks every object and entry before the folder takes its place; a backup
brings back what was shredded after it was made, so it is to be destroyed as well.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from clients.verifying import refuse_damaged
from privacy import files
from privacy.errors import DataInvalid, LedgerRolledBack, StorageFailed
from privacy.ledger import Ledger
from privacy.ledger_rows import SqliteRows
from privacy.safe import LEDGER, Safe, is_safe
from privacy.secret import Secret

_LEDGER_COMPANIONS = (f"{LEDGER}-wal", f"{LEDGER}-shm")
_DEPTH, _BLOCK_BYTES = 2, 4 * 1024 * 1024


def back_up(folder: Path, target: Path) -> int:
    """Writes the safe of a folder into a new file, and returns its size in bytes; needs no key.

    Raises:
        DataInvalid: the file is there already, or inside the safe.
        StorageBusy: the safe is being changed.
        LedgerCorrupt: its ledger can't be copied.
        StorageFailed: the disk refused; no file is left.
    """
    if target.exists() or folder.resolve() in target.resolve().parents:
        raise DataInvalid(f"{target} is there already, or inside of what is backed up: name a new file elsewhere")
    files.make_folder(target.parent)
    with files.locked(folder), files.replacing(target) as draft:
        files.sweep_drafts(folder)
        with tarfile.open(fileobj=cast(BinaryIO, draft), mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(folder.rglob("*")):
                if path == folder / LEDGER:
                    _add_ledger(archive, path)
                elif path.is_file() and path.name != files.LOCK and path.name not in _LEDGER_COMPANIONS:
                    archive.add(path, arcname=str(path.relative_to(folder)), filter=_anonymous)
    return target.stat().st_size


def restore(source: Path, folder: Path, passphrase: Callable[[], Secret]) -> tuple[str, bool]:
    """Unpacks a backup into a new folder, once every object and entry in it was opened.

    Returns the safe's name, and whether its ledger is behind its anchor, so that it allows no release.

    Raises:
        DataInvalid: the file is no backup, or holds what no safe holds.
        StorageFailed: the folder is there already, or the disk refused; nothing is left behind.
        ObjectDamaged, ObjectMissing, LedgerCorrupt, KeyRefused: something in it does not open; nothing is left behind.
    """
    if folder.exists():
        raise StorageFailed(f"{folder} is there already: a backup is restored into a new folder")
    draft = folder.with_name(f".{folder.name}.new")
    if draft.exists():
        files.remove_folder(draft)
    files.make_folder(draft)
    try:
        _unpack(source, draft)
        if not is_safe(draft):
            raise DataInvalid(f"{source} is no backup of a safe")
        safe = Safe.unlock(draft, passphrase)
        refuse_damaged(safe)
        behind = _is_behind(safe)
        files.move(draft, folder)
    finally:
        if draft.exists():
            files.remove_folder(draft)
    return safe.name, behind


def _is_behind(safe: Safe) -> bool:
    """Reads every entry of the ledger, then lets go of its file; whether its anchor knows more, or is lost."""
    rows = SqliteRows(safe.folder / LEDGER)
    signer = safe.identity().signer()
    try:
        Ledger(rows, safe.vault.keyring, signer).entries()
        Ledger(rows, safe.vault.keyring, signer, safe.anchor()).entries()
    except LedgerRolledBack:
        return True
    finally:
        rows.close()
    return False


def _add_ledger(archive: tarfile.TarFile, path: Path) -> None:
    rows = SqliteRows(path)
    try:
        content = rows.copied()
    finally:
        rows.close()
    member = _anonymous(archive.gettarinfo(path, LEDGER))
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names of the machine's users."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _unpack(source: Path, folder: Path) -> None:
    """Writes the archive's plain files, at most one folder deep, as a safe has them; anything else is refused."""
    try:
        with tarfile.open(source, mode="r|") as archive:
            for member in archive:
                name = Path(member.name)
                content = archive.extractfile(member)
                plain = member.isreg() and not member.issparse()
                if content is None or not plain or name.is_absolute() or len(name.parts) > _DEPTH or ".." in name.parts:
                    raise DataInvalid(f"{source} is no backup of a safe: it holds {member.name!r}")
                files.make_folder((folder / name).parent)
                with files.replacing(folder / name) as draft:
                    while block := content.read(_BLOCK_BYTES):
                        draft.write(block)
    except (tarfile.TarError, EOFError, ValueError, zlib.error):
        raise DataInvalid(f"{source} is no backup of a safe, or it was cut") from None
    except OSError as error:
        raise DataInvalid(f"{source} can't be read: {error.strerror}") from None
