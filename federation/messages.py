"""Orders and reports <-> Flower's RecordDict: the only file that knows Flower's records and our keys in them.

Everything that arrives is checked here, once: shape, dtype, size, finite values, run, round, plan. After that it is a
value and nobody checks again. Vectors travel as raw little-endian bytes under a serialisation type of ours, so that
nothing from outside reaches a loader that could do more than copy numbers. P is the length of the layout's vector.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias, TypedDict

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, ConfigRecordValues, RecordDict
from numpy.typing import NDArray

from federation.layout import Layout
from federation.orders import Address, Expectation, Order, Refusal, SumsReport, TrainReport
from privacy.entries import Purpose
from privacy.errors import (
    LateReport,
    MalformedReport,
    MechanismUnsound,
    MissingTensor,
    NotFinite,
    OrderRefused,
    ReportRefused,
    WrongMechanism,
    WrongPlan,
    WrongRun,
    WrongShape,
)
from privacy.mechanism import Mechanism
from privacy.receipts import Receipt
from privacy.shown import Shown
from privacy.witness import MOST_SHOWN

Facts: TypeAlias = dict[str, ConfigRecordValues]

_SERIALISATION = "fedseal.little-endian"
_FACTS, _VECTOR, _SUMS, _REFUSAL, _LEDGERS = "facts", "vector", "sums", "refusal", "ledgers"
_LARGEST_METRICS = 1 << 20
_MOST_DIMENSIONS = 8
_MOST_METRICS = 64
_LARGEST_SHOWN = 1 << 20  # characters
_LARGEST_VALUE = 1e9  # its square is far from overflow, so that no optimizer's state can be spoilt for ever


def write_order(order: Order) -> RecordDict:
    """An order as Flower carries it."""
    facts: Facts = {
        **_address_facts(order.address),
        "cohort": order.cohort,
        "statistics": list(order.statistics),
    }
    content = RecordDict({_FACTS: ConfigRecord(facts), _VECTOR: ArrayRecord({_VECTOR: _array(order.vector)})})
    return shown_with(content, order.shown)


def shown_with(order: RecordDict, shown: Sequence[Shown]) -> RecordDict:
    """The same order, its model vector shared, with these checkpoints of the sites' ledgers."""
    return RecordDict({**order, _LEDGERS: ConfigRecord({_LEDGERS: _shown_text(tuple(shown))})})


def read_order(content: RecordDict, layout: Layout) -> Order:
    """An order, checked against the model that the site knows.

    Raises:
        OrderRefused: the message is malformed, or made for another model.
    """
    try:
        facts = _facts(content)
        address = _address(facts)
        if address.layout != layout.digest:
            raise OrderRefused(
                "the order is for a model of other tensors than this site's task has; install the same task"
            )
        cohort = int(str(facts["cohort"]))
        if cohort < 1:
            raise OrderRefused(f"the order speaks of a cohort of {cohort} sites")
        vector = _finite_vector(content, layout.length)
        return Order(
            address=address,
            cohort=cohort,
            vector=vector,
            shown=_shown(content),
            statistics=_finite_numbers(facts["statistics"]),
        )
    except (ReportRefused, KeyError, ValueError, TypeError) as error:
        raise OrderRefused(f"the server's order can't be read: {_plain(error)}") from None


def write_report(report: TrainReport) -> RecordDict:
    """A training report as Flower carries it."""
    facts: Facts = {**_report_facts(report), "declared-rows": report.declared_rows}
    return RecordDict({_FACTS: ConfigRecord(facts), _VECTOR: ArrayRecord({_VECTOR: _array(report.update)})})


def read_report(content: RecordDict, expected: Expectation) -> TrainReport | Refusal:
    """A training report that may be added to the sum, or the site's refusal.

    Raises:
        ReportRefused: one of its kinds, saying what is wrong.
    """
    if isinstance(content.get(_REFUSAL), ConfigRecord):
        return _refusal(content)
    facts = _checked_facts(content, expected.address)
    try:
        declared = int(str(facts["declared-rows"]))
    except (KeyError, ValueError) as error:
        raise MalformedReport(f"the report's facts can't be read: {_plain(error)}") from None
    if declared < 0:
        raise MalformedReport(f"the site declares {declared} rows")
    return TrainReport(
        address=expected.address,
        site=_site_name(facts),
        update=_finite_vector(content, expected.layout.length),
        declared_rows=declared,
        **_priced(facts, expected.prices["update"]),
    )


