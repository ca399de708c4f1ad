"""A site's ledger: every release is reserved here, durably, before a record is read; nothing is taken back.

    reserve -> (train) -> settle          spent = all reserves, settled or not: recorded epsilon >= true epsilon

Rows are sealed one by one (`privacy/row_seal.py`). A Merkle tree (RFC 9162) over salted commitments of the entries
makes a history of them, whose checkpoints (C2SP tlog-checkpoint) the site signs. Who holds a
checkpoint sees when an earlier entry was changed, dropped or reordered, or the ledger replaced by an older copy: the
anchor (a file on another volume), the server, the other sites.

Recovery cuts nothing: a row that fails its seal, a gap, or a tree that disagrees with its checkpoint is refused. Must
never be begun anew beside an identity that has reported, and never write under a key that a rotation has retired.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock

from privacy import files
from privacy.accountant import Budget
from privacy.budget import WHOLE_SITE, Books
from privacy.entries import SALT_BYTES, BudgetSet, DataRegistered, Entry, Opened, Permission, Reserved, Rotated, Settled
from privacy.errors import CheckpointInvalid, IdentityRefused, LedgerCorrupt, LedgerRolledBack, OrderRefused
from privacy.history import REMEDY, History
from privacy.identity import Signer
from privacy.keys import KeyRing
from privacy.ledger_rows import LedgerRows
from privacy.notes import Checkpoint, signed
from privacy.receipts import Receipt
from privacy.row_seal import opened_row, sealed_row
from privacy.shown import Shown, checked, origin_of
from privacy.witness import newer_views

SCOPE = "ledger"


def now() -> str:
    """The time as entries state it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Ticket:
    """A reserve that is durable: the number of its entry, and what it says."""

    index: int
    reserved: Reserved


