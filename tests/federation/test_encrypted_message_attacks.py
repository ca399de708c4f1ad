"""Somebody between changes a message, or its sender signs nonsense: each is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from federation.encrypted_messages import read_order, write_order
from federation.encrypted_orders import (
    Action,
    Confirmation,
)
from federation.encrypted_replies import digest_of_part, read_confirmation, read_report, write_report
from federation.envelopes import signed_with
from federation.layout import Layout
from privacy.errors import FedSealError, MalformedReport, OrderRefused, ReportRefused, WrongMechanism
from tests.federation.encrypted_message_builders import (
    BODIES,
    EXPECTED,
    HERE,
    MECHANISM,
    REPLIES,
    REPORT,
    SIGNED,
    TALLY,
    VALUES,
    cipher,
    order,
    resigned,
    signed,
)
from tests.federation.membership_builders import (
    LAYOUT,
    MEMBERS,
    SERVER,
    SITES,
    member,
    said,
)


def edits() -> dict[str, Callable[[RecordDict], None]]:
    """What somebody between could do to any message."""

    def add_fact(content: RecordDict) -> None:
        content.setdefault("facts", ConfigRecord())["more"] = 1

    def add_record(content: RecordDict) -> None:
        content["more"] = ConfigRecord({"more": 1})

    def add_array(content: RecordDict) -> None:
        content["more"] = ArrayRecord({"more": cipher(b"")})

    def add_metrics(content: RecordDict) -> None:
        content["more"] = MetricRecord({"more": 1})

    return {"a fact": add_fact, "facts": add_record, "an array": add_array, "metrics": add_metrics}


@pytest.mark.parametrize("edit", list(edits()))
@pytest.mark.parametrize("action", list(BODIES))
def test_an_order_to_which_something_was_added_is_refused(action: Action, edit: str) -> None:
    content = order(action)
    edits()[edit](content)
    with pytest.raises(OrderRefused, match=r"it was changed|a record that FedSeal does not send"):
        read_order(content, action, LAYOUT)


@pytest.mark.parametrize("edit", list(edits()))
@pytest.mark.parametrize("reply", SIGNED)
def test_a_reply_to_which_something_was_added_is_refused(reply: str, edit: str) -> None:
    content = REPLIES[reply][0]()
    edits()[edit](content)
    with pytest.raises(MalformedReport, match=r"it was changed|a record that FedSeal does not send"):
        REPLIES[reply][1](content)


@pytest.mark.parametrize("action", list(BODIES))
def test_no_fact_and_no_array_of_an_order_can_be_changed_or_left_out(action: Action) -> None:
    for edit in changes(order(action)):
        content = order(action)
        edit(content)
        with pytest.raises(OrderRefused):
            read_order(content, action, LAYOUT)


@pytest.mark.parametrize("reply", SIGNED)
def test_no_fact_and_no_array_of_a_signed_reply_can_be_changed_or_left_out(reply: str) -> None:
    for edit in changes(REPLIES[reply][0]()):
        content = REPLIES[reply][0]()
        edit(content)
        with pytest.raises(ReportRefused):
            REPLIES[reply][1](content)


def changes(content: RecordDict) -> list[Callable[[RecordDict], None]]:
    """Every signed fact and array, changed or left out."""
    found: list[Callable[[RecordDict], None]] = []
    for name, record in content.items():
        if name in ("signed", "receipt", "ledgers"):
            continue
        for key, value in record.items():

            def drop(content: RecordDict, name: str = name, key: str = key) -> None:
                del content[name][key]

            def change(content: RecordDict, name: str = name, key: str = key, value: object = value) -> None:
                content[name][key] = other_than(value)

            found += [drop, change]
    return found


def other_than(value: object) -> object:
    if isinstance(value, Array):
        return Array(dtype=value.dtype, shape=value.shape, stype=value.stype, data=bytes(value.data[:-1]) + b"?")
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value[:-1] + chr(ord(value[-1]) ^ 1) if value else "?"
    assert isinstance(value, int | float)
    return value + 1


def test_frames_that_change_places_are_another_sum() -> None:
    content = order("take")
    record = content["values"]
    record["000000"], record["000001"] = record["000001"], record["000000"]
    with pytest.raises(OrderRefused, match="it was changed"):
        read_order(content, "take", LAYOUT)
    content = order("take")
    content["values"], content["tally"] = content["tally"], content["values"]
    with pytest.raises(OrderRefused, match="it was changed"):
        read_order(content, "take", LAYOUT)


def test_an_order_without_the_servers_certificate_is_refused() -> None:
    content = order("enrol")
    del content["signed"]["certificate"]
    with pytest.raises(OrderRefused, match="lacks its server's certificate"):
        read_order(content, "enrol", LAYOUT)
    content["signed"]["certificate"] = "{}"
    with pytest.raises(OrderRefused, match="no certificate of FedSeal"):
        read_order(content, "enrol", LAYOUT)
    del content["signed"]
    with pytest.raises(OrderRefused, match="can't be read"):
        read_order(content, "enrol", LAYOUT)


def test_an_order_for_another_model_is_refused() -> None:
    with pytest.raises(OrderRefused, match="of other tensors than this site's task has"):
        read_order(order("enrol"), "enrol", Layout(names=("weight",), shapes=((3,),)))


NONSENSE = [
    "",
    "null",
    "3",
    "{}",
    "[",
    "[" * 100_000,
    "9" * 5000,
    '"\ud800"',
    '["\\ud800"]',
    3,
    1.5,
    True,
    b"\xff",
    [3],
]


@pytest.mark.parametrize("value", NONSENSE, ids=range(len(NONSENSE)))
@pytest.mark.parametrize("action", list(BODIES))
def test_a_server_that_signs_nonsense_gets_a_refusal(action: Action, value: object) -> None:
    """Whatever fact it is, the order is refused when it is read, or as another than was signed; or it is but text."""
    for name in ("action", "run", "round", "plan", "layout", "membership", "cohort", *EXTRA.get(action, ())):
        content = write_order(action, HERE, MEMBERS.digest, SITES, BODIES[action])
        content["facts"][name] = value
        try:
            found = read_order(signed_or_none(content), action, LAYOUT)
            member().refuse_stranger(found)
        except FedSealError:
            continue
        is_honest = (name, str(value)) == ("round", "3")
        assert is_honest or name in ("members", "confirmed", "heads"), (name, value)


EXTRA: dict[Action, tuple[str, ...]] = {
    "draw": ("members",),
    "join": ("members", "secret"),
    "train": ("confirmed",),
    "take": ("purpose", "heads"),
    "receive": ("confirmed", "statement"),
    "release": ("confirmed",),
}


def signed_or_none(content: RecordDict) -> RecordDict:
    """Signed where it can be: facts that JSON can't hold have no digest, so that they come with another's."""
    try:
        return signed(content)
    except TypeError:
        return signed_with(content, said(), SERVER.certificate)


@pytest.mark.parametrize("told", ["", "[]", "3", "null", "[" * 100_000, '{"a": "b"}', '{"a": NaN}', '{"a": true}'])
def test_a_site_that_tells_nonsense_is_refused(told: str) -> None:
    with pytest.raises(MalformedReport, match="the message can't be read"):
        read_confirmation(confirmed_with(told, 0.5))


def test_a_number_beyond_all_floats_is_refused_by_name() -> None:
    for number in ("1" + "0" * 400, "1e999", "-1e999", "Infinity"):
        with pytest.raises(MalformedReport, match="the message can't be read"):
            read_confirmation(confirmed_with(f'{{"a": {number}}}', 0.5))
    for seconds in (math.inf, math.nan):
        with pytest.raises(MalformedReport, match="a number is none"):
            read_confirmation(confirmed_with("{}", seconds))


def test_a_site_that_tells_too_much_is_refused() -> None:
    most = json.dumps({str(number): 1.0 for number in range(64)})
    assert isinstance(read_confirmation(confirmed_with(most, 0.5)), Confirmation)
    with pytest.raises(MalformedReport, match="it tells too much"):
        read_confirmation(confirmed_with(json.dumps({str(number): 1.0 for number in range(65)}), 0.5))


def confirmed_with(told: str, seconds: float) -> RecordDict:
    content = RecordDict({"facts": ConfigRecord({"told": told, "seconds": seconds})})
    return resigned(content, "confirmation")


@pytest.mark.parametrize("value", ["yes", 1, 0.0, b""])
def test_a_site_that_does_not_say_whether_its_noise_is_seeded_is_refused(value: str | int | float | bytes) -> None:
    content = write_report(REPORT)
    content["facts"]["seeded"] = value
    with suppress(TypeError):  # bytes have no digest
        content = resigned(content)
    with pytest.raises(MalformedReport):
        read_report(content, EXPECTED, "update")


def test_a_report_of_another_mechanism_is_refused() -> None:
    other = replace(MECHANISM, noise_multiplier=1.4)
    payload = digest_of_part(VALUES, TALLY, other, True)
    weaker = replace(REPORT, mechanism=other, statement=said(kind="report", payload=payload))
    with pytest.raises(WrongMechanism, match="but the plan asks for"):
        read_report(write_report(weaker), EXPECTED, "update")


def test_the_receipt_is_not_what_the_statement_covers_but_must_be_one() -> None:
    """The site's ledger signs it, and settles the statement's digest: the one can't cover the other."""
    content = write_report(REPORT)
    content["receipt"]["receipt"] = "{}"
    with pytest.raises(ReportRefused, match="receipt"):
        read_report(content, EXPECTED, "update")
    content = write_report(REPORT)
    content["receipt"]["seconds"] = math.inf
    with pytest.raises(MalformedReport, match="a number is none"):
        read_report(content, EXPECTED, "update")
    del content["receipt"]
    with pytest.raises(MalformedReport):
        read_report(content, EXPECTED, "update")