def write_sums(report: SumsReport) -> RecordDict:
    """A report of sums as Flower carries it."""
    sums = ArrayRecord({name: _array(tensor.numpy()) for name, tensor in report.sums.items()})
    return RecordDict({_FACTS: ConfigRecord(_report_facts(report)), _SUMS: sums})


def read_sums(content: RecordDict, expected: Expectation, purpose: Purpose) -> SumsReport | Refusal:
    """A report of sums for this purpose, or the site's refusal.

    Raises:
        ReportRefused: one of its kinds, saying what is wrong.
    """
    if isinstance(content.get(_REFUSAL), ConfigRecord):
        return _refusal(content)
    facts = _checked_facts(content, expected.address)
    if _SUMS not in content.array_records:
        raise MissingTensor("the report holds no sums")
    arrays = content.array_records[_SUMS]
    if len(arrays) > _MOST_METRICS:
        raise MalformedReport(f"the report holds {len(arrays)} sums; {_MOST_METRICS} are the most")
    sums = {name: torch.from_numpy(_sums(name, array)) for name, array in arrays.items()}
    priced = _priced(facts, expected.prices[purpose])
    return SumsReport(address=expected.address, site=_site_name(facts), purpose=purpose, sums=sums, **priced)


def write_refusal(refusal: Refusal) -> RecordDict:
    """A refusal as Flower carries it."""
    facts: Facts = {"site": refusal.site, "error": refusal.error, "reason": refusal.reason}
    return RecordDict({_REFUSAL: ConfigRecord(facts)})


def payload_bytes(content: RecordDict) -> int:
    """Bytes of all arrays in a message: what dominates on the wire."""
    records = [record for record in content.values() if isinstance(record, ArrayRecord)]
    return sum(len(array.data) for record in records for array in record.values())


def _address_facts(address: Address) -> Facts:
    return {"run": address.run, "round": address.round, "plan": address.plan, "layout": address.layout}


def _address(facts: Mapping[str, object]) -> Address:
    return Address(
        run=str(facts["run"]), round=int(str(facts["round"])), plan=str(facts["plan"]), layout=str(facts["layout"])
    )


def _facts(content: RecordDict) -> Mapping[str, object]:
    facts = content.get(_FACTS)
    if not isinstance(facts, ConfigRecord):
        raise MalformedReport("the message holds no facts (run, round, plan)")
    return dict(facts.items())


def _checked_facts(content: RecordDict, expected: Address) -> Mapping[str, object]:
    facts = _facts(content)
    try:
        address = _address(facts)
    except (KeyError, ValueError) as error:
        raise MalformedReport(f"the message's facts can't be read: {_plain(error)}") from None
    if address.run != expected.run:
        raise WrongRun(f"made for run {address.run}, this is run {expected.run}")
    if address.plan != expected.plan:
        raise WrongPlan(f"made under plan {address.plan[:12]}…, this run's plan is {expected.plan[:12]}…")
    if address.round != expected.round:
        raise LateReport(f"made for round {address.round}, this is round {expected.round}")
    if address.layout != expected.layout:
        raise WrongShape("made for a model of other tensors: the site's task is not the server's")
    return facts


@lru_cache(maxsize=4)
def _shown_text(shown: tuple[Shown, ...]) -> str:
    return json.dumps([[each.verifying.hex(), each.note] for each in shown])


def _shown(content: RecordDict) -> tuple[Shown, ...]:
    return _read_shown(str(content.config_records[_LEDGERS][_LEDGERS]))


@lru_cache(maxsize=4)
def _read_shown(text: str) -> tuple[Shown, ...]:
    try:
        found = json.loads(text) if len(text) <= _LARGEST_SHOWN else None
    except RecursionError:
        found = None
    if not isinstance(found, list) or len(found) > MOST_SHOWN:
        raise ValueError("its checkpoints of ledgers are no list, or too many")
    return tuple(Shown(verifying=bytes.fromhex(key), note=str(note)) for key, note in found)


