"""Honest orders and replies of an encrypted run, one of each; tests change one thing of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from flwr.app import Array, RecordDict

from federation.encrypted_messages import write_order
from federation.encrypted_orders import (
    Action,
    Body,
    Confirmation,
    Draw,
    EncryptedReport,
    Enrol,
    HandedOver,
    HandOver,
    Join,
    Receive,
    Release,
    ReleasedModel,
    Take,
    Work,
    digest_of_cohort,
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
from federation.envelopes import signed_digest, signed_with
from federation.orders import Address, Expectation
from federation.statements import Statement
from privacy.mechanism import Mechanism
from privacy.shown import Shown
from tests.client_builders import ledger_of
from tests.federation.membership_builders import (
    LAYOUT,
    MEMBERS,
    PLAN,
    RUN,
    SECRETS,
    SERVER,
    SITES,
    WISHES,
    confirmations,
    said,
)

HERE = Address(run=RUN, round=3, plan=PLAN.digest, layout=LAYOUT.digest)
MECHANISM = Mechanism(noise_multiplier=1.5, sample_rate=0.25, steps=4, max_grad_norm=1.0)
EXPECTED = Expectation(address=HERE, layout=LAYOUT, prices={"update": MECHANISM, "metrics": MECHANISM})
VECTOR = np.array([1.0, -2.5, 3e-8], dtype=np.float32)
RECEIPT = ledger_of().reveal([0, 1])
SHOWN = (Shown(verifying=bytes(32), note="a note"), Shown(verifying=b"\x01" * 32, note="another\nnote"))
VALUES, TALLY = tuple(bytes([number]) * 5 for number in range(12)), (b"tally",)
CIPHERTEXT = "fedseal.ciphertext"

BODIES: dict[Action, Body] = {
    "enrol": Enrol(),
    "draw": Draw(membership=MEMBERS.to_text()),
    "join": Join(membership=MEMBERS.to_text(), secret=SECRETS.for_member("north")),
    "train": Work(shown=SHOWN, confirmed=confirmations()),
    "evaluate": Work(shown=(), confirmed=confirmations(names=())),
    "statistics": Work(shown=SHOWN[:1], confirmed=confirmations()),
    "take": Take(purpose="metrics", heads=confirmations("report"), values=VALUES, tally=TALLY),
    "hand_over": HandOver(confirmed=confirmations()),
    "receive": Receive(statement=said(kind="handover"), sealed=b"a sealed model", confirmed=confirmations()),
    "release": Release(confirmed=confirmations()),
}


def order(action: Action, body: Body | None = None) -> RecordDict:
    """An order, signed."""
    content = write_order(action, HERE, MEMBERS.digest, SITES, body or BODIES[action])
    return signed(content)


def signed(content: RecordDict) -> RecordDict:
    """The order under a new signature of the server's."""
    statement = Statement(
        kind="order",
        run=RUN,
        round=3,
        plan=PLAN.digest,
        layout=LAYOUT.digest,
        membership=MEMBERS.digest,
        cohort=digest_of_cohort(SITES),
        payload=signed_digest(content),
        model="",
        name="server",
    )
    return signed_with(content, statement.signed(SERVER.identity), SERVER.certificate)


REPORT = EncryptedReport(
    address=HERE,
    site="north",
    purpose="update",
    values=VALUES,
    tally=TALLY,
    mechanism=MECHANISM,
    seeded=True,
    statement=said(kind="report", round=3, payload=digest_of_part(VALUES, TALLY, MECHANISM, True)),
    receipt=RECEIPT,
    encrypted_in_seconds=0.125,
)
TOLD = {"clipped": 0.25, "count": -3.0}
CONFIRMED = Confirmation(statement=said(payload=digest_of_confirmation(TOLD, 0.5)), told=TOLD, decrypted_in_seconds=0.5)
HANDED = HandedOver(statement=said(kind="handover", payload=digest_of_handover(b"sealed")), sealed=b"sealed")
RELEASED = ReleasedModel(statement=said(kind="release", payload=digest_of_model(VECTOR)), vector=VECTOR)

REPLIES: dict[str, tuple[Callable[[], RecordDict], Callable[[RecordDict], object]]] = {
    "report": (lambda: write_report(REPORT), lambda content: read_report(content, EXPECTED, "update")),
    "enrolment": (lambda: write_enrolment(WISHES["north"]), read_enrolment),
    "secrets": (lambda: write_secrets(SECRETS), read_secrets),
    "confirmation": (lambda: write_confirmation(CONFIRMED), read_confirmation),
    "handover": (lambda: write_handover(HANDED), read_handover),
    "model": (lambda: write_model(RELEASED), lambda content: read_model(content, LAYOUT)),
}
SIGNED = [name for name in REPLIES if name not in ("enrolment", "secrets")]  # these are signed themselves


def cipher(data: bytes, stype: str = CIPHERTEXT) -> Array:
    return Array(dtype="uint8", shape=(len(data),), stype=stype, data=data)


def resigned(content: RecordDict, kind: str = "report") -> RecordDict:
    """The reply under a new signature of its site's."""
    return signed_with(content, said(kind=kind, round=3, payload=signed_digest(content)))
