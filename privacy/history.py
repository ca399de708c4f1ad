"""A ledger's entries as they were replayed: the Merkle tree over them, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass, field

from privacy.budget import Books
from privacy.entries import SALT_BYTES, Entry, Opened, Reserved, Settled, commitment, read_entry
from privacy.errors import LedgerCorrupt, LedgerRolledBack, OrderRefused
from privacy.merkle import Tree, leaf_hash
from privacy.notes import Checkpoint
from privacy.receipts import Revealed

REMEDY = "nothing is cut off to go on; restore the newest backup"


@dataclass(slots=True, kw_only=True)
class History:
    """The entries of the ledger `origin`, whose site and key (hex) its first entry must name.

    rows: what each entry's row holds: salt and entry
    """

    origin: str
    site: str
    verifying: str
    entries: list[Entry] = field(default_factory=list)
    books: Books = field(default_factory=Books)
    rows: list[bytes] = field(default_factory=list)
    settled: set[int] = field(default_factory=set)
    _tree: Tree = field(default_factory=Tree)
    _mark: Checkpoint | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, plain: bytes) -> None:
        """Takes in one more row as it was opened: salt and entry.

        Raises:
            LedgerCorrupt: it holds no entry, or the ledger is another's.
        """
        self.take(read_entry(plain[SALT_BYTES:]), plain)

    def take(self, entry: Entry, plain: bytes) -> None:
        """Takes in one more entry, whose row is `plain`.

        Raises:
            LedgerCorrupt: the ledger is another's, or it settles what was not reserved before.
        """
        if not self.entries or isinstance(entry, Opened):
            self._refuse_other_owner(entry)
        if isinstance(entry, Settled):
            self._refuse_unreserved(entry)
            self.settled.add(entry.reserve)
        self._tree.append(leaf_hash(commitment(plain)))
        self.books.add(entry)
        self.entries.append(entry)
        self.rows.append(plain)

    def checkpoint(self) -> Checkpoint:
        """Size and root of the whole."""
        if self._mark is None or self._mark.size != len(self):
            self._mark = Checkpoint(origin=self.origin, size=len(self), root=self._tree.root())
        return self._mark

    def of_run(self, run: str, since: int) -> list[int]:
        """The numbers of the run's reserves and settlements from `since` on."""
        return [index for index in range(since, len(self)) if self._run(self.entries[index]) == run]

    def reveal(self, index: int) -> Revealed:
        """An entry with the proof that it is in the whole."""
        return Revealed(index=index, row=self.rows[index], proof=tuple(self._tree.inclusion(index, len(self))))

    def consistency(self, known: int) -> tuple[bytes, ...]:
        """The proof that the whole extends its first `known` entries."""
        return tuple(self._tree.consistency(known, len(self))) if known else ()

    def refuse_repeated(self, asked: Reserved) -> None:
        """Passes a release that was not settled before, of a round not before the last that its run took up.

        Raises:
            OrderRefused: it is neither.
        """
        for index in range(len(self) - 1, -1, -1):
            entry = self.entries[index]
            if isinstance(entry, Reserved) and (entry.run, entry.purpose) == (asked.run, asked.purpose):
                if entry.round > asked.round or (entry.round == asked.round and index in self.settled):
                    raise OrderRefused(f"round {asked.round} was taken up before: an order is answered once")
                return

    def refuse_rolled_back(self, known: Checkpoint, holder: str) -> None:
        """Passes a checkpoint from which this history has grown.

        Raises:
            LedgerRolledBack: this is an older copy, or another history, than the holder knows.
        """
        if known.size > len(self):
            raise LedgerRolledBack(
                f"{holder} knows {known.size} entries of this ledger, here are {len(self)}: it is an older copy, and "
                "what was spent since is not in it. Put the newest copy back; none with fewer entries is taken"
            )
        here = Checkpoint(origin=self.origin, size=known.size, root=self._tree.root(known.size))
        if here.root != known.root:
            raise LedgerRolledBack(
                f"{holder} knows another history of this ledger's first {known.size} entries: two copies went on "
                f"apart, or entries were changed. It knows\n{known.text()}here is\n{here.text()}"
            )

    def _run(self, entry: Entry) -> str | None:
        if isinstance(entry, Settled):
            entry = self.entries[entry.reserve]
        return entry.run if isinstance(entry, Reserved) else None

    def _refuse_unreserved(self, entry: Settled) -> None:
        reserved = entry.reserve < len(self) and isinstance(self.entries[entry.reserve], Reserved)
        if not reserved or entry.reserve in self.settled:
            raise LedgerCorrupt(f"entry {len(self)} settles no open reserve: {REMEDY}")

    def _refuse_other_owner(self, entry: Entry) -> None:
        mine = isinstance(entry, Opened) and (entry.site, entry.verifying) == (self.site, self.verifying)
        if self.entries or not mine:
            raise LedgerCorrupt(f"the ledger was begun by another site, or twice: {REMEDY}")