class _Priced(TypedDict):
    mechanism: Mechanism | None
    seeded: bool
    receipt: Receipt


def _report_facts(report: TrainReport | SumsReport) -> Facts:
    return {
        **_address_facts(report.address),
        "site": report.site,
        "seeded": report.seeded,
        "mechanism": _mechanism_text(report.mechanism),
        "receipt": report.receipt.to_json(),
    }


def _priced(facts: Mapping[str, object], expected: Mechanism | None) -> _Priced:
    """What a report says of its price."""
    try:
        mechanism = _mechanism(str(facts["mechanism"]))
        seeded = _truth(facts["seeded"])
        receipt = Receipt.from_json(str(facts["receipt"]))
    except (KeyError, ValueError, MechanismUnsound) as error:
        raise MalformedReport(f"the report's facts can't be read: {_plain(error)}") from None
    if mechanism != expected:
        raise WrongMechanism(f"the site states {mechanism}, but the plan asks for {expected}")
    return {"mechanism": mechanism, "seeded": seeded, "receipt": receipt}


def _refusal(content: RecordDict) -> Refusal:
    record = content.config_records[_REFUSAL]
    site, error, reason = (str(record.get(key, ""))[:2000] for key in ("site", "error", "reason"))
    return Refusal(site=site, error=error, reason=reason)


def _site_name(facts: Mapping[str, object]) -> str:
    return str(facts.get("site", ""))[:100]


def _array(values: NDArray[np.float32] | NDArray[np.float64]) -> Array:
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return Array(dtype=values.dtype.name, shape=values.shape, stype=_SERIALISATION, data=little.tobytes())


def _finite_vector(content: RecordDict, length: int) -> NDArray[np.float32]:
    record = content.get(_VECTOR)
    if not isinstance(record, ArrayRecord) or _VECTOR not in record:
        raise MissingTensor("the message holds no model vector")
    array = record[_VECTOR]
    if array.stype != _SERIALISATION or array.dtype != "float32":
        raise WrongShape(
            f"the vector is {array.dtype} serialised as {array.stype!r}, not float32 as {_SERIALISATION!r}"
        )
    if tuple(array.shape) != (length,) or len(array.data) != 4 * length:
        raise WrongShape(f"the vector has shape {tuple(array.shape)} in {len(array.data)} bytes, not ({length},)")
    vector = np.frombuffer(array.data, dtype="<f4")  # (P,)
    if not np.isfinite(vector).all():
        raise NotFinite("the vector holds NaN or infinity")
    if length and float(np.abs(vector).max()) > _LARGEST_VALUE:
        raise NotFinite(f"the vector holds a value beyond {_LARGEST_VALUE:g}, which would drown every other site")
    return vector


def _sums(name: str, array: Array) -> NDArray[np.float64]:
    if array.stype != _SERIALISATION or array.dtype != "float64":
        raise WrongShape(f"metric {name[:100]!r} is {array.dtype} serialised as {array.stype!r}")
    shape = tuple(array.shape)
    small = len(shape) <= _MOST_DIMENSIONS and all(0 <= length <= _LARGEST_METRICS for length in shape)
    if not small or len(array.data) > _LARGEST_METRICS or len(array.data) != 8 * math.prod(shape):
        raise WrongShape(f"metric {name[:100]!r} has shape {str(shape)[:100]} in {len(array.data)} bytes")
    values = np.frombuffer(array.data, dtype="<f8").reshape(shape).copy()
    if not np.isfinite(values).all():
        raise NotFinite(f"metric {name[:100]!r} holds NaN or infinity")
    return values


def _finite_numbers(values: object) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(isinstance(value, float) and math.isfinite(value) for value in values):
        raise ValueError("its statistics are no finite numbers")
    return tuple(values)


def _mechanism_text(mechanism: Mechanism | None) -> str:
    return "none" if mechanism is None else json.dumps(mechanism.facts(), sort_keys=True)


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


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"a {type(value).__name__} is neither true nor false")
    return value


def _plain(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
