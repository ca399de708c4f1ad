"""The model that all sites hold alike: one name for one set of bits, and the optimizers' own steps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from federation.layout import Layout
from federation.optimizers import ModelState, advance
from federation.shared_model import SharedModel
from federation.tensors import pieces
from privacy.errors import DataInvalid, FedSealError, NotFinite
from tests.federation.membership_builders import FIRST, LAYOUT, PLAN, encrypted_plan

START = np.array([1.0, -2.5, 0.0], dtype=np.float32)
MEAN = np.array([0.5, -0.25, 2e-3], dtype=np.float32)
OPEN = encrypted_plan(privacy__unit="none")  # whose updates carry no noise
FULL = SharedModel(
    round=3,
    state=ModelState(vector=START, first=START + 1, second=START + 2, average=START + 3),
    largest=(0.5, 0.25),
    statistics=(7.0, -1.5),
)
OPTIMIZERS = ["fedavg", "fedavgm", "fedadam", "fedyogi"]


def content(model: SharedModel) -> memoryview:
    return memoryview(bytearray(b"".join(bytes(piece) for piece in model.pieces())))


def written(tensors: Mapping[str, torch.Tensor] | None = None, **notes: str) -> memoryview:
    """A model's bytes with these tensors and notes in the place of the honest ones."""
    honest = {name.name: torch.from_numpy(getattr(FULL.state, name.name)) for name in fields(ModelState)}
    texts = {"round": "3", "largest": "[0.5, 0.25]", "statistics": "[7.0, -1.5]"}
    parts = pieces({**honest, **(tensors or {})}, {**texts, **notes})
    return memoryview(bytearray(b"".join(bytes(piece) for piece in parts)))


def with_bit(values: NDArray[np.float32], position: int, bit: int) -> NDArray[np.float32]:
    bits = values.copy().view(np.uint32)
    bits[position] ^= np.uint32(1 << bit)
    return bits.view(np.float32)


@pytest.mark.parametrize("part", ["vector", "first", "second", "average"])
def test_every_bit_of_every_part_is_in_the_digest(part: str) -> None:
    values = getattr(FULL.state, part)
    others = [with_bit(values, position, bit) for position in range(3) for bit in range(32)]
    digests = {replace(FULL, state=replace(FULL.state, **{part: other})).digest for other in others}
    assert len(digests | {FULL.digest}) == 97


def test_every_bit_of_an_average_that_is_the_vector_is_in_the_digest() -> None:
    """Zero and minus zero are equal numbers, and other bits."""
    same = replace(FULL, state=replace(FULL.state, average=START))
    others = [with_bit(START, position, bit) for position in range(3) for bit in range(32)]
    digests = {replace(FULL, state=replace(FULL.state, average=other)).digest for other in others}
    assert len(digests | {same.digest}) == 97


def test_round_ranges_and_statistics_are_in_the_digest() -> None:
    variants = [
        FULL,
        replace(FULL, round=4),
        replace(FULL, largest=(0.5, math.nextafter(0.25, 1))),
        replace(FULL, largest=(0.5,)),
        replace(FULL, largest=()),
        replace(FULL, statistics=(7.0, math.nextafter(-1.5, 0))),
        replace(FULL, statistics=(7.0,)),
        replace(FULL, largest=(0.5, 0.25, 7.0), statistics=(-1.5,)),
        replace(FULL, state=replace(FULL.state, first=START[:0])),
        replace(FULL, state=replace(FULL.state, second=START[:0])),
    ]
    assert len({variant.digest for variant in variants}) == len(variants)


def test_an_equal_copy_of_the_average_is_the_same_model() -> None:
    averages = [START, START.copy(), np.repeat(START, 2)[::2]]
    assert len({replace(FULL, state=replace(FULL.state, average=average)).digest for average in averages}) == 1