class Ledger:
    """One site's ledger. Several threads and processes may use it; one at a time changes it."""

    def __init__(self, rows: LedgerRows, keyring: KeyRing, signer: Signer, anchor: Path | None = None) -> None:
        """Reads nothing yet.

        anchor: a file on another volume that holds the newest checkpoint after every change
        """
        self.origin = origin_of(signer.name, signer.verifying)
        self._rows, self._keyring, self._signer, self._anchor = rows, keyring, signer, anchor
        self._lock = RLock()
        self._newest: tuple[Checkpoint, str] | None = None
        self._durable: Checkpoint | None = None
        self._forget()

    @staticmethod
    def create(rows: LedgerRows, keyring: KeyRing, signer: Signer) -> Ledger:
        """A new ledger in empty rows: its first entry says whose it is."""
        ledger = Ledger(rows, keyring, signer)
        ledger._epoch = keyring.current(SCOPE)
        with rows.changing():
            if rows.head() or any(True for _ in rows.since(0)):
                raise LedgerCorrupt("a ledger is there already: it is never begun anew")
            ledger._append(Opened(time=now(), site=signer.name, verifying=signer.verifying.hex()))
        return ledger

    def reserve(
        self,
        asked: Reserved,
        wish: Budget | None = None,
        shown: Iterable[Shown] = (),
        permissions: Collection[Permission] = (),
    ) -> Ticket:
        """Writes the price of a release before the release may touch data.

        Durable when it returns: a crash afterwards leaves the release counted in full.

        wish:  the plan's own budget of one run, held beside the site's
        shown: signed checkpoints of other ledgers that came with the order: the newer ones are remembered as well
        permissions: what the budget must allow besides the unit of privacy

        Raises:
            BudgetExhausted, OrderRefused: it may not be made, or was made before, or what is shown contradicts what was
                shown before; nothing was written.
            LedgerCorrupt, LedgerRolledBack, StorageFailed, StorageBusy, KeyRefused: the ledger can't be relied on.
        """
        with self._changing() as history:
            newer = newer_views(self._rows.seen(), shown)
            history.refuse_repeated(asked)
            history.books.refuse(asked, wish, permissions)
            self._append(asked)
            for origin, note in newer.items():
                self._rows.set_seen(origin, note)
            return Ticket(len(history) - 1, asked)

    def settle(self, ticket: Ticket, report: bytes) -> None:
        """Notes what left the site for a reserve: SHA-256 of it. The price stays. Raises as `reserve`."""
        with self._changing() as history:
            if ticket.index in history.settled:
                raise OrderRefused(f"round {ticket.reserved.round} was answered before: a ticket is used once")
            if history.entries[ticket.index : ticket.index + 1] != [ticket.reserved]:
                raise OrderRefused(f"round {ticket.reserved.round} is not reserved in this ledger, or no more")
            self._append(Settled(time=now(), reserve=ticket.index, report=report.hex()))

    def register(self, data: DataRegistered, compared: Collection[str]) -> bool:
        """Notes a data set and what it overlaps with; what is known already is not noted again.

        compared: the accounts among which its overlaps were looked for; False: there are others by now, look again
        """
        with self._changing() as history:
            if not history.books.names.keys() <= {data.account, WHOLE_SITE, *compared}:
                return False
            if not history.books.knows(data):
                self._append(data)
            return True

    def set_budget(self, budget: BudgetSet) -> None:
        """From now on this budget counts."""
        with self._changing():
            self._append(budget)

    def reseal(self) -> None:
        """Seals every row under the keyring's current epoch; no commitment changes."""
        self._keyring.reload()
        epoch = self._keyring.current(SCOPE)
        with self._changing() as history:
            self._touched = True
            for index, plain in enumerate(history.rows):
                self._rows.write(index, sealed_row(self._keyring, epoch, f"entry {index}", plain))
            self._epoch = epoch
            self._append(Rotated(time=now()))

    def entries(self) -> tuple[Entry, ...]:
        """All entries, oldest first.

        Raises:
            LedgerCorrupt, LedgerRolledBack, StorageFailed, KeyRefused: the ledger can't be relied on.
        """
        with self._reading() as history:
            return tuple(history.entries)

    def books(self) -> Books:
        """What the entries come to. Raises as `entries`."""
        with self._reading() as history:
            return history.books

    def seen(self) -> dict[str, str]:
        """The newest signed checkpoints of other ledgers. Raises as `entries`."""
        with self._reading():
            return self._rows.seen()

    def checkpoint(self) -> str:
        """The newest signed checkpoint. Raises as `entries`."""
        with self._reading() as history:
            return self._signed(history)

    def anchor_at(self, path: Path) -> None:
        """Writes the newest signed checkpoint into a file; two processes never leave the older one there.

        Raises as `entries`.
        """
        with self._lock, self._rows.changing():
            self._replay()
            files.replace(path, self._signed(self._history).encode())

    def refuse_rollback(self, note: str, holder: str) -> int:
        """Passes a checkpoint of this ledger that it has grown from; returns how many entries it counts.

        Raises:
            LedgerRolledBack: this ledger is an older copy, or another history, than the holder knows.
            IdentityRefused, CheckpointInvalid: this ledger never signed it.
        """
        known = self._own(note)
        with self._reading() as history:
            history.refuse_rolled_back(known, holder)
        return known.size

    def receipt(self, run: str, known: int) -> Receipt:
        """What proves to the server how the ledger grew since it had `known` entries.

        Reveals the run's reserves and settlements since then, and nothing else. Raises as `entries`.
        """
        with self._reading() as history:
            return self._receipt(history, known, history.of_run(run, known))

    def reveal(self, indices: Iterable[int]) -> Receipt:
        """A receipt that reveals these entries, for who knew nothing before. Raises as `entries`."""
        with self._reading() as history:
            return self._receipt(history, 0, indices)

    def _forget(self) -> None:
        verifying = self._signer.verifying.hex()
        self._history = History(origin=self.origin, site=self._signer.name, verifying=verifying)
        self._epoch, self._held, self._touched, self._renewed = 0, (b"", 0), False, self._rows.renewed

    @contextmanager
    def _reading(self) -> Iterator[History]:
        with self._lock, self._rows.reading():
            self._replay()
            yield self._history

    @contextmanager
    def _changing(self) -> Iterator[History]:
        with self._lock:
            try:
                with self._rows.changing():
                    self._replay()
                    self._touched = False
                    yield self._history
            except BaseException:
                if self._touched:
                    self._forget()  # what the block added is not on the disk
                raise
            self._durable = self._history.checkpoint()
            if self._anchor is not None:
                self.anchor_at(self._anchor)

    def _replay(self) -> None:
        """Takes in the rows that others have added, and holds the whole to its checkpoint and the anchor."""
        # Before the first row is read: what another process adds later may be in the anchor, but not in what is read.
        anchored = None if self._anchor is None else self._anchored(self._anchor)
        if self._renewed != self._rows.renewed:
            self._forget()
        try:
            for index, sealed in self._rows.since(len(self._history)):
                if index != len(self._history):
                    raise LedgerCorrupt(f"entry {len(self._history)} is missing: {REMEDY}")
                self._epoch, plain = opened_row(self._keyring, f"entry {index}", sealed)
                self._history.read(plain)
            self._refuse_other_head()
            if anchored is not None:
                self._history.refuse_rolled_back(anchored, f"the anchor {self._anchor}")
            if self._durable is not None:
                self._history.refuse_rolled_back(self._durable, "this process")
            self._durable = self._history.checkpoint()
        except BaseException:
            self._forget()
            raise

    def _append(self, entry: Entry) -> None:
        """Writes an entry under the key of the newest row: a keyring in memory may be older than a rotation."""
        self._touched = True
        index, plain = len(self._history), os.urandom(SALT_BYTES) + entry.to_bytes()
        self._rows.write(index, sealed_row(self._keyring, self._epoch, f"entry {index}", plain))
        self._history.take(entry, plain)
        mark = self._history.checkpoint()
        head = sealed_row(self._keyring, self._epoch, "head", mark.text().encode())
        self._rows.set_head(head)
        self._held = (head, len(self._history))

    def _refuse_other_head(self) -> None:
        head, here = self._rows.head(), self._history.checkpoint()
        if head and (head, len(self._history)) == self._held:
            return
        if not len(self._history) or not head or opened_row(self._keyring, "head", head)[1] != here.text().encode():
            raise LedgerCorrupt(
                f"the ledger's {here.size} entries do not agree with its own head: entries were changed, dropped or "
                f"added; {REMEDY}"
            )
        self._held = (head, here.size)

    def _receipt(self, history: History, known: int, indices: Iterable[int]) -> Receipt:
        return Receipt(
            verifying=self._signer.verifying,
            note=self._signed(history),
            consistency=history.consistency(known),
            revealed=tuple(history.reveal(index) for index in indices),
        )

    def _signed(self, history: History) -> str:
        mark = history.checkpoint()
        if self._newest is None or self._newest[0] != mark:
            note = signed(mark, self.origin, self._signer.sign_note, self._signer.verifying)
            self._newest = (mark, note)
        return self._newest[1]

    def _anchored(self, anchor: Path) -> Checkpoint:
        try:
            return self._own(anchor.read_text(encoding="utf-8"))
        except (OSError, ValueError, CheckpointInvalid, IdentityRefused):
            raise LedgerRolledBack(
                f"the anchor {anchor} is missing, or no checkpoint of this ledger: mount its volume; if it is lost, "
                "`fedseal ledger anchor FILE` sets another"
            ) from None

    def _own(self, note: str) -> Checkpoint:
        if self._newest is not None and self._newest[1] == note:
            return self._newest[0]
        if note.partition("\n")[0] != self.origin:
            raise IdentityRefused(f"the checkpoint is not of the ledger {self.origin}")
        return checked(Shown(verifying=self._signer.verifying, note=note))
