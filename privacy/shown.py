"""A ledger's signed checkpoint as somebody shows it, with the key that its origin names: what witnesses keep.

An origin is `fedseal/ledger/SITE/KEY`, KEY being the first half of the SHA-256 of the Ed25519 key that signs: nobody
can show a checkpoint under an origin whose key they do not have.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from privacy.errors import IdentityRefused
from privacy.notes import Checkpoint, opened

_PREFIX = "fedseal/ledger/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A signed checkpoint, and the Ed25519 key that it is signed with, 32 bytes."""

    verifying: bytes
    note: str

    @property
    def origin(self) -> str:
        """What the ledger is called; unchecked."""
        return self.note.partition("\n")[0]


def origin_of(site: str, verifying: bytes) -> str:
    """What a site's ledger is called."""
    return f"{_PREFIX}{site}/{hashlib.sha256(verifying).hexdigest()[:32]}"


def site_of(origin: str) -> str:
    """The site whose ledger has this origin."""
    return origin.removeprefix(_PREFIX).rpartition("/")[0]


@lru_cache(maxsize=16_384)
def checked(shown: Shown) -> Checkpoint:
    """The checkpoint, once its signature holds.

    Raises:
        IdentityRefused, CheckpointInvalid: it is not signed by the key that its origin names.
    """
    if shown.origin != origin_of(site_of(shown.origin), shown.verifying):
        raise IdentityRefused(f"the ledger {shown.origin[:200]!r} is not of the key that it is shown with")
    try:
        return opened(shown.note, shown.origin, shown.verifying)
    except ValueError:
        raise IdentityRefused(
            f"no key of that length, or ledger of that name, can sign: {shown.origin[:200]!r}"
        ) from None