def test_sites_that_start_from_one_plan_hold_one_model() -> None:
    model = SharedModel.start(START.copy(), PLAN)
    assert (model.round, model.largest, model.statistics) == (0, (), ())
    assert model.digest == SharedModel.start(START, PLAN).digest != SharedModel.start(-START, PLAN).digest


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("averaging", [0.0, 0.5])
def test_sites_go_on_as_the_servers_optimizers_would(optimizer: str, averaging: float) -> None:
    plan = encrypted_plan(aggregation__optimizer=optimizer, aggregation__iterate_averaging=averaging)
    model, state = SharedModel.start(START, plan), ModelState.start(START, plan.aggregation)
    for number, mean in enumerate((MEAN, -2 * MEAN, MEAN), start=1):
        model, state = model.advanced(mean, plan, LAYOUT), advance(state, mean, plan.aggregation)
        for field in fields(ModelState):
            assert getattr(model.state, field.name).tobytes() == getattr(state, field.name).tobytes()
        assert model.round == number
        assert model.largest == tuple(float(abs(part).max()) for part in LAYOUT.parts(mean))


def test_statistics_are_released_once_and_kept() -> None:
    model = SharedModel.start(START, PLAN).informed((1.0, 2.0))
    assert model.statistics == (1.0, 2.0)
    assert model.round == 0
    assert model.digest != SharedModel.start(START, PLAN).digest
    assert model.advanced(MEAN, PLAN, LAYOUT).statistics == (1.0, 2.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.1e9, -1.1e9])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_mean_that_would_spoil_the_model_for_ever_is_refused(value: float, position: int) -> None:
    mean = MEAN.copy()
    mean[position] = value
    with pytest.raises(NotFinite, match="the sites' mean update holds NaN, infinity or a value beyond 1e\\+09"):
        FIRST.advanced(mean, PLAN, LAYOUT)


def test_the_largest_value_that_is_allowed_is_taken() -> None:
    mean = np.full(3, 1e9, np.float32)
    assert FIRST.advanced(mean, PLAN, LAYOUT).largest == (1e9, 1e9)


def test_ranges_are_the_plans_where_it_states_one() -> None:
    plan = encrypted_plan(encryption__range=0.75)
    for model in (FIRST, FULL):
        for cohort in (3, 1000):
            ranges = model.ranges(plan, LAYOUT, cohort)
            assert (ranges.sizes, ranges.bounds) == ((2, 1), (0.75, 0.75))


def test_ranges_are_the_plans_first_before_there_is_a_mean() -> None:
    plan = encrypted_plan(encryption__first_range=3.0)
    assert FIRST.ranges(plan, LAYOUT, 64).bounds == (3.0, 3.0)
    assert FIRST.ranges(PLAN, LAYOUT, 64).bounds == (8.0, 8.0)


def test_ranges_are_the_plans_first_where_nothing_moved() -> None:
    still = FIRST.advanced(np.zeros(3, np.float32), PLAN, LAYOUT)
    assert still.ranges(PLAN, LAYOUT, 4).bounds == (8.0, 8.0)


def test_ranges_are_eight_times_the_last_means_largest_value() -> None:
    assert FULL.ranges(OPEN, LAYOUT, 16).bounds == (4.0, 2.0)


@pytest.mark.parametrize(("cohort", "factor"), [(3, 8), (16, 8), (25, 10), (64, 16), (400, 40)])
def test_ranges_are_wider_where_more_than_sixteen_sites_share_the_noise(cohort: int, factor: float) -> None:
    assert FULL.ranges(OPEN, LAYOUT, cohort).bounds == (factor * 0.5, factor * 0.25)


def test_a_tensor_that_hardly_moved_has_a_thousandth_of_the_widest_range() -> None:
    still = replace(FULL, largest=(0.5, 0.0))
    assert still.ranges(OPEN, LAYOUT, 3).bounds == pytest.approx((4.0, 4e-3), rel=1e-12)
    hardly = replace(FULL, largest=(1e-5, 0.5))
    assert hardly.ranges(OPEN, LAYOUT, 3).bounds == pytest.approx((4e-3, 4.0), rel=1e-12)


def test_a_tensor_of_no_dimension_has_one_range() -> None:
    layout = Layout(names=("scale", "weight"), shapes=((), (2,)))
    model = SharedModel.start(START, PLAN).advanced(MEAN, PLAN, layout)
    assert model.ranges(OPEN, layout, 3).sizes == (1, 2)
    assert model.ranges(OPEN, layout, 3).bounds == (4.0, 2.0)


