"""The pieces that every message is made of: facts, addresses, arrays, and what is checked of each when it arrives.

Values travel as raw little-endian bytes under serialisation types of ours, so that nothing from outside reaches a
loader that could do more than copy numbers. P is the length of the layout's vector.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, ConfigRecordValues, RecordDict
from numpy.typing import NDArray

from federation.orders import Address, Refusal
from privacy.errors import (
    LateReport,
    MalformedReport,
    MechanismUnsound,
    MissingTensor,
    NotFinite,
    WrongMechanism,
    WrongPlan,
    WrongRun,
    WrongShape,
)
from privacy.mechanism import Mechanism
from privacy.sealing import context
from privacy.shown import Shown
from privacy.witness import MOST_SHOWN

Facts: TypeAlias = dict[str, ConfigRecordValues]

FACTS, VECTOR, SUMS, REFUSAL, LEDGERS = "facts", "vector", "sums", "refusal", "ledgers"
_SERIALISATION = "fedseal.little-endian"
_LARGEST_METRICS = 1 << 20
_MOST_DIMENSIONS = 8
_LARGEST_SHOWN = 1 << 20  # characters
_LARGEST_VALUE = 1e9  # its square is far from overflow, so that no optimizer's state can be spoilt for ever


def write_refusal(refusal: Refusal) -> RecordDict:
    """A refusal as Flower carries it."""
    facts: Facts = {"site": refusal.site, "error": refusal.error, "reason": refusal.reason}
    return RecordDict({REFUSAL: ConfigRecord(facts)})


def refusal_in(content: RecordDict) -> Refusal | None:
    """The site's refusal, where the reply is one."""
    record = content.get(REFUSAL)
    if not isinstance(record, ConfigRecord):
        return None
    site, error, reason = (str(record.get(key, ""))[:2000] for key in ("site", "error", "reason"))
    return Refusal(site=site, error=error, reason=reason)


def payload_bytes(content: RecordDict) -> int:
    """Bytes of all arrays in a message: what dominates on the wire."""
    records = [record for record in content.values() if isinstance(record, ArrayRecord)]
    return sum(len(array.data) for record in records for array in record.values())


def content_digest(content: RecordDict, without: Collection[str]) -> str:
    """SHA-256 of all records of a message but these, hex: what its signature covers."""
    digest = hashlib.sha256()
    for name in sorted(set(content) - set(without)):
        record = content[name]
        digest.update(context("record", name.encode()))
        if isinstance(record, ConfigRecord):
            for key in sorted(record):
                digest.update(context("fact", key.encode(), _fact_digest(record[key])))
        elif isinstance(record, ArrayRecord):
            for key in sorted(record):
                array = record[key]
                head = json.dumps([key, array.dtype, list(array.shape), array.stype, len(array.data)])
                digest.update(context("array", head.encode()))
                digest.update(array.data)
        else:
            raise MalformedReport("the message holds a record that FedSeal does not send")
    return digest.hexdigest()


def _fact_digest(value: ConfigRecordValues) -> bytes:
    if isinstance(value, str):
        return _text_digest(value)
    return hashlib.sha256(json.dumps([type(value).__name__, value]).encode()).digest()


@lru_cache(maxsize=16)
def _text_digest(text: str) -> bytes:
    """Remembered, because a simulation's sites are shown the same long texts."""
    return hashlib.sha256(context("text", text.encode(errors="surrogatepass"))).digest()


def address_facts(address: Address) -> Facts:
    """An address among a message's facts."""
    return {"run": address.run, "round": address.round, "plan": address.plan, "layout": address.layout}


def address_in(facts: Mapping[str, object]) -> Address:
    """The address that facts say. Raises KeyError or ValueError where they say none."""
    return Address(
        run=str(facts["run"]), round=int(str(facts["round"])), plan=str(facts["plan"]), layout=str(facts["layout"])
    )


def facts_in(content: RecordDict) -> Mapping[str, object]:
    """A message's facts.

    Raises:
        MalformedReport: it has none.
    """
    facts = content.get(FACTS)
    if not isinstance(facts, ConfigRecord):
        raise MalformedReport("the message holds no facts (run, round, plan)")
    return dict(facts.items())


def facts_of(content: RecordDict, expected: Address) -> Mapping[str, object]:
    """The facts of a message that was made for this run, plan, round and layout.

    Raises:
        ReportRefused: it was made for another, or says none.
    """
    facts = facts_in(content)
    try:
        address = address_in(facts)
    except (KeyError, ValueError) as error:
        raise MalformedReport(f"the message's facts can't be read: {plain(error)}") from None
    refuse_other_address(address, expected)
    return facts


def refuse_other_address(address: Address, expected: Address) -> None:
    """Passes a message that was made for this run, plan, round and layout.

    Raises:
        WrongRun, WrongPlan, LateReport, WrongShape: it was made for another.
    """
    if address.run != expected.run:
        raise WrongRun(f"made for run {address.run}, this is run {expected.run}")
    if address.plan != expected.plan:
        raise WrongPlan(f"made under plan {address.plan[:12]}…, this run's plan is {expected.plan[:12]}…")
    if address.round != expected.round:
        raise LateReport(f"made for round {address.round}, this is round {expected.round}")
    if address.layout != expected.layout:
        raise WrongShape("made for a model of other tensors: the site's task is not the server's")


