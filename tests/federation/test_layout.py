"""One flat vector and back, and a digest that two different models never share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from federation.layout import Layout, travelling_tensors

SHAPES = st.lists(st.lists(st.integers(min_value=1, max_value=4), max_size=3).map(tuple), min_size=1, max_size=5)


class Shaped(nn.Module):
    """Parameters of any shapes, filled with different numbers; every second one is a buffer if asked."""

    def __init__(self, shapes: list[tuple[int, ...]], start: float = 0.0, *, buffers: bool = False) -> None:
        super().__init__()
        for position, shape in enumerate(shapes):
            size = int(np.prod(shape))
            values = (torch.arange(size, dtype=torch.float32) + start).reshape(shape)
            start += size
            if buffers and position % 2:
                self.register_buffer(f"tensor_{position}", values)
            else:
                self.register_parameter(f"tensor_{position}", nn.Parameter(values))


@given(SHAPES, st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_model_comes_back_from_its_vector(shapes: list[tuple[int, ...]], buffers: bool) -> None:
    source, copy = Shaped(shapes, 1.0, buffers=buffers), Shaped(shapes, -500.0, buffers=buffers)
    layout = Layout.of(source)
    vector = layout.flatten(source)
    assert vector.shape == (layout.length,) == (sum(int(np.prod(shape)) for shape in shapes),)
    assert vector.dtype == np.float32
    Layout.of(copy).load(copy, vector)
    assert layout.flatten(copy).tobytes() == vector.tobytes()
    pairs = zip(travelling_tensors(source).values(), travelling_tensors(copy).values(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


@given(SHAPES)
@settings(deadline=None, max_examples=40)
def test_parts_are_the_models_tensors_in_its_own_order(shapes: list[tuple[int, ...]]) -> None:
    model = Shaped(shapes)
    layout = Layout.of(model)
    parts = layout.parts(np.arange(layout.length, dtype=np.float32))
    for part, tensor in zip(parts, travelling_tensors(model).values(), strict=True):
        assert np.array_equal(part, tensor.detach().numpy())


@given(SHAPES, SHAPES)
@settings(deadline=None, max_examples=60)
def test_the_digest_is_equal_exactly_when_the_shapes_are(
    first: list[tuple[int, ...]], second: list[tuple[int, ...]]
) -> None:
    assert (Layout.of(Shaped(first)).digest == Layout.of(Shaped(second)).digest) == (first == second)


def test_renaming_swapping_or_reshaping_a_tensor_changes_the_digest() -> None:
    layouts = [
        Layout(names=("a", "b"), shapes=((2,), (2,))),
        Layout(names=("a", "c"), shapes=((2,), (2,))),
        Layout(names=("b", "a"), shapes=((2,), (2,))),
        Layout(names=("a", "b"), shapes=((2,), (1, 2))),
        Layout(names=("a", "b"), shapes=((1,), (3,))),
        Layout(names=("a",), shapes=((4,),)),
        Layout(names=('a", "b',), shapes=((4,),)),
    ]
    assert len({layout.digest for layout in layouts}) == len(layouts)
    assert all(layout.length == 4 for layout in layouts)


def test_two_copies_of_a_model_share_their_digest_whatever_their_weights() -> None:
    assert Layout.of(nn.Linear(3, 2)).digest == Layout.of(nn.Linear(3, 2)).digest


def test_frozen_parameters_and_counters_stay_at_home_and_running_statistics_travel() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model[0].bias.requires_grad_(False)
    assert Layout.of(model).names == ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var")


def test_tied_weights_travel_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    assert Layout.of(model).length == 4


def test_the_vector_is_a_copy_that_training_does_not_change() -> None:
    model = nn.Linear(1, 1)
    vector = Layout.of(model).flatten(model)
    before = vector.copy()
    with torch.no_grad():
        model.weight += 1
    assert np.array_equal(vector, before)


def test_loading_copies_so_that_training_does_not_change_the_order() -> None:
    model, vector = nn.Linear(1, 1), np.array([1, 2], dtype=np.float32)
    Layout.of(model).load(model, vector)
    with torch.no_grad():
        model.weight += 1
    assert vector.tolist() == [1, 2]


@pytest.mark.parametrize("length", [0, 5, 7])
def test_a_vector_of_another_length_is_not_loaded(length: int) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError):
        Layout.of(model).load(model, np.zeros(length, dtype=np.float32))
