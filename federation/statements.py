"""What parties of an encrypted run sign: short statements that travel beside what they speak of, and on to others.

An Ed25519 signature (RFC 8032) over the run, round, plan, layout, membership and cohort that a message belongs to, the
SHA-256 of the message, and the model that it speaks of. Flower does not bind a reply to its sender: this does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

from federation.orders import Address
from privacy.errors import IdentityRefused
from privacy.identity import Identity, PublicIdentity
from privacy.sealing import context

Kind: TypeAlias = Literal["order", "report", "confirmation", "handover", "release"]

_LARGEST = 4096  # characters
_TEXTS = ("run", "plan", "layout", "membership", "cohort", "payload", "model", "name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One signed statement.

    kind:       what the message is: an order of the server, or a site's report, confirmation, handover or release
    round:      the round of the message; of a confirmation, that in which it was asked for
    membership, cohort: digests of whom the message is for, hex
    payload:    SHA-256 of the message, hex
    model:      digest of the model that the message starts from, or came to, hex; empty in orders
    name:       who signs
    signature:  Ed25519, hex; empty before it is signed
    """

    kind: Kind
    run: str
    round: int
    plan: str
    layout: str
    membership: str
    cohort: str
    payload: str
    model: str
    name: str
    signature: str = ""

    @property
    def address(self) -> Address:
        """What the message belongs to."""
        return Address(run=self.run, round=self.round, plan=self.plan, layout=self.layout)

    def signed(self, identity: Identity) -> Statement:
        """The same with a signature."""
        return replace(self, signature=identity.sign("statement", self._message()).hex())

    def verify(self, identity: PublicIdentity) -> None:
        """Passes a statement that this party signed.

        Raises:
            IdentityRefused: it did not.
        """
        _verify(self, identity)

    def to_text(self) -> str:
        """One line of JSON."""
        texts = {name: getattr(self, name) for name in _TEXTS}
        return json.dumps({**texts, "kind": self.kind, "round": self.round, "signature": self.signature})

    @staticmethod
    def from_text(text: str) -> Statement:
        """The statement that `to_text` wrote; its signature is not checked.

        Raises:
            IdentityRefused: the text holds none.
        """
        return _read(text)

    def _message(self) -> bytes:
        parts = (self.kind, str(self.round), *(getattr(self, name) for name in _TEXTS))
        return context("statement", *(part.encode() for part in parts))


@lru_cache(maxsize=16_384)
def _read(text: str) -> Statement:
    """Remembered, because all sites of a simulation read the same ones; as is whether a signature holds."""
    try:
        found = json.loads(text) if len(text) <= _LARGEST else None
        if not isinstance(found, dict) or found["kind"] not in get_args(Kind) or type(found["round"]) is not int:
            raise ValueError
        if not all(isinstance(found[name], str) for name in (*_TEXTS, "signature")) or len(found) != len(_TEXTS) + 3:
            raise ValueError
        statement = Statement(**found)
        statement._message()  # lone surrogates are JSON, but can't be signed
        return statement
    except (ValueError, KeyError, TypeError, RecursionError):
        raise IdentityRefused("a signed statement can't be read: it was cut or changed") from None


@lru_cache(maxsize=16_384)
def _verify(statement: Statement, identity: PublicIdentity) -> None:
    if statement.name != identity.name:
        raise IdentityRefused(f"the statement says that {statement.name!r} made it, not {identity.name!r}")
    try:
        signature = bytes.fromhex(statement.signature)
    except ValueError:
        signature = b""
    identity.verify(signature, "statement", statement._message())