def shown_with(order: RecordDict, shown: Sequence[Shown]) -> RecordDict:
    """The same order, its arrays shared, with these checkpoints of the sites' ledgers."""
    return RecordDict({**order, LEDGERS: ConfigRecord({LEDGERS: _shown_text(tuple(shown))})})


def shown_in(content: RecordDict) -> tuple[Shown, ...]:
    """The checkpoints of ledgers that an order shows. Raises KeyError or ValueError where it shows none."""
    return _read_shown(str(content.config_records[LEDGERS][LEDGERS]))


@lru_cache(maxsize=4)
def _shown_text(shown: tuple[Shown, ...]) -> str:
    return json.dumps([[each.verifying.hex(), each.note] for each in shown])


@lru_cache(maxsize=4)
def _read_shown(text: str) -> tuple[Shown, ...]:
    try:
        found = json.loads(text) if len(text) <= _LARGEST_SHOWN else None
    except RecursionError:
        found = None
    if not isinstance(found, list) or len(found) > MOST_SHOWN:
        raise ValueError("its checkpoints of ledgers are no list, or too many")
    return tuple(Shown(verifying=bytes.fromhex(key), note=str(note)) for key, note in found)


def array(values: NDArray[np.float32] | NDArray[np.float64]) -> Array:
    """Numbers as Flower carries them."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return Array(dtype=values.dtype.name, shape=values.shape, stype=_SERIALISATION, data=little.tobytes())


def finite_vector(content: RecordDict, length: int) -> NDArray[np.float32]:
    """A message's model vector or update, (P,).

    Raises:
        MissingTensor, WrongShape, NotFinite: it is not there, or not such a vector.
    """
    record = content.get(VECTOR)
    if not isinstance(record, ArrayRecord) or VECTOR not in record:
        raise MissingTensor("the message holds no model vector")
    found = record[VECTOR]
    if found.stype != _SERIALISATION or found.dtype != "float32":
        raise WrongShape(
            f"the vector is {found.dtype} serialised as {found.stype!r}, not float32 as {_SERIALISATION!r}"
        )
    if tuple(found.shape) != (length,) or len(found.data) != 4 * length:
        raise WrongShape(f"the vector has shape {tuple(found.shape)} in {len(found.data)} bytes, not ({length},)")
    vector = np.frombuffer(found.data, dtype="<f4")  # (P,)
    if not np.isfinite(vector).all():
        raise NotFinite("the vector holds NaN or infinity")
    if length and float(np.abs(vector).max()) > _LARGEST_VALUE:
        raise NotFinite(f"the vector holds a value beyond {_LARGEST_VALUE:g}, which would drown every other site")
    return vector


def finite_sums(name: str, found: Array) -> NDArray[np.float64]:
    """A metric's sums, of any small shape.

    Raises:
        WrongShape, NotFinite: they are no such numbers.
    """
    if found.stype != _SERIALISATION or found.dtype != "float64":
        raise WrongShape(f"metric {name[:100]!r} is {found.dtype} serialised as {found.stype!r}")
    shape = tuple(found.shape)
    small = len(shape) <= _MOST_DIMENSIONS and all(0 <= length <= _LARGEST_METRICS for length in shape)
    if not small or len(found.data) > _LARGEST_METRICS or len(found.data) != 8 * math.prod(shape):
        raise WrongShape(f"metric {name[:100]!r} has shape {str(shape)[:100]} in {len(found.data)} bytes")
    values = np.frombuffer(found.data, dtype="<f8").reshape(shape).copy()
    if not np.isfinite(values).all():
        raise NotFinite(f"metric {name[:100]!r} holds NaN or infinity")
    return values


def mechanism_text(mechanism: Mechanism | None) -> str:
    """A mechanism among facts."""
    return "none" if mechanism is None else json.dumps(mechanism.facts(), sort_keys=True)


def agreed_mechanism(facts: Mapping[str, object], expected: Mechanism | None) -> Mechanism | None:
    """What a report says that its site did, which must be what the plan asks for.

    Raises:
        MalformedReport, WrongMechanism: it says nothing that can be read, or something else.
    """
    try:
        mechanism = _mechanism(str(facts["mechanism"]))
    except (KeyError, ValueError, MechanismUnsound) as error:
        raise MalformedReport(f"the report's facts can't be read: {plain(error)}") from None
    if mechanism != expected:
        raise WrongMechanism(f"the site states {mechanism}, but the plan asks for {expected}")
    return mechanism


def _mechanism(text: str) -> Mechanism | None:
    if text == "none":
        return None
    try:
        facts = json.loads(text)
    except RecursionError:
        raise MechanismUnsound("a mechanism whose facts nest without end can't be priced") from None
    if not isinstance(facts, dict):
        raise MechanismUnsound("a mechanism whose facts are no table can't be priced")
    return Mechanism.from_facts(facts)


def truth(value: object) -> bool:
    """True or false, and nothing that only looks like it. Raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"a {type(value).__name__} is neither true nor false")
    return value


def plain(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}"
