"""The model that all sites hold alike: one digest for the same bits, another for any other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from federation.layout import Layout
from federation.optimizers import ModelState, advance
from federation.shared_model import SharedModel
from privacy.errors import DataInvalid, NotFinite
from tests.client_builders import plan

MODEL = nn.Linear(2, 2)
LAYOUT = Layout.of(MODEL)
START = np.arange(6, dtype=np.float32)
MEAN = np.array([0.5, -0.25, 0.0, 0.125, 0.0, 0.0], np.float32)
AGREED = plan({"privacy.unit": "none", "aggregation.optimizer": "fedadam", "aggregation.iterate_averaging": 0.5})
FIRST = SharedModel.start(START, AGREED)


def read(model: SharedModel) -> SharedModel:
    content = bytearray(b"".join(bytes(piece) for piece in model.pieces()))
    return SharedModel.read(memoryview(content), LAYOUT)


def test_a_round_is_what_the_servers_optimizer_would_make_of_it() -> None:
    after = FIRST.advanced(MEAN, AGREED, LAYOUT)
    expected = advance(ModelState.start(START, AGREED.aggregation), MEAN, AGREED.aggregation)
    assert after.round == 1
    assert after.state.vector.tobytes() == expected.vector.tobytes()
    assert after.state.average.tobytes() == expected.average.tobytes()
    assert after.largest == (0.5, 0.0)


def test_bytes_bring_back_the_very_model() -> None:
    model = FIRST.informed((1.0, -2.5)).advanced(MEAN, AGREED, LAYOUT)
    assert read(model).digest == model.digest
    assert read(model).statistics == (1.0, -2.5)


@pytest.mark.parametrize("part", ["vector", "first", "second", "average"])
@pytest.mark.parametrize("place", range(6))
def test_one_bit_makes_another_digest(part: str, place: int) -> None:
    model = FIRST.advanced(MEAN, AGREED, LAYOUT)
    changed = getattr(model.state, part).copy()
    changed.view(np.uint32)[place] ^= 1
    state = replace(model.state, **{part: changed})
    other = SharedModel(round=model.round, state=state, largest=model.largest, statistics=model.statistics)
    assert other.digest != model.digest


def test_round_ranges_and_statistics_are_in_the_digest() -> None:
    state = FIRST.state
    models = [
        FIRST,
        SharedModel(round=1, state=state),
        SharedModel(round=0, state=state, largest=(1.0,)),
        SharedModel(round=0, state=state, statistics=(1.0,)),
    ]
    assert len({model.digest for model in models}) == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2e9])
def test_a_mean_that_would_spoil_the_model_is_refused(bad: float) -> None:
    mean = MEAN.copy()
    mean[3] = bad
    with pytest.raises(NotFinite):
        FIRST.advanced(mean, AGREED, LAYOUT)


def test_the_range_is_the_plans_or_follows_the_last_mean() -> None:
    after = FIRST.advanced(MEAN, AGREED, LAYOUT)
    assert FIRST.ranges(AGREED, LAYOUT, 4).bounds == (8.0, 8.0)
    assert after.ranges(AGREED, LAYOUT, 4).bounds == (4.0, 0.004)  # a tensor that did not move keeps room
    assert after.ranges(AGREED, LAYOUT, 64).bounds == (8.0, 0.008)
    private = plan({"privacy.noise_multiplier": 1.0, "privacy.epsilon": 50.0})
    assert after.ranges(private, LAYOUT, 4).bounds == (4.0, 4.0)  # the noise is alike in all tensors
    fixed = plan({"encryption.range": 0.25})
    assert after.ranges(fixed, LAYOUT, 64).bounds == FIRST.ranges(fixed, LAYOUT, 4).bounds == (0.25, 0.25)
    still = FIRST.advanced(np.zeros(6, np.float32), AGREED, LAYOUT)
    assert still.ranges(AGREED, LAYOUT, 4).bounds == (8.0, 8.0)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\x08\0\0\0\0\0\0\0{}      "])
def test_other_bytes_are_no_model(content: bytes) -> None:
    with pytest.raises(DataInvalid):
        SharedModel.read(memoryview(bytearray(content)), LAYOUT)


def test_a_model_of_another_task_is_refused() -> None:
    content = bytearray(b"".join(bytes(piece) for piece in FIRST.pieces()))
    with pytest.raises(DataInvalid, match="another length"):
        SharedModel.read(memoryview(content), Layout.of(nn.Linear(3, 2)))
