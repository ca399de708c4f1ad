"""What a site shows of its ledger, and how whoever gets it holds it against what they knew before.

A receipt is a signed checkpoint, the proof that it extends the one known before (RFC 9162 2.1.4), and some entries,
each with its salt and the proof that it is in the checkpoint (2.1.3). It reveals nothing of the other entries. `judged`
needs no key but the site's public one, no ledger, and no trust in the site. Must never believe an entry whose proof it
has not checked.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass

from privacy.entries import SALT_BYTES, Entry, commitment, read_entry
from privacy.errors import (
    CheckpointInvalid,
    ForkedLedger,
    IdentityRefused,
    LedgerCorrupt,
    MalformedReceipt,
    StaleLedger,
)
from privacy.merkle import extends, includes, leaf_hash
from privacy.notes import Checkpoint
from privacy.shown import Shown, checked

_LARGEST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Revealed:
    """An entry's row (salt and entry), its number, and the hashes that prove it is in the checkpoint."""

    index: int
    row: bytes
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a site shows.

    verifying:   the site's Ed25519 key, 32 bytes
    note:        the signed checkpoint
    consistency: proof from the checkpoint that the receiver knew; empty where it knew none
    revealed:    entries
    """

    verifying: bytes
    note: str
    consistency: tuple[bytes, ...]
    revealed: tuple[Revealed, ...]

    def to_json(self) -> str:
        """The receipt as text."""
        return json.dumps(
            {
                "verifying": _text(self.verifying),
                "note": self.note,
                "consistency": [_text(each) for each in self.consistency],
                "revealed": [
                    [found.index, _text(found.row), [_text(each) for each in found.proof]] for found in self.revealed
                ],
            }
        )

    @staticmethod
    def from_json(text: str, largest: int = _LARGEST_BYTES) -> Receipt:
        """The receipt that `to_json` wrote.

        largest: characters that are read; a longer text is refused

        Raises:
            MalformedReceipt: the text holds none.
        """
        try:
            if len(text) > largest:
                raise ValueError
            found = json.loads(text)
            return Receipt(
                verifying=_bytes(found["verifying"]),
                note=str(found["note"]),
                consistency=tuple(_bytes(each) for each in found["consistency"]),
                revealed=tuple(
                    Revealed(index=int(index), row=_bytes(row), proof=tuple(map(_bytes, proof)))
                    for index, row, proof in found["revealed"]
                ),
            )
        except (ValueError, OverflowError, KeyError, TypeError, RecursionError, binascii.Error):
            raise MalformedReceipt("the site's receipt can't be read") from None


def judged(receipt: Receipt, last: Shown | None) -> tuple[Shown, Mapping[int, Entry]]:
    """What a receipt proves: the newest checkpoint, and the revealed entries by number.

    last: the checkpoint of this ledger that was known before, already checked; None: it is seen for the first time

    Raises:
        MalformedReceipt: the signature, a proof or an entry does not hold.
        StaleLedger: it is an older copy than the one known.
        ForkedLedger: it is another history than the one known; the message holds both signed checkpoints.
    """
    newest = Shown(verifying=receipt.verifying, note=receipt.note)
    try:
        checkpoint = checked(newest)
    except (CheckpointInvalid, IdentityRefused) as error:
        raise MalformedReceipt(f"the receipt's checkpoint does not hold: {error}") from None
    if last is not None:
        _refuse_other_history(last, newest, receipt.consistency)
    return newest, {found.index: _proved(found, checkpoint) for found in receipt.revealed}


def _refuse_other_history(last: Shown, newest: Shown, proof: tuple[bytes, ...]) -> None:
    first, second = checked(last), checked(newest)
    if first.origin != second.origin:
        raise ValueError("the checkpoint known before is of another ledger")
    if second.size < first.size:
        raise StaleLedger(
            f"the site's ledger has {second.size} entries, but it had {first.size} before: it was replaced by an older "
            "copy, and what it spent since is not in it"
        )
    if not extends(first.size, second.size, first.root, second.root, list(proof)):
        raise ForkedLedger(
            "the site's ledger is another history than the one that it signed before; its two signed checkpoints prove "
            f"it:\n{last.note}\n{newest.note}"
        )


def _proved(found: Revealed, checkpoint: Checkpoint) -> Entry:
    leaf = leaf_hash(commitment(found.row))
    if not includes(leaf, found.index, checkpoint.size, list(found.proof), checkpoint.root):
        raise MalformedReceipt(f"entry {found.index} is not in the checkpoint that the site signed")
    try:
        return read_entry(found.row[SALT_BYTES:])
    except LedgerCorrupt as error:
        raise MalformedReceipt(f"entry {found.index} can't be read: {error}") from None


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError
    return base64.b64decode(text, validate=True)
