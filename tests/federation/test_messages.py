"""What travels, and every way in which a site or a server can send nonsense: one broken message, one named error."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from federation.layout import Layout
from federation.messages import read_order, read_report, read_sums, write_order, write_report, write_sums
from federation.orders import Address, Expectation, Order, Refusal, SumsReport, TrainReport
from federation.wire import payload_bytes, write_refusal
from privacy.errors import (
    FedSealError,
    LateReport,
    MalformedReceipt,
    MalformedReport,
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
from tests.client_builders import ledger_of

LAYOUT = Layout(names=("weight", "bias"), shapes=((2,), (1,)))
HERE = Address(run="77", round=3, plan="a" * 64, layout=LAYOUT.digest)
MECHANISM = Mechanism(noise_multiplier=1.5, sample_rate=0.25, steps=4, max_grad_norm=1.0)
EXPECTED = Expectation(address=HERE, layout=LAYOUT, prices={"update": MECHANISM, "metrics": MECHANISM})
STYPE = "fedseal.little-endian"
VECTOR = np.array([1.0, -2.5, 3e-8], dtype=np.float32)
RECEIPT = ledger_of().reveal([0, 1])


def report(**changes: object) -> TrainReport:
    values: dict[str, object] = {"address": HERE, "site": "north", "update": VECTOR, "mechanism": MECHANISM}
    values |= {"declared_rows": 40, "seeded": True, "receipt": RECEIPT}
    return TrainReport(**{**values, **changes})  # type: ignore[arg-type]


def evaluation(**sums: torch.Tensor) -> SumsReport:
    both = {"count": torch.tensor(4.0, dtype=torch.float64), "bins": torch.tensor([[1.0, 0.0]], dtype=torch.float64)}
    return SumsReport(
        address=HERE,
        site="north",
        purpose="metrics",
        sums=sums or both,
        mechanism=MECHANISM,
        seeded=True,
        receipt=RECEIPT,
    )


def arrived(content: RecordDict) -> SumsReport | Refusal:
    return read_sums(content, EXPECTED, "metrics")


def vector_record(values: object, dtype: str = "float32", stype: str = STYPE, shape: tuple[int, ...] = (3,)) -> Array:
    return Array(dtype=dtype, shape=shape, stype=stype, data=np.asarray(values, dtype=dtype).tobytes())


def with_fact(name: str, value: object) -> Callable[[RecordDict], None]:
    def edit(content: RecordDict) -> None:
        content["facts"][name] = value

    return edit


def without_fact(name: str) -> Callable[[RecordDict], None]:
    def edit(content: RecordDict) -> None:
        del content["facts"][name]

    return edit


def with_vector(array: Array) -> Callable[[RecordDict], None]:
    def edit(content: RecordDict) -> None:
        content["vector"] = ArrayRecord({"vector": array})

    return edit


def with_record(name: str, record: ConfigRecord | ArrayRecord | MetricRecord | None) -> Callable[[RecordDict], None]:
    def edit(content: RecordDict) -> None:
        del content[name]
        if record is not None:
            content[name] = record

    return edit


def stated(**facts: object) -> str:
    return json.dumps({**MECHANISM.facts(), **facts})


def receipt(**changes: object) -> str:
    return json.dumps({**json.loads(RECEIPT.to_json()), **changes})


BROKEN_VECTORS = [
    ("nan", with_vector(vector_record([1, math.nan, 1])), NotFinite),
    ("infinity", with_vector(vector_record([1, math.inf, 1])), NotFinite),
    ("minus infinity", with_vector(vector_record([-math.inf, 1, 1])), NotFinite),
    ("too short", with_vector(vector_record([1, 2], shape=(2,))), WrongShape),
    ("too long", with_vector(vector_record([1, 2, 3, 4], shape=(4,))), WrongShape),
    ("empty", with_vector(vector_record([], shape=(0,))), WrongShape),
    ("shape and bytes disagree", with_vector(vector_record([1, 2])), WrongShape),
    ("two dimensions", with_vector(vector_record([1, 2, 3], shape=(3, 1))), WrongShape),
    ("no dimension", with_vector(vector_record([1, 2, 3], shape=())), WrongShape),
    ("float64", with_vector(vector_record([1, 2, 3], dtype="float64")), WrongShape),
    ("float16", with_vector(vector_record([1, 2, 3], dtype="float16")), WrongShape),
    ("int32", with_vector(vector_record([1, 2, 3], dtype="int32")), WrongShape),
    ("a pickle", with_vector(vector_record([1, 2, 3], stype="torch.Tensor")), WrongShape),
    ("numpy's loader", with_vector(Array(np.array([1, 2, 3], dtype=np.float32))), WrongShape),
    ("no serialisation", with_vector(vector_record([1, 2, 3], stype="")), WrongShape),
    ("no vector", with_record("vector", None), MissingTensor),
    ("an empty record", with_record("vector", ArrayRecord()), MissingTensor),
    ("another name", with_record("vector", ArrayRecord({"weights": vector_record(VECTOR)})), MissingTensor),
    ("numbers in its place", with_record("vector", MetricRecord({"vector": [1.0, 2.0, 3.0]})), MissingTensor),
]
BROKEN_ADDRESSES = [
    ("no facts", with_record("facts", None), MalformedReport),
    ("facts as numbers", with_record("facts", MetricRecord({"run": 77})), MalformedReport),
    ("empty facts", with_record("facts", ConfigRecord()), MalformedReport),
    *[(f"no {name}", without_fact(name), MalformedReport) for name in ("run", "round", "plan", "layout")],
    ("round in words", with_fact("round", "three"), MalformedReport),
    ("round and a half", with_fact("round", 3.5), MalformedReport),
    ("round of bytes", with_fact("round", b"\xff"), MalformedReport),
    ("round of lists", with_fact("round", [3]), MalformedReport),
    ("round of yes", with_fact("round", True), MalformedReport),
    ("round of many digits", with_fact("round", "9" * 10_000), MalformedReport),
    ("a foreign run", with_fact("run", "78"), WrongRun),
    ("a run of bytes", with_fact("run", b"77"), WrongRun),
    ("a foreign plan", with_fact("plan", "b" * 64), WrongPlan),
    ("no plan hash", with_fact("plan", ""), WrongPlan),
    ("an earlier round", with_fact("round", 2), LateReport),
    ("a later round", with_fact("round", 4), LateReport),
    ("another layout", with_fact("layout", "c" * 64), WrongShape),
]
BROKEN_FACTS = [
    *[(f"no {name}", without_fact(name), MalformedReport) for name in ("mechanism", "declared-rows", "seeded")],
    ("negative rows", with_fact("declared-rows", -1), MalformedReport),
    ("rows in words", with_fact("declared-rows", "many"), MalformedReport),
    ("rows and a half", with_fact("declared-rows", 40.5), MalformedReport),
    ("rows that are no number", with_fact("declared-rows", math.nan), MalformedReport),
    ("rows of lists", with_fact("declared-rows", [40]), MalformedReport),
    ("rows of bytes", with_fact("declared-rows", b"40"), MalformedReport),
    ("seeded in words", with_fact("seeded", "no"), MalformedReport),
    ("seeded as a number", with_fact("seeded", 0), MalformedReport),
    ("seeded as nothing", with_fact("seeded", ""), MalformedReport),
    ("mechanism is no JSON", with_fact("mechanism", "{"), MalformedReport),
    ("mechanism is empty", with_fact("mechanism", ""), MalformedReport),
    ("mechanism is a number", with_fact("mechanism", 3), MalformedReport),
    ("mechanism is a list", with_fact("mechanism", "[1]"), MalformedReport),
    ("mechanism is null", with_fact("mechanism", "null"), MalformedReport),
    ("mechanism is a text", with_fact("mechanism", '"none"'), MalformedReport),
    ("mechanism nests deeply", with_fact("mechanism", "[" * 100_000), MalformedReport),
    ("mechanism of another kind", with_fact("mechanism", stated(kind="laplace/1")), MalformedReport),
    ("mechanism of replace-one", with_fact("mechanism", stated(neighbouring="replace-one")), MalformedReport),
    ("mechanism with NaN noise", with_fact("mechanism", stated(noise_multiplier=math.nan)), MalformedReport),
    ("mechanism with huge noise", with_fact("mechanism", stated(noise_multiplier=10**400)), MalformedReport),
    ("mechanism with no step", with_fact("mechanism", stated(steps=0)), MalformedReport),
    ("mechanism with epsilon", with_fact("mechanism", stated(epsilon=0.1)), MalformedReport),
    ("no receipt", without_fact("receipt"), MalformedReport),
    ("an empty receipt", with_fact("receipt", ""), MalformedReceipt),
    ("a receipt of bytes", with_fact("receipt", b"{}"), MalformedReceipt),
    ("a receipt that is a list", with_fact("receipt", "[1]"), MalformedReceipt),
    ("a receipt that nests deeply", with_fact("receipt", "[" * 100_000), MalformedReceipt),
    ("a receipt without its key", with_fact("receipt", receipt(verifying=None)), MalformedReceipt),
    ("a receipt of half a key", with_fact("receipt", receipt(verifying="AAA")), MalformedReceipt),
    ("a receipt whose proof is a number", with_fact("receipt", receipt(consistency=1)), MalformedReceipt),
    ("a receipt with an entry of one part", with_fact("receipt", receipt(revealed=[[1]])), MalformedReceipt),
    (
        "a receipt with entry number infinity",
        with_fact("receipt", receipt(revealed=[[math.inf, "", []]])),
        MalformedReceipt,
    ),
    ("a receipt with entry number NaN", with_fact("receipt", receipt(revealed=[[math.nan, "", []]])), MalformedReceipt),
    ("a receipt with an entry in no base64", with_fact("receipt", receipt(revealed=[[0, "?", []]])), MalformedReceipt),
    ("no mechanism", with_fact("mechanism", "none"), WrongMechanism),
    ("less noise", with_fact("mechanism", stated(noise_multiplier=1.4)), WrongMechanism),
    ("more noise", with_fact("mechanism", stated(noise_multiplier=1.6)), WrongMechanism),
    ("more steps", with_fact("mechanism", stated(steps=5)), WrongMechanism),
    ("another rate", with_fact("mechanism", stated(sample_rate=0.26)), WrongMechanism),
    ("another clipping bound", with_fact("mechanism", stated(max_grad_norm=2.0)), WrongMechanism),
]

Case = tuple[str, Callable[[RecordDict], None], type[FedSealError]]


def named(case: object) -> str:
    return str(case) if isinstance(case, str) else ""


@pytest.mark.parametrize(("name", "edit", "error"), BROKEN_VECTORS + BROKEN_ADDRESSES + BROKEN_FACTS, ids=named)
def test_a_report_is_refused_with(name: str, edit: Callable[[RecordDict], None], error: type[ReportRefused]) -> None:
    content = write_report(report())
    assert isinstance(read_report(content, EXPECTED), TrainReport)
    edit(content)
    with pytest.raises(ReportRefused) as refused:
        read_report(content, EXPECTED)
    assert type(refused.value) is error
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("name", "edit", "error"),
    BROKEN_ADDRESSES + [case for case in BROKEN_FACTS if "declar" not in case[0] and "rows" not in case[0]],
    ids=named,
)
def test_an_evaluation_is_refused_with(
    name: str, edit: Callable[[RecordDict], None], error: type[ReportRefused]
) -> None:
    content = write_sums(evaluation())
    assert isinstance(arrived(content), SumsReport)
    edit(content)
    with pytest.raises(ReportRefused) as refused:
        arrived(content)
    assert type(refused.value) is error


ORDER_IS_JUDGED_LATER = {"a foreign run", "a run of bytes", "a foreign plan", "no plan hash", "an earlier round"}
BROKEN_ORDERS = [
    ("no checkpoints", with_record("ledgers", None), OrderRefused),
    ("an empty record of checkpoints", with_record("ledgers", ConfigRecord()), OrderRefused),
    ("checkpoints as numbers", with_record("ledgers", MetricRecord({"ledgers": 1})), OrderRefused),
    *[case for case in BROKEN_VECTORS + BROKEN_ADDRESSES if case[0] not in {*ORDER_IS_JUDGED_LATER, "a later round"}],
    ("no cohort", without_fact("cohort"), OrderRefused),
    ("cohort in words", with_fact("cohort", "all"), OrderRefused),
    ("cohort of lists", with_fact("cohort", [1]), OrderRefused),
    ("no statistics", without_fact("statistics"), OrderRefused),
    ("statistics of NaN", with_fact("statistics", [1.0, math.nan]), OrderRefused),
    ("statistics of infinity", with_fact("statistics", [math.inf]), OrderRefused),
    ("statistics in words", with_fact("statistics", "none"), OrderRefused),
    ("statistics of texts", with_fact("statistics", ["1.0"]), OrderRefused),
    ("statistics of whole numbers", with_fact("statistics", [1]), OrderRefused),
]


@pytest.mark.parametrize(("name", "edit", "error"), BROKEN_ORDERS, ids=named)
def test_a_site_refuses_an_order_with(name: str, edit: Callable[[RecordDict], None], error: type[FedSealError]) -> None:
    content = write_order(Order(address=HERE, cohort=5, vector=VECTOR))
    assert read_order(content, LAYOUT).cohort == 5
    edit(content)
    with pytest.raises(OrderRefused):
        read_order(content, LAYOUT)


FINITE = arrays(np.float32, 3, elements=st.floats(-1e9, 1e9, width=32))


@given(FINITE, st.integers(min_value=1, max_value=2**31), st.integers(min_value=1, max_value=2**31))
@settings(deadline=None, max_examples=40)
def test_an_order_arrives_bit_for_bit(vector: np.ndarray, round_number: int, cohort: int) -> None:
    address = Address(run="7", round=round_number, plan="p", layout=LAYOUT.digest)
    sent = Order(address=address, cohort=cohort, vector=vector, statistics=(0.1, -1e300, float(cohort)))
    found = read_order(write_order(sent), LAYOUT)
    assert (found.address, found.cohort, found.vector.tobytes()) == (address, cohort, vector.tobytes())
    assert found.statistics == sent.statistics


@given(FINITE, st.booleans(), st.integers(min_value=0, max_value=2**40), st.sampled_from([MECHANISM, None]))
@settings(deadline=None, max_examples=40)
def test_a_report_arrives_bit_for_bit(update: np.ndarray, seeded: bool, rows: int, mechanism: Mechanism | None) -> None:
    sent = report(update=update, seeded=seeded, declared_rows=rows, mechanism=mechanism)
    arrived = read_report(write_report(sent), Expectation(address=HERE, layout=LAYOUT, prices={"update": mechanism}))
    assert isinstance(arrived, TrainReport)
    assert arrived.update.tobytes() == update.tobytes()
    assert (arrived.seeded, arrived.declared_rows, arrived.mechanism, arrived.site) == (
        seeded,
        rows,
        mechanism,
        "north",
    )


def test_a_vector_of_big_endian_or_strided_memory_arrives_all_the_same() -> None:
    for update in (VECTOR.astype(">f4"), np.repeat(VECTOR, 2)[::2]):
        arrived = read_report(write_report(report(update=update)), EXPECTED)
        assert isinstance(arrived, TrainReport)
        assert arrived.update.tolist() == VECTOR.tolist()


def test_a_vector_travels_as_four_bytes_a_value() -> None:
    assert payload_bytes(write_report(report())) == 12
    assert payload_bytes(write_refusal(Refusal(site="a", error="b", reason="c"))) == 0


def test_a_site_that_calls_itself_a_novel_is_cut_short() -> None:
    arrived = read_report(write_report(report(site="x" * 5000)), EXPECTED)
    assert isinstance(arrived, TrainReport)
    assert len(arrived.site) == 100


def test_metric_sums_arrive_bit_for_bit_in_their_shapes() -> None:
    sent = evaluation()
    found = arrived(write_sums(sent))
    assert isinstance(found, SumsReport)
    assert (found.purpose, found.mechanism, found.seeded) == ("metrics", MECHANISM, True)
    assert found.receipt == RECEIPT
    assert {name: (tuple(sums.shape), sums.tolist()) for name, sums in found.sums.items()} == {
        "count": ((), 4.0),
        "bins": ((1, 2), [[1.0, 0.0]]),
    }
    found.sums["count"].add_(1)  # the server adds in place: it must own the memory
    assert sent.sums["count"] == 4


@pytest.mark.parametrize(
    ("name", "array", "error"),
    [
        ("nan", vector_record([math.nan] * 3, "float64"), NotFinite),
        ("infinity", vector_record([1, 2, math.inf], "float64"), NotFinite),
        ("float32", vector_record([1, 2, 3], "float32"), WrongShape),
        ("a pickle", vector_record([1, 2, 3], "float64", "torch.Tensor"), WrongShape),
        ("too few bytes", vector_record([1, 2], "float64"), WrongShape),
        ("too many bytes", vector_record([1, 2, 3, 4], "float64"), WrongShape),
        ("a megabyte and more", vector_record(np.zeros(2**17 + 1), "float64", shape=(2**17 + 1,)), WrongShape),
        ("negative lengths", vector_record([1, 2, 3, 4], "float64", shape=(-2, -2)), WrongShape),
        ("a negative length and nothing", vector_record([], "float64", shape=(0, -1)), WrongShape),
        ("nothing of an enormous shape", vector_record([], "float64", shape=(0, 2**62)), WrongShape),
        ("too many dimensions", vector_record([1], "float64", shape=(1,) * 65), WrongShape),
        ("lengths that overflow to nothing", vector_record([], "float64", shape=(2**32, 2**32)), WrongShape),
    ],
    ids=named,
)
def test_an_evaluation_is_refused_whose_sums_hold(name: str, array: Array, error: type[ReportRefused]) -> None:
    content = write_sums(evaluation())
    content["sums"]["count"] = array
    with pytest.raises(ReportRefused) as refused:
        arrived(content)
    assert type(refused.value) is error


def test_the_largest_allowed_metric_is_read() -> None:
    sums = evaluation(bins=torch.ones(2**17, dtype=torch.float64))
    found = arrived(write_sums(sums))
    assert isinstance(found, SumsReport)
    assert found.sums["bins"].sum() == 2**17


def test_an_evaluation_without_sums_is_refused() -> None:
    content = write_sums(evaluation())
    del content["sums"]
    with pytest.raises(MissingTensor):
        arrived(content)


def test_a_refusal_arrives_in_place_of_either_report() -> None:
    refusal = Refusal(site="north", error="BudgetExhausted", reason="2.9 is spent")
    assert read_report(write_refusal(refusal), EXPECTED) == refusal
    assert arrived(write_refusal(refusal)) == refusal


def test_a_refusal_of_garbage_is_cut_short_and_does_no_harm() -> None:
    content = RecordDict({"refusal": ConfigRecord({"reason": "x" * 10_000, "error": [1, 2]})})
    arrived = read_report(content, EXPECTED)
    assert isinstance(arrived, Refusal)
    assert (arrived.site, arrived.error, len(arrived.reason)) == ("", "[1, 2]", 2000)
