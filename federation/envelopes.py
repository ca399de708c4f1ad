"""What every message of an encrypted run is wrapped in: its statement, and ciphertexts as Flower Arrays.

A message's statement covers all of its records but the site's receipt (which its ledger signs), the checkpoints of
ledgers (signed by their ledgers), and the statement itself. Ciphertexts travel as Arrays of bytes under a serialisation
type of ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from federation.encrypted_orders import Frames
from federation.statements import Statement
from federation.wire import LEDGERS, Facts, content_digest, plain
from privacy.certificates import Certificate
from privacy.errors import IdentityRefused, MalformedReport, MembershipRefused

RECEIPT = "receipt"
_SIGNED = "signed"
_NOT_SIGNED = (_SIGNED, RECEIPT, LEDGERS)
_CIPHERTEXT = "fedseal.ciphertext"
_VALUES, _TALLY = "values", "tally"
_LARGEST_TEXT = 1 << 26  # characters

_Reply = TypeVar("_Reply")


def signed_digest(content: RecordDict) -> str:
    """SHA-256 of what a message's statement covers, hex."""
    return content_digest(content, _NOT_SIGNED)


def signed_with(content: RecordDict, statement: Statement, signer: Certificate | None = None) -> RecordDict:
    """The message with its statement; orders carry the server's certificate as well."""
    facts: Facts = {"statement": statement.to_text()}
    if signer is not None:
        facts["certificate"] = signer.to_json()
    return RecordDict({**content, _SIGNED: ConfigRecord(facts)})


def signed_in(content: RecordDict) -> tuple[Statement, Certificate | None]:
    """A message's statement, which covers the message, and its signer's certificate; no signature is checked yet."""
    record = content.config_records[_SIGNED]
    statement = Statement.from_text(text_in(record, "statement"))
    if statement.payload != signed_digest(content):
        raise MalformedReport("the signed statement is of another content than the message has: it was changed")
    certificate = record.get("certificate")
    return statement, None if certificate is None else Certificate.from_json(str(certificate))


def readable(read: Callable[[], _Reply]) -> _Reply:
    """What `read` reads of a reply.

    Raises:
        MalformedReport: it can't.
    """
    try:
        return read()
    except (
        IdentityRefused,
        MembershipRefused,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise MalformedReport(f"the message can't be read: {plain(error)}") from None


def frame_records(values: Frames, tally: Frames) -> dict[str, ArrayRecord]:
    """The ciphertexts of a part or a sum."""
    return {
        name: ArrayRecord({f"{number:06d}": bytes_array(frame) for number, frame in enumerate(frames)})
        for name, frames in ((_VALUES, values), (_TALLY, tally))
    }


def frames_in(content: RecordDict) -> tuple[Frames, Frames]:
    """The ciphertexts of the values and of the tally. Raises KeyError or ValueError where they are not there."""
    records = (content.array_records[name] for name in (_VALUES, _TALLY))
    values, tally = (tuple(bytes_in(record[key]) for key in sorted(record)) for record in records)
    return values, tally


def bytes_array(data: bytes) -> Array:
    """Sealed bytes as Flower carries them."""
    return Array(dtype="uint8", shape=(len(data),), stype=_CIPHERTEXT, data=data)


def bytes_in(found: Array) -> bytes:
    """The bytes of an array; raises ValueError where it holds others."""
    if found.stype != _CIPHERTEXT:
        raise ValueError("an array is no ciphertext")
    return bytes(found.data)


def text_in(facts: Mapping[str, object], key: str) -> str:
    """A text among facts; raises KeyError or ValueError where it is none."""
    text = facts[key]
    if not isinstance(text, str) or len(text) > _LARGEST_TEXT:
        raise ValueError(f"its {key} is no text, or too long")
    return text


def number_in(value: object) -> float:
    """A finite number; raises ValueError where it is none."""
    if not isinstance(value, float | int) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError("a number is none")
    return float(value)
