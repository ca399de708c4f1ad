"""Sites and server as witnesses of each other's ledgers: who shows a checkpoint must go on showing what grew from it.

A checkpoint that is shown is signed by the key that its origin names. Two checkpoints of one ledger with the same size
and different roots are a proof of misbehaviour: the message that refuses them holds both signed notes (as witnesses of
C2SP tlog-witness do). Growth between different sizes needs a consistency proof, which only a receipt carries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from privacy.errors import CheckpointInvalid, IdentityRefused, LedgerCorrupt, OrderRefused
from privacy.notes import Checkpoint
from privacy.sealing import context
from privacy.shown import Shown, checked

MOST_SHOWN = 256


def digest_of(shown: Iterable[Shown]) -> str:
    """SHA-256, hex, of what a server showed: equal exactly where two sites saw the same."""
    return hashlib.sha256(context("shown", *sorted(each.note.encode() for each in shown))).hexdigest()


def newer_views(seen: Mapping[str, str], shown: Iterable[Shown]) -> dict[str, str]:
    """The checkpoints that are newer than what was seen, by origin.

    Raises:
        OrderRefused: one is older than, or contradicts, what was shown before, or is not signed as it must be.
        LedgerCorrupt: what was seen before is not what was noted.
    """
    newer: dict[str, str] = {}
    for each in shown:
        try:
            found = checked(each)
        except (IdentityRefused, CheckpointInvalid) as error:
            raise OrderRefused(f"the server shows a checkpoint that does not hold: {error}") from None
        before = newer.get(each.origin) or seen.get(each.origin)
        if before is None:
            newer[each.origin] = each.note
            continue
        known = _remembered(Shown(verifying=each.verifying, note=before), each.origin)
        if found.size < known.size:
            raise OrderRefused(
                f"the server shows {found.size} entries of the ledger {each.origin}, but showed {known.size} before: "
                "it shows different histories, or lost its memory; both signed checkpoints:\n"
                f"{before}\n{each.note}"
            )
        if found.size == known.size and found.root != known.root:
            raise OrderRefused(
                f"the ledger {each.origin} has two histories of {found.size} entries; both signed checkpoints prove "
                f"it:\n{before}\n{each.note}"
            )
        if found.size > known.size:
            newer[each.origin] = each.note
    return newer


def _remembered(shown: Shown, origin: str) -> Checkpoint:
    try:
        if shown.origin != origin:
            raise IdentityRefused
        return checked(shown)
    except (IdentityRefused, CheckpointInvalid):
        raise LedgerCorrupt(
            f"what this ledger remembers of the ledger {origin} was changed: restore the newest backup"
        ) from None
