"""Honest ledgers in files to attack, and processes that die at any act of SQLite or of the disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from privacy.budget import WHOLE_SITE, Books
from privacy.entries import BudgetSet, DataRegistered, Entry, Purpose, Reserved, Settled
from privacy.errors import FedSealError
from privacy.identity import Signer
from privacy.keys import KeyRing
from privacy.ledger import Ledger, now
from privacy.ledger_rows import SqliteRows
from privacy.mechanism import Mechanism
from privacy.safe import LEDGER, Safe
from tests.privacy.vault_builders import killed_before_act, nobody

NOISE = Mechanism(noise_multiplier=50.0, sample_rate=1.0, steps=1, max_grad_norm=1.0)
DELTA = 1e-5
REPORT = bytes(range(32))
NOTHING_SEEN = "0" * 64
EVERYTHING = ["record", "group", "client", "none", "plain-metrics", "plain-updates", "server-release"]
HEART, LUNG, LIVER = ("a1" * 32, "b2" * 32, "c3" * 32)
_real_write = os.write


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A site's ledger in a file, its keys in memory; `anchor` is its file on another volume."""

    path: Path
    keyring: KeyRing
    signer: Signer
    anchor: Path | None = None

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger as a new process would open it; its file is let go of in the end."""
        with closing(SqliteRows(self.path)) as rows:
            yield Ledger(rows, self.keyring, self.signer, self.anchor)

    def entries(self) -> tuple[Entry, ...]:
        with self.ledger() as ledger:
            return ledger.entries()

    def put_back(self, copy: Path) -> None:
        """An older copy takes the place of the file."""
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(copy, self.path)

    def copied(self, name: str) -> Desk:
        """Another desk with a copy of the ledger as it is, same keys, no anchor."""
        copy = self.path.with_name(name)
        with closing(SqliteRows(self.path)) as rows:
            copy.write_bytes(rows.copied())
        return replace(self, path=copy, anchor=None)


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder without a disk below it, where there is one: kill -9 tells nothing of syncs, which only take time."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="fedseal-", dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def apart(work: Callable[[Path], None]) -> None:
    """Does the work in a process that has loaded little, because a large one takes long to fork hundreds of times."""
    with in_memory() as folder:
        process = get_context("spawn").Process(target=work, args=(folder,))
        process.start()
        process.join()
        assert process.exitcode == 0, "its standard error says why"


def desk_in(folder: Path, name: str = "north", keyring: KeyRing | None = None, anchored: bool = False) -> Desk:
    """A new ledger with a generous budget: two entries."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = SqliteRows.create(folder / f"{name}.db")
    desk = Desk(path=rows.path, keyring=keyring or KeyRing.throw_away(name), signer=Signer.create(name))
    with closing(rows):
        ledger = Ledger.create(rows, desk.keyring, desk.signer)
        ledger.set_budget(budget())
        if anchored:
            ledger.anchor_at(folder / "anchor")
            desk = replace(desk, anchor=folder / "anchor")
    return desk


def asked(
    round_number: int, run: str = "1", account: str = WHOLE_SITE, mechanism: Mechanism | None = NOISE, **facts: Any
) -> Reserved:
    known: dict[str, Any] = {"time": now(), "plan": "ab" * 32, "purpose": "update", "witnessed": NOTHING_SEEN}
    return Reserved(account=account, run=run, round=round_number, mechanism=mechanism, **{**known, **facts})


def budget(epsilon: float = 1e6, delta: float = DELTA, account: str | None = None, **bounds: Any) -> BudgetSet:
    known: dict[str, Any] = {"per_run": None, "per_round": None, "allow": EVERYTHING}
    return BudgetSet(time=now(), account=account, epsilon=epsilon, delta=delta, **{**known, **bounds})


def data(account: str, name: str, *overlaps: str) -> DataRegistered:
    return DataRegistered(time=now(), account=account, name=name, records=10, overlaps=list(overlaps))


def spend(ledger: Ledger, rounds: range, run: str = "1", purpose: Purpose = "update") -> None:
    """Reserves and settles these rounds."""
    for number in rounds:
        ledger.settle(ledger.reserve(asked(number, run, purpose=purpose)), REPORT)


def fail_inside(ledger: Ledger, error: type[BaseException]) -> None:
    """A change that has written an entry when its process fails for a reason of its own."""
    with ledger._changing():
        ledger._append(asked(1))
        raise error


def books(*entries: Entry) -> Books:
    made = Books()
    for entry in entries:
        made.add(entry)
    return made


def releases(entries: tuple[Entry, ...]) -> list[Reserved]:
    return [entry for entry in entries if isinstance(entry, Reserved)]


def settlements(entries: tuple[Entry, ...]) -> list[Settled]:
    return [entry for entry in entries if isinstance(entry, Settled)]


def refusal(act: Callable[[], Any]) -> FedSealError | None:
    """The error of ours by which the act is refused, if it is; any other error is a fault."""
    try:
        act()
    except FedSealError as error:
        return error
    return None


def tampered(path: Path, *statements: str, values: tuple[object, ...] = ()) -> None:
    """An adversary with SQLite, who can write but has no key."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement, values)


def rows_of(path: Path) -> tuple[list[tuple[int, bytes]], bytes]:
    """The sealed rows and the sealed head of a ledger's file."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT i, sealed FROM entry ORDER BY i").fetchall()
        return found, connection.execute("SELECT sealed FROM head").fetchone()[0]


class _Announced(sqlite3.Connection):
    """Each BEGIN, COMMIT and INSERT is an act on the disk, which a dying process may not live to see; so is its end."""

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement.startswith(("BEGIN", "COMMIT", "INSERT")):
            _announce()
            try:
                return super().execute(statement, *values)
            finally:
                _announce()
        return super().execute(statement, *values)


def _announce() -> None:
    handle = os.open(os.devnull, os.O_WRONLY)
    os.write(handle, b"-")
    os.close(handle)


def deaths(work: Callable[[int], Callable[[], Any]], limit: int = 400) -> Iterator[int]:
    """Each act, of SQLite or the disk, before which `work(number)()` was killed; ends when the work outlives them."""
    for number in range(limit):
        act = work(number)

        def mortal(act: Callable[[], Any] = act) -> None:
            connect = sqlite3.connect
            sqlite3.connect = lambda *args, **options: connect(*args, factory=_Announced, **options)  # type: ignore
            act()

        if not killed_before_act(number, mortal):
            assert number > 3, "the work must have acts to be killed between"
            return
        yield number
    raise AssertionError(f"the work is not done after {limit} acts")


def note_down(path: Path) -> None:
    """A mark that a process leaves before it dies, which is no act that may kill it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    _real_write(handle, b".")
    os.close(handle)


def ledger_at(safe: Safe, anchor: Path | None = None) -> Desk:
    """The ledger of a safe, as a desk."""
    return Desk(path=safe.folder / LEDGER, keyring=safe.vault.keyring, signer=safe.identity().signer(), anchor=anchor)


def unlocked_again(folder: Path) -> Safe:
    return Safe.unlock(folder, nobody)
