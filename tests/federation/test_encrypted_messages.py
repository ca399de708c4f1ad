"""Every order and reply of an encrypted run arrives as it was sent, and in no other's place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ArrayRecord

from federation.encrypted_messages import read_order, write_order
from federation.encrypted_orders import (
    Action,
    EncryptedReport,
    ReleasedModel,
    Take,
)
from federation.encrypted_replies import (
    digest_of_confirmation,
    digest_of_handover,
    digest_of_model,
    digest_of_part,
    read_confirmation,
    read_enrolment,
    read_handover,
    read_model,
    read_report,
    read_secrets,
    write_confirmation,
    write_enrolment,
    write_handover,
    write_model,
    write_report,
    write_secrets,
)
from federation.orders import Refusal
from federation.wire import write_refusal
from privacy.errors import MalformedReport, OrderRefused, ReportRefused
from tests.federation.encrypted_message_builders import (
    BODIES,
    CONFIRMED,
    EXPECTED,
    HANDED,
    HERE,
    MECHANISM,
    RELEASED,
    REPLIES,
    REPORT,
    TALLY,
    TOLD,
    VALUES,
    VECTOR,
    cipher,
    order,
    resigned,
    signed,
)
from tests.federation.membership_builders import (
    LAYOUT,
    MEMBERS,
    SECRETS,
    SERVER,
    SITES,
    WISHES,
    confirmations,
    said,
)


@pytest.mark.parametrize("action", list(BODIES))
def test_an_order_arrives_as_it_was_sent(action: Action) -> None:
    found = read_order(order(action), action, LAYOUT)
    assert (found.action, found.address, found.membership, found.cohort) == (action, HERE, MEMBERS.digest, SITES)
    assert found.body == BODIES[action]
    assert found.server == SERVER.certificate
    found.statement.verify(SERVER.identity.public())


@pytest.mark.parametrize("purpose", ["update", "metrics", "statistics"])
def test_a_sum_of_each_purpose_is_taken_as_that(purpose: str) -> None:
    body = Take(purpose=purpose, heads=confirmations("report"), values=VALUES, tally=TALLY)  # type: ignore[arg-type]
    assert read_order(order("take", body), "take", LAYOUT).body == body


def test_a_report_arrives_as_it_was_sent() -> None:
    found = read_report(write_report(REPORT), EXPECTED, "update")
    assert found == REPORT
    assert isinstance(found, EncryptedReport)
    assert found.digest == REPORT.digest


def test_a_report_without_privacy_arrives_as_it_was_sent() -> None:
    payload = digest_of_part(VALUES, (), None, False)
    plain = replace(REPORT, tally=(), mechanism=None, seeded=False, statement=said(kind="report", payload=payload))
    assert read_report(write_report(plain), replace(EXPECTED, prices={"update": None}), "update") == plain


def test_every_other_reply_arrives_as_it_was_sent() -> None:
    assert read_enrolment(write_enrolment(WISHES["north"])) == WISHES["north"]
    assert read_secrets(write_secrets(SECRETS)) == SECRETS
    assert read_confirmation(write_confirmation(CONFIRMED)) == CONFIRMED
    assert read_handover(write_handover(HANDED)) == HANDED
    found = read_model(write_model(RELEASED), LAYOUT)
    assert isinstance(found, ReleasedModel)
    assert (found.statement, found.vector.tobytes()) == (RELEASED.statement, VECTOR.tobytes())


@pytest.mark.parametrize("reply", list(REPLIES))
def test_a_refusal_arrives_in_the_place_of_any_reply(reply: str) -> None:
    refusal = Refusal(site="north", error="NotJoined", reason="ask it to enrol")
    assert REPLIES[reply][1](write_refusal(refusal)) == refusal


@pytest.mark.parametrize("action", list(BODIES))
@pytest.mark.parametrize("other", list(BODIES))
def test_an_order_of_another_action_is_refused(action: Action, other: Action) -> None:
    if action == other:
        return
    with pytest.raises(OrderRefused, match=f"the order says '{action}', but came as '{other}'"):
        read_order(order(action), other, LAYOUT)
    renamed = order(action)
    renamed["facts"]["action"] = other
    with pytest.raises(OrderRefused, match="of another content than the message has: it was changed"):
        read_order(renamed, other, LAYOUT)


@pytest.mark.parametrize("reply", list(REPLIES))
@pytest.mark.parametrize("other", list(REPLIES))
def test_a_reply_of_another_kind_is_refused(reply: str, other: str) -> None:
    if reply == other:
        return
    with pytest.raises(ReportRefused):
        REPLIES[other][1](REPLIES[reply][0]())


def test_a_digest_is_of_everything_that_a_part_says() -> None:
    digests = [
        digest_of_part(VALUES, TALLY, MECHANISM, True),
        digest_of_part(VALUES, TALLY, MECHANISM, False),
        digest_of_part(VALUES, TALLY, None, True),
        digest_of_part(VALUES[1:], TALLY, MECHANISM, True),
        digest_of_part(VALUES[::-1], TALLY, MECHANISM, True),
        digest_of_part(VALUES, (), MECHANISM, True),
        digest_of_part(VALUES + TALLY, (), MECHANISM, True),
        digest_of_part((b"ab", b"c"), TALLY, MECHANISM, True),
        digest_of_part((b"a", b"bc"), TALLY, MECHANISM, True),
        digest_of_confirmation(TOLD, 0.5),
        digest_of_confirmation(TOLD, 0.25),
        digest_of_confirmation({"clipped": 0.25}, 0.5),
        digest_of_handover(b"sealed"),
        digest_of_handover(b"sealed?"),
        digest_of_model(VECTOR),
        digest_of_model(-VECTOR),
    ]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("stype", ["", "numpy.ndarray", "torch.Tensor", "fedseal.little-endian"])
def test_arrays_that_are_no_ciphertexts_are_refused(stype: str) -> None:
    frames = ArrayRecord({"000000": cipher(b"frame", stype)})
    for action, name in (("take", "values"), ("take", "tally")):
        content = write_order(action, HERE, MEMBERS.digest, SITES, BODIES[action])  # type: ignore[index, arg-type]
        content[name] = frames
        with pytest.raises(OrderRefused, match="an array is no ciphertext"):
            read_order(signed(content), "take", LAYOUT)
    content = write_order("receive", HERE, MEMBERS.digest, SITES, BODIES["receive"])
    content["model"] = ArrayRecord({"model": cipher(b"model", stype)})
    with pytest.raises(OrderRefused, match="an array is no ciphertext"):
        read_order(signed(content), "receive", LAYOUT)


@pytest.mark.parametrize(("reply", "record"), [("report", "values"), ("report", "tally"), ("handover", "model")])
@pytest.mark.parametrize("stype", ["", "numpy.ndarray", "fedseal.little-endian"])
def test_a_site_that_signs_arrays_of_another_kind_is_refused(reply: str, record: str, stype: str) -> None:
    content = REPLIES[reply][0]()
    content[record] = ArrayRecord({record: cipher(b"frame", stype)})
    with pytest.raises(MalformedReport, match="an array is no ciphertext"):
        REPLIES[reply][1](resigned(content))


def test_a_model_that_is_serialised_otherwise_is_refused() -> None:
    content = write_model(RELEASED)
    content["vector"] = ArrayRecord({"vector": cipher(VECTOR.tobytes())})
    with pytest.raises(ReportRefused, match="not float32 as"):
        read_model(resigned(content, "release"), LAYOUT)
    longer = np.zeros(4, np.float32)
    other = ReleasedModel(statement=said(kind="release", payload=digest_of_model(longer)), vector=longer)
    with pytest.raises(ReportRefused, match="has shape"):
        read_model(write_model(other), LAYOUT)
