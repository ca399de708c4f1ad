"""Orders and reports of an encrypted run as values.

Every message carries a `Statement` that its sender signed over what the message says (`federation/statements.py`), so
that nobody between can change, move or repeat it. A site's statements travel on to the other sites: they show who is in
a sum and who holds which model.

The purposes of sums: "update" (what training changed), "metrics" and "statistics". Each report holds two encrypted
parts, the values and a tally (weight, count, clipped values, and a check of who is in the sum).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from federation.membership import Enrolment
from federation.orders import Address
from federation.run_secret import SealedSecret, SealedSecrets
from federation.statements import Statement
from privacy.certificates import Certificate
from privacy.entries import Purpose
from privacy.errors import IdentityRefused
from privacy.mechanism import Mechanism
from privacy.receipts import Receipt
from privacy.sealing import context
from privacy.shown import Shown

Action: TypeAlias = Literal[
    "enrol", "draw", "join", "train", "evaluate", "statistics", "take", "hand_over", "receive", "release"
]
Frames: TypeAlias = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Statements:
    """Signed statements of members, in one text: all sites of a simulation read the same one."""

    text: str

    @staticmethod
    def of(statements: Iterable[Statement]) -> Statements:
        """These statements."""
        return Statements(json.dumps([statement.to_text() for statement in statements]))

    def all(self) -> tuple[Statement, ...]:
        """The statements; no signature is checked.

        Raises:
            IdentityRefused: the text holds none.
        """
        return _read(self.text)


@lru_cache(maxsize=8)
def _read(text: str) -> tuple[Statement, ...]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise IdentityRefused("a list of signed statements can't be read: it was cut or changed")
    return tuple(Statement.from_text(str(each)) for each in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrol:
    """Say who you are, and that you want to take part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Draw the run secret for this membership (its text), and seal it to every member."""

    membership: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """You are a member of this membership (its text); here is its secret, sealed to you."""

    membership: str
    secret: SealedSecret


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Train, evaluate or release statistics.

    shown:     checkpoints of the sites' ledgers
    confirmed: members' confirmations of the model that this starts from
    """

    shown: tuple[Shown, ...]
    confirmed: Statements


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """Decrypt this sum. `heads`: the statements of the reports that are in it."""

    purpose: Purpose
    heads: Statements
    values: Frames
    tally: Frames


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """Seal the model that you hold to the other members."""

    confirmed: Statements


@dataclass(frozen=True, slots=True, kw_only=True)
class Receive:
    """You have missed rounds: here is the model, sealed by the member that signed `statement`."""

    statement: Statement
    sealed: bytes
    confirmed: Statements


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Give the server the run's model, as the plan says."""

    confirmed: Statements


Body: TypeAlias = Enrol | Draw | Join | Work | Take | HandOver | Receive | Release


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedOrder:
    """The server's wish.

    membership: digest of the membership that it is for; empty before there is one
    cohort:     names of the sites that take part in this round's sum
    statement:  signed by the server
    server:     the server's certificate
    """

    action: Action
    address: Address
    membership: str
    cohort: tuple[str, ...]
    body: Body
    statement: Statement
    server: Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedReport:
    """A site's part of a sum.

    statement: signed by the site over the frames and the mechanism
    encrypted_in_seconds: how long encrypting took
    mechanism, seeded, receipt: as in `federation.orders.TrainReport`
    """

    address: Address
    site: str
    purpose: Purpose
    values: Frames
    tally: Frames
    mechanism: Mechanism | None
    seeded: bool
    statement: Statement
    receipt: Receipt
    encrypted_in_seconds: float

    @property
    def digest(self) -> bytes:
        """SHA-256 of what it says: what its site's ledger settles."""
        return digest_of_statement(self.statement)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """A member holds this model.

    told: what the cohort's `teller` read from the sum that it took, in the clear: the share of values that were
          clipped, or the noisy totals of private metrics; empty from all others
    """

    statement: Statement
    told: Mapping[str, float]
    decrypted_in_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver:
    """The model that a member holds, sealed to all members."""

    statement: Statement
    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedModel:
    """The run's model in the clear, (P,), because the plan says release = "server"."""

    statement: Statement
    vector: NDArray[np.float32]


Reply: TypeAlias = Enrolment | SealedSecrets | Confirmation | EncryptedReport | HandedOver | ReleasedModel


def teller(cohort: tuple[str, ...]) -> str:
    """The one site of a cohort that tells the server numbers that it read from a sum, and once only.

    Were there two, a server that hands them sums of different reports would learn what one site had reported.
    """
    return min(cohort)


def digest_of_cohort(names: tuple[str, ...]) -> str:
    """SHA-256 of the names of a cohort, hex."""
    return hashlib.sha256(context("cohort", *(name.encode() for name in names))).hexdigest()


def digest_of_statement(statement: Statement) -> bytes:
    """SHA-256 of a signed statement."""
    return hashlib.sha256(statement.to_text().encode()).digest()
