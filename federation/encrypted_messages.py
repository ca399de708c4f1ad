"""Orders of encrypted runs <-> Flower's RecordDict.

What arrives is checked here, once; what the server's statement is worth is for who knows the authority
(`clients/member.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from federation.encrypted_orders import (
    Action,
    Body,
    Draw,
    EncryptedOrder,
    Enrol,
    HandOver,
    Join,
    Receive,
    Release,
    Statements,
    Take,
    Work,
)
from federation.envelopes import bytes_array, bytes_in, frame_records, frames_in, signed_in, text_in
from federation.layout import Layout
from federation.orders import Address
from federation.run_secret import SealedSecret
from federation.statements import Statement
from federation.wire import (
    FACTS,
    Facts,
    address_facts,
    address_in,
    facts_in,
    plain,
    shown_in,
    shown_with,
)
from privacy.entries import Purpose
from privacy.errors import IdentityRefused, MembershipRefused, OrderRefused, ReportRefused

_MODEL = "model"
_PURPOSES: Mapping[str, Purpose] = {"update": "update", "metrics": "metrics", "statistics": "statistics"}


def write_order(action: Action, address: Address, membership: str, cohort: Sequence[str], body: Body) -> RecordDict:
    """An order as Flower carries it, not yet signed."""
    facts: Facts = {
        "action": action,
        **address_facts(address),
        "membership": membership,
        "cohort": _names_text(tuple(cohort)),
    }
    records: dict[str, ArrayRecord | ConfigRecord] = {}
    match body:
        case Draw():
            facts["members"] = body.membership
        case Join():
            facts["members"], facts["secret"] = body.membership, body.secret.to_text()
        case Work() | HandOver() | Release():
            facts["confirmed"] = body.confirmed.text
        case Take():
            facts["purpose"], facts["heads"] = body.purpose, body.heads.text
            records |= frame_records(body.values, body.tally)
        case Receive():
            facts["confirmed"], facts["statement"] = body.confirmed.text, body.statement.to_text()
            records[_MODEL] = ArrayRecord({_MODEL: bytes_array(body.sealed)})
        case Enrol():
            pass
    content = RecordDict({FACTS: ConfigRecord(facts), **records})
    return shown_with(content, body.shown) if isinstance(body, Work) else content


def order_head(content: RecordDict) -> tuple[Address, str, tuple[str, ...]]:
    """The address, membership and cohort of an order. Raises KeyError or ValueError where it says none."""
    facts = facts_in(content)
    return address_in(facts), text_in(facts, "membership"), _names(text_in(facts, "cohort"))


def read_order(content: RecordDict, action: Action, layout: Layout) -> EncryptedOrder:
    """An order for this action, whose statement covers what it says; who signed it is not yet judged.

    Raises:
        OrderRefused: the message is malformed, for another action, or made for another model.
    """
    try:
        facts = facts_in(content)
        if facts["action"] != action:
            raise OrderRefused(f"the order says {str(facts['action'])[:40]!r}, but came as {action!r}")
        address, membership, cohort = order_head(content)
        if address.layout != layout.digest:
            raise OrderRefused(
                "the order is for a model of other tensors than this site's task has; install the same task"
            )
        statement, signer = signed_in(content)
        if signer is None:
            raise OrderRefused("the order lacks its server's certificate")
        return EncryptedOrder(
            action=action,
            address=address,
            membership=membership,
            cohort=cohort,
            body=_body(action, facts, content),
            statement=statement,
            server=signer,
        )
    except (ReportRefused, IdentityRefused, MembershipRefused, KeyError, ValueError, TypeError) as error:
        raise OrderRefused(f"the server's order can't be read: {plain(error)}") from None


def _body(action: Action, facts: Mapping[str, object], content: RecordDict) -> Body:
    match action:
        case "enrol":
            return Enrol()
        case "draw":
            return Draw(membership=text_in(facts, "members"))
        case "join":
            return Join(membership=text_in(facts, "members"), secret=SealedSecret.from_text(text_in(facts, "secret")))
        case "train" | "evaluate" | "statistics":
            return Work(shown=shown_in(content), confirmed=Statements(text_in(facts, "confirmed")))
        case "take":
            values, tally = frames_in(content)
            return Take(
                purpose=_PURPOSES[text_in(facts, "purpose")],
                heads=Statements(text_in(facts, "heads")),
                values=values,
                tally=tally,
            )
        case "hand_over":
            return HandOver(confirmed=Statements(text_in(facts, "confirmed")))
        case "receive":
            return Receive(
                statement=Statement.from_text(text_in(facts, "statement")),
                sealed=bytes_in(content.array_records[_MODEL][_MODEL]),
                confirmed=Statements(text_in(facts, "confirmed")),
            )
        case "release":
            return Release(confirmed=Statements(text_in(facts, "confirmed")))


@lru_cache(maxsize=4)
def _names_text(texts: tuple[str, ...]) -> str:
    return json.dumps(texts)


@lru_cache(maxsize=8)
def _names(text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except RecursionError:
        found = None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError("a list of texts is none")
    for each in found:
        each.encode()  # lone surrogates are JSON, but can't be signed
    return tuple(found)
