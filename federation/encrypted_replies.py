"""Sites' replies in encrypted runs <-> Flower's RecordDict.

Everything that arrives is checked here, once; what the statements are worth is for whoever knows the members
(`server/ceremony.py`). `digest_of_*` is what a reply's statement covers, for who is about to sign it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from federation.encrypted_orders import Confirmation, EncryptedReport, Frames, HandedOver, ReleasedModel
from federation.envelopes import (
    RECEIPT,
    bytes_array,
    bytes_in,
    frame_records,
    frames_in,
    number_in,
    readable,
    signed_digest,
    signed_in,
    signed_with,
    text_in,
)
from federation.layout import Layout
from federation.membership import Enrolment
from federation.orders import Expectation, Refusal
from federation.run_secret import SealedSecrets
from federation.wire import (
    FACTS,
    VECTOR,
    Facts,
    agreed_mechanism,
    array,
    facts_in,
    finite_vector,
    mechanism_text,
    refusal_in,
    truth,
)
from privacy.entries import Purpose
from privacy.mechanism import Mechanism
from privacy.receipts import Receipt

_MODEL = "model"
_MOST_TOLD = 64


def digest_of_part(values: Frames, tally: Frames, mechanism: Mechanism | None, seeded: bool) -> str:
    """What the statement of a report covers: SHA-256, hex."""
    return signed_digest(_part_content(values, tally, mechanism, seeded))


def _part_content(values: Frames, tally: Frames, mechanism: Mechanism | None, seeded: bool) -> RecordDict:
    facts: Facts = {"mechanism": mechanism_text(mechanism), "seeded": seeded}
    return RecordDict({FACTS: ConfigRecord(facts), **frame_records(values, tally)})


def write_report(report: EncryptedReport) -> RecordDict:
    """A report as Flower carries it."""
    content = _part_content(report.values, report.tally, report.mechanism, report.seeded)
    receipt: Facts = {"receipt": report.receipt.to_json(), "seconds": report.encrypted_in_seconds}
    return signed_with(RecordDict({**content, RECEIPT: ConfigRecord(receipt)}), report.statement)


def read_report(content: RecordDict, expected: Expectation, purpose: Purpose) -> EncryptedReport | Refusal:
    """A report for this purpose, or the site's refusal.

    Raises:
        ReportRefused: one of its kinds, saying what is wrong.
    """

    def read() -> EncryptedReport:
        facts, (statement, _), (values, tally) = facts_in(content), signed_in(content), frames_in(content)
        beside = content.config_records[RECEIPT]
        return EncryptedReport(
            address=expected.address,
            site=statement.name,
            purpose=purpose,
            values=values,
            tally=tally,
            mechanism=agreed_mechanism(facts, expected.prices[purpose]),
            seeded=truth(facts["seeded"]),
            statement=statement,
            receipt=Receipt.from_json(str(beside["receipt"])),
            encrypted_in_seconds=number_in(beside["seconds"]),
        )

    return refusal_in(content) or readable(read)


def write_enrolment(enrolment: Enrolment) -> RecordDict:
    """A site's wish to take part, which it signed itself."""
    return RecordDict({FACTS: ConfigRecord({"enrolment": enrolment.to_text()})})


def read_enrolment(content: RecordDict) -> Enrolment | Refusal:
    """What `write_enrolment` wrote, or a refusal. Raises ReportRefused."""
    return refusal_in(content) or readable(lambda: Enrolment.from_text(text_in(facts_in(content), "enrolment")))


def write_secrets(secrets: SealedSecrets) -> RecordDict:
    """The run secret, sealed to every member, each part signed by who drew it."""
    return RecordDict({FACTS: ConfigRecord({"secrets": secrets.to_text()})})


def read_secrets(content: RecordDict) -> SealedSecrets | Refusal:
    """What `write_secrets` wrote, or a refusal. Raises ReportRefused."""
    return refusal_in(content) or readable(lambda: SealedSecrets.from_text(text_in(facts_in(content), "secrets")))


def digest_of_confirmation(told: Mapping[str, float], seconds: float) -> str:
    """What the statement of a confirmation covers: SHA-256, hex."""
    return signed_digest(_confirmation_content(told, seconds))


def _confirmation_content(told: Mapping[str, float], seconds: float) -> RecordDict:
    numbers = json.dumps(dict(told), sort_keys=True)
    return RecordDict({FACTS: ConfigRecord({"told": numbers, "seconds": seconds})})


def write_confirmation(said: Confirmation) -> RecordDict:
    """A confirmation as Flower carries it."""
    return signed_with(_confirmation_content(said.told, said.decrypted_in_seconds), said.statement)


def read_confirmation(content: RecordDict) -> Confirmation | Refusal:
    """A signed confirmation, or a refusal. Raises ReportRefused."""

    def read() -> Confirmation:
        facts, (statement, _) = facts_in(content), signed_in(content)
        told = json.loads(text_in(facts, "told"))
        if len(told) > _MOST_TOLD:
            raise ValueError("it tells too much")
        return Confirmation(
            statement=statement,
            told={str(name)[:100]: number_in(value) for name, value in told.items()},
            decrypted_in_seconds=number_in(facts["seconds"]),
        )

    return refusal_in(content) or readable(read)


def digest_of_handover(sealed: bytes) -> str:
    """What the statement of a handover covers: SHA-256, hex."""
    return signed_digest(_handover_content(sealed))


def _handover_content(sealed: bytes) -> RecordDict:
    return RecordDict({_MODEL: ArrayRecord({_MODEL: bytes_array(sealed)})})


def write_handover(handed: HandedOver) -> RecordDict:
    """A sealed model as Flower carries it."""
    return signed_with(_handover_content(handed.sealed), handed.statement)


def read_handover(content: RecordDict) -> HandedOver | Refusal:
    """A signed, sealed model, or a refusal. Raises ReportRefused."""
    return refusal_in(content) or readable(
        lambda: HandedOver(statement=signed_in(content)[0], sealed=bytes_in(content.array_records[_MODEL][_MODEL]))
    )


def digest_of_model(vector: NDArray[np.float32]) -> str:
    """What the statement of a released model covers: SHA-256, hex."""
    return signed_digest(_model_content(vector))


def _model_content(vector: NDArray[np.float32]) -> RecordDict:
    return RecordDict({VECTOR: ArrayRecord({VECTOR: array(vector)})})


def write_model(released: ReleasedModel) -> RecordDict:
    """A model in the clear as Flower carries it."""
    return signed_with(_model_content(released.vector), released.statement)


def read_model(content: RecordDict, layout: Layout) -> ReleasedModel | Refusal:
    """A signed model in the clear, or a refusal. Raises ReportRefused."""
    return refusal_in(content) or readable(
        lambda: ReleasedModel(statement=signed_in(content)[0], vector=finite_vector(content, layout.length))
    )
