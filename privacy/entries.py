"""What a ledger can say: a closed set of entries, their one spelling, and the commitment that a tree holds of each.

An entry is canonical JSON (sorted keys, no spaces, UTF-8). Entries state facts, never an epsilon. A kind, field or
value that this version does not know is refused: what can't be understood can't be priced.

The commitment of an entry is SHA-256 over a random 32-byte salt and the entry's bytes: it says nothing of the entry to
who lacks the salt, and can't be opened to another entry. Re-sealing under a new key changes no commitment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter

from privacy.errors import LedgerCorrupt, MechanismUnsound
from privacy.mechanism import Mechanism

SALT_BYTES = 32


def _mechanism(value: object) -> object:
    return Mechanism.from_facts(value) if isinstance(value, Mapping) else value


Facts: TypeAlias = Annotated[Mechanism, BeforeValidator(_mechanism), PlainSerializer(lambda value: value.facts())]
Digest: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Account: TypeAlias = Annotated[str, Field(pattern=r"^([0-9a-f]{64}|site)$")]
Purpose: TypeAlias = Literal["update", "metrics", "statistics"]
Permission: TypeAlias = Literal["plain-updates", "server-release"]
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=100)]
Time: TypeAlias = Annotated[str, Field(max_length=40)]
Epsilon: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Delta: TypeAlias = Annotated[float, Field(gt=0, lt=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    time: Time

    def to_bytes(self) -> bytes:
        """The entry's one spelling."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Opened(_Entry):
    """The first entry: whose ledger it is.

    verifying: the Ed25519 key (hex) that checks the ledger's signatures
    """

    kind: Literal["open"] = "open"
    site: Name
    verifying: Digest
    neighbouring: Literal["add-or-remove-one"] = "add-or-remove-one"


class DataRegistered(_Entry):
    """A data set came into the site's hands.

    account:  its fingerprint
    records:  how many there are
    overlaps: accounts, registered earlier, with which it shares a unit or a record
    """

    kind: Literal["data"] = "data"
    account: Account
    name: Name
    records: Annotated[int, Field(ge=0)]
    overlaps: list[Account]


class BudgetSet(_Entry):
    """What may be spent from now on; the newest entry for an account counts, the newest without one for all others.

    account:   None: every account that has no budget of its own
    epsilon:   for ever, at `delta`, over all runs
    per_run:   of one run, at `delta`; None: no bound of its own
    per_round: of one release, at `delta`; None: no bound of its own
    allow:     units of privacy that plans may ask for, and "none" (no privacy), "plain-metrics" (exact metrics),
               "plain-updates" (the server reads updates), "server-release" (the server gets the model)
    """

    kind: Literal["budget"] = "budget"
    account: Account | None
    epsilon: Epsilon
    delta: Delta
    per_run: Epsilon | None
    per_round: Epsilon | None
    allow: list[Literal["record", "group", "client", "none", "plain-metrics"] | Permission]


class Reserved(_Entry):
    """A release's price, written before a record is read; it counts whether the release happens or not.

    account:   a data set's fingerprint, or "site" where the whole site may be concerned
    run, round, plan: what it is for; `plan` is the plan hash
    purpose:   what is released: "update", "metrics" or "statistics"
    mechanism: None: released without protection, which no epsilon covers
    witnessed: SHA-256 of the checkpoints of all sites that the order showed
    """

    kind: Literal["reserve"] = "reserve"
    account: Account
    run: Name
    round: Annotated[int, Field(ge=0)]
    plan: Digest
    purpose: Purpose
    mechanism: Facts | None
    witnessed: Digest


class Settled(_Entry):
    """What became of a reserve: the price stays the reserved one.

    reserve: index of the reserve
    report:  SHA-256 of what left the site
    """

    kind: Literal["settle"] = "settle"
    reserve: Annotated[int, Field(ge=0)]
    report: Digest


class Rotated(_Entry):
    """The ledger was sealed anew under another key."""

    kind: Literal["rotate"] = "rotate"


Entry: TypeAlias = Opened | DataRegistered | BudgetSet | Reserved | Settled | Rotated

_ENTRIES: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


def read_entry(body: bytes) -> Entry:
    """The entry that `to_bytes` wrote.

    Raises:
        LedgerCorrupt: it is none of these kinds, or not in its one spelling.
    """
    try:
        entry = _ENTRIES.validate_json(body)
        spelled = entry.to_bytes()
    except (ValueError, MechanismUnsound):  # ValueError: pydantic's, or a number too long to be written
        raise LedgerCorrupt(
            "an entry is of a kind that this version of FedSeal does not know, or was changed"
        ) from None
    if spelled != body:
        raise LedgerCorrupt("an entry is not in its one spelling: it was not written by FedSeal")
    return entry


def commitment(row: bytes) -> bytes:
    """What a tree's leaf is made of: 32 bytes that hide the entry of a row (salt and entry) and bind to it."""
    return hashlib.sha256(row).digest()
