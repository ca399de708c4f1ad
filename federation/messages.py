"""Orders and reports of runs in the clear <-> Flower's RecordDict.

Everything that arrives is checked here, once: shape, dtype, size, finite values, run, round, plan. After that it is a
value and nobody checks again. P is the length of the layout's vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypedDict

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from federation.layout import Layout
from federation.orders import Expectation, Order, Refusal, SumsReport, TrainReport
from federation.wire import (
    FACTS,
    SUMS,
    VECTOR,
    Facts,
    address_facts,
    address_in,
    agreed_mechanism,
    array,
    facts_in,
    facts_of,
    finite_sums,
    finite_vector,
    mechanism_text,
    plain,
    refusal_in,
    shown_in,
    shown_with,
    truth,
)
from privacy.entries import Purpose
from privacy.errors import MalformedReport, MissingTensor, OrderRefused, ReportRefused
from privacy.mechanism import Mechanism
from privacy.receipts import Receipt

_MOST_METRICS = 64


def write_order(order: Order) -> RecordDict:
    """An order as Flower carries it."""
    facts: Facts = {
        **address_facts(order.address),
        "cohort": order.cohort,
        "statistics": list(order.statistics),
    }
    content = RecordDict({FACTS: ConfigRecord(facts), VECTOR: ArrayRecord({VECTOR: array(order.vector)})})
    return shown_with(content, order.shown)


def read_order(content: RecordDict, layout: Layout) -> Order:
    """An order, checked against the model that the site knows.

    Raises:
        OrderRefused: the message is malformed, or made for another model.
    """
    try:
        facts = facts_in(content)
        address = address_in(facts)
        if address.layout != layout.digest:
            raise OrderRefused(
                "the order is for a model of other tensors than this site's task has; install the same task"
            )
        cohort = int(str(facts["cohort"]))
        if cohort < 1:
            raise OrderRefused(f"the order speaks of a cohort of {cohort} sites")
        vector = finite_vector(content, layout.length)
        return Order(
            address=address,
            cohort=cohort,
            vector=vector,
            shown=shown_in(content),
            statistics=_finite_numbers(facts["statistics"]),
        )
    except (ReportRefused, KeyError, ValueError, TypeError) as error:
        raise OrderRefused(f"the server's order can't be read: {plain(error)}") from None


def write_report(report: TrainReport) -> RecordDict:
    """A training report as Flower carries it."""
    facts: Facts = {**_report_facts(report), "declared-rows": report.declared_rows}
    return RecordDict({FACTS: ConfigRecord(facts), VECTOR: ArrayRecord({VECTOR: array(report.update)})})


def read_report(content: RecordDict, expected: Expectation) -> TrainReport | Refusal:
    """A training report that may be added to the sum, or the site's refusal.

    Raises:
        ReportRefused: one of its kinds, saying what is wrong.
    """
    refusal = refusal_in(content)
    if refusal is not None:
        return refusal
    facts = facts_of(content, expected.address)
    try:
        declared = int(str(facts["declared-rows"]))
    except (KeyError, ValueError) as error:
        raise MalformedReport(f"the report's facts can't be read: {plain(error)}") from None
    if declared < 0:
        raise MalformedReport(f"the site declares {declared} rows")
    return TrainReport(
        address=expected.address,
        site=_site_name(facts),
        update=finite_vector(content, expected.layout.length),
        declared_rows=declared,
        **_priced(facts, expected.prices["update"]),
    )


def write_sums(report: SumsReport) -> RecordDict:
    """A report of sums as Flower carries it."""
    sums = ArrayRecord({name: array(tensor.numpy()) for name, tensor in report.sums.items()})
    return RecordDict({FACTS: ConfigRecord(_report_facts(report)), SUMS: sums})


def read_sums(content: RecordDict, expected: Expectation, purpose: Purpose) -> SumsReport | Refusal:
    """A report of sums for this purpose, or the site's refusal.

    Raises:
        ReportRefused: one of its kinds, saying what is wrong.
    """
    refusal = refusal_in(content)
    if refusal is not None:
        return refusal
    facts = facts_of(content, expected.address)
    if SUMS not in content.array_records:
        raise MissingTensor("the report holds no sums")
    arrays = content.array_records[SUMS]
    if len(arrays) > _MOST_METRICS:
        raise MalformedReport(f"the report holds {len(arrays)} sums; {_MOST_METRICS} are the most")
    sums = {name: torch.from_numpy(finite_sums(name, found)) for name, found in arrays.items()}
    priced = _priced(facts, expected.prices[purpose])
    return SumsReport(address=expected.address, site=_site_name(facts), purpose=purpose, sums=sums, **priced)


class _Priced(TypedDict):
    mechanism: Mechanism | None
    seeded: bool
    receipt: Receipt


def _report_facts(report: TrainReport | SumsReport) -> Facts:
    return {
        **address_facts(report.address),
        "site": report.site,
        "seeded": report.seeded,
        "mechanism": mechanism_text(report.mechanism),
        "receipt": report.receipt.to_json(),
    }


def _priced(facts: Mapping[str, object], expected: Mechanism | None) -> _Priced:
    """What a report says of its price."""
    mechanism = agreed_mechanism(facts, expected)
    try:
        return {
            "mechanism": mechanism,
            "seeded": truth(facts["seeded"]),
            "receipt": Receipt.from_json(str(facts["receipt"])),
        }
    except (KeyError, ValueError) as error:
        raise MalformedReport(f"the report's facts can't be read: {plain(error)}") from None


def _site_name(facts: Mapping[str, object]) -> str:
    return str(facts.get("site", ""))[:100]


def _finite_numbers(values: object) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(isinstance(value, float) and math.isfinite(value) for value in values):
        raise ValueError("its statistics are no finite numbers")
    return tuple(values)