@pytest.mark.parametrize("model", [FIRST, FULL, FIRST.advanced(MEAN, PLAN, LAYOUT)], ids=["first", "full", "advanced"])
def test_a_model_comes_back_from_its_bytes(model: SharedModel) -> None:
    found = SharedModel.read(content(model), LAYOUT)
    assert found.digest == model.digest
    assert (found.round, found.largest, found.statistics) == (model.round, model.largest, model.statistics)
    for field in fields(ModelState):
        assert getattr(found.state, field.name).tobytes() == getattr(model.state, field.name).tobytes()


@settings(max_examples=50, deadline=None)
@given(
    vector=arrays(np.float32, 3, elements=st.floats(width=32)),
    average=arrays(np.float32, 3, elements=st.floats(width=32)),
    largest=st.lists(st.floats(0, 1e9), min_size=2, max_size=2),
    statistics=st.lists(st.floats(allow_nan=False), max_size=4),
)
def test_any_model_comes_back_with_its_digest(
    vector: NDArray[np.float32], average: NDArray[np.float32], largest: list[float], statistics: list[float]
) -> None:
    state = replace(FULL.state, vector=vector, average=average)
    model = SharedModel(round=9, state=state, largest=tuple(largest), statistics=tuple(statistics))
    assert SharedModel.read(content(model), LAYOUT).digest == model.digest


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_wounded_model_is_refused_or_is_another(data: st.DataObject) -> None:
    right = bytes(content(FULL))
    position = data.draw(st.integers(0, len(right) - 1))
    wrong = bytearray(right)
    wrong[position] ^= data.draw(st.integers(1, 255))
    try:
        found = SharedModel.read(memoryview(wrong), LAYOUT)
    except FedSealError:
        return
    if found.digest == FULL.digest:  # another spelling of the same numbers, such as a blank in the header
        assert bytes(content(found)) == right


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("round", "three"),
        ("round", "3.5"),
        ("round", ""),
        ("round", "9" * 5000),
        *[
            (name, text)
            for name in ("largest", "statistics")
            for text in ("", "3", "null", "{", "[[1.0]]", '["a"]', "[null]", "[" * 100_000, "[" + "9" * 400 + "]")
        ],
    ],
)
def test_notes_that_are_none_are_refused(name: str, text: str) -> None:
    with pytest.raises(DataInvalid, match="these bytes hold no model of an encrypted run"):
        SharedModel.read(written(None, **{name: text}), LAYOUT)


@pytest.mark.parametrize(
    "tensor", [torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.int32), torch.zeros(3, 1)]
)
@pytest.mark.parametrize("part", ["vector", "first", "second", "average"])
def test_tensors_of_another_kind_are_refused(part: str, tensor: torch.Tensor) -> None:
    with pytest.raises(DataInvalid, match="hold no model of an encrypted run"):
        SharedModel.read(written({part: tensor}), LAYOUT)


@pytest.mark.parametrize("part", ["vector", "average"])
def test_a_model_of_another_task_is_refused(part: str) -> None:
    with pytest.raises(DataInvalid, match="another length than this site's task makes"):
        SharedModel.read(written({part: torch.zeros(4)}), LAYOUT)


def test_bytes_that_are_no_tensors_are_refused() -> None:
    for wrong in (b"", b"\x00" * 8, b"model", json.dumps({}).encode(), bytes(content(FULL))[:-1]):
        with pytest.raises(DataInvalid):
            SharedModel.read(memoryview(bytearray(wrong)), LAYOUT)
    bare = b"".join(bytes(piece) for piece in pieces({"vector": torch.zeros(3)}))
    with pytest.raises(DataInvalid, match="hold no model"):
        SharedModel.read(memoryview(bytearray(bare)), LAYOUT)


def test_in_private_plans_the_widest_range_is_everybodys_because_the_noise_is() -> None:
    private = encrypted_plan(privacy__unit="record")
    mean = np.zeros(LAYOUT.length, np.float32)
    mean[0] = 0.5
    after = SharedModel.start(np.zeros(LAYOUT.length, np.float32), private).advanced(mean, private, LAYOUT)
    assert set(after.ranges(private, LAYOUT, 4).bounds) == {4.0}
