"""Fixed-point fields: sums of many sites come apart again, exactly, and stand within the stated step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.noise import RandomStream
from privacy.packing import Packing, Quantiser, Ranges, Scale
from tests.privacy.encryption_builders import scale

BITS = [12, 14, 16, 24]
VALUES = st.floats(min_value=-3.0, max_value=3.0, width=32)


@pytest.mark.parametrize(
    ("bits", "fields", "modulus_bits"), [(12, 4, 48), (14, 3, 42), (16, 3, 48), (24, 2, 48), (42, 1, 42), (48, 1, 48)]
)
def test_as_many_fields_share_a_coefficient_as_fit(bits: int, fields: int, modulus_bits: int) -> None:
    assert (Packing(bits).fields, Packing(bits).modulus_bits) == (fields, modulus_bits)


def test_other_fields_are_not_known() -> None:
    with pytest.raises(ValueError, match="no field has 13 bits"):
        Packing(13)


@given(st.sampled_from([*BITS, 42, 48]), st.integers(1, 200), st.integers(1, 65), st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_packed_sums_of_any_fields_come_apart_exactly(bits: int, length: int, sites: int, seed: int) -> None:
    packing, rng = Packing(bits), np.random.default_rng(seed)
    extreme = ((1 << (bits - 1)) - 1) // sites
    ends = rng.choice(np.array([-extreme, extreme, 0, 1, -1], np.int64), (sites, length))
    parts = np.where(rng.random((sites, length)) < 0.5, ends, rng.integers(-extreme, extreme + 1, (sites, length)))
    room = -(-length // packing.fields) + 3
    total = np.zeros(room, np.uint64)
    for part in parts:
        total = (total + packing.pack(part, room)) & np.uint64((1 << packing.modulus_bits) - 1)
    assert packing.unpack(total, length).tolist() == parts.sum(axis=0).tolist()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_worst_case_of_all_sites_stays_in_its_field(bits: int, sign: int) -> None:
    """65 sites, all at the end of their range, with weights whose products all round up."""
    sites, length = 65, 30
    weights = np.random.default_rng(bits).dirichlet(np.ones(sites))
    packing = Packing(bits)
    values = np.full(length, sign, np.float32)
    fields = [Quantiser(packing=packing, scale=scale(length, sites, w)).encode(values, 0) for w in weights]
    total = np.sum(fields, axis=0)
    assert np.abs(total).max() <= (1 << (bits - 1)) - 1
    mask = np.uint64((1 << packing.modulus_bits) - 1)
    packed = np.zeros(30, np.uint64)
    for each in fields:
        packed = (packed + packing.pack(each, 30)) & mask
    assert packing.unpack(packed, length).tolist() == total.tolist()


@given(
    st.sampled_from(BITS),
    st.booleans(),
    st.lists(st.lists(VALUES, min_size=5, max_size=5), min_size=1, max_size=12),
    st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_the_decoded_sum_is_within_the_stated_steps_of_the_true_one(
    bits: int, stochastic: bool, rows: list[list[float]], seed: int
) -> None:
    vectors = np.array(rows, np.float32)
    sites, weights = len(rows), np.random.default_rng(seed).dirichlet(np.ones(len(rows)))
    packing, stream = Packing(bits), RandomStream.from_seed(seed, "rounding")
    total = np.zeros(5, np.int64)
    for row, weight in zip(vectors, weights, strict=True):
        used = scale(5, sites, float(weight), bound=3.0, stochastic=stochastic)
        total += Quantiser(packing=packing, scale=used, stream=stream).encode(row, 0)
    decoded = Quantiser(packing=packing, scale=scale(5, sites, bound=3.0, stochastic=stochastic)).decode(total, 0)
    step = 3.0 / packing.largest(sites, stochastic)
    exact = (vectors.astype(np.float64) * weights[:, None]).sum(axis=0)
    assert np.abs(decoded - exact).max() <= (sites if stochastic else sites / 2) * step * (1 + 1e-9)


def test_values_beyond_the_range_count_as_its_end_and_are_counted() -> None:
    used = Quantiser(packing=Packing(16), scale=scale(4, 1))
    fields = used.encode(np.array([2.0, -7.0, 1.0, 0.5], np.float32), 0)
    assert used.clipped == 2
    assert fields[0] == fields[2] == -fields[1] == Packing(16).largest(1, stochastic=False)


def test_rounding_by_chance_is_right_on_average_and_rounding_to_the_nearest_is_not() -> None:
    packing, count = Packing(12), 200_000
    used = scale(count, 3, stochastic=True)
    step = 1.0 / packing.largest(3, stochastic=True)
    values = np.full(count, 0.3 * step, np.float32)
    by_chance = Quantiser(packing=packing, scale=used, stream=RandomStream.from_seed(1, "rounding")).encode(values, 0)
    assert set(by_chance.tolist()) == {0, 1}
    assert by_chance.mean() == pytest.approx(0.3, abs=6 * (0.21 / count) ** 0.5)
    assert not Quantiser(packing=packing, scale=scale(count, 3)).encode(values, 0).any()


def test_each_tensor_has_a_range_of_its_own_wherever_a_block_begins() -> None:
    ranges = Ranges((3, 1, 4), (1.0, 10.0, 0.1))
    assert list(ranges.pieces(0, 8)) == [(slice(0, 3), 1.0), (slice(3, 4), 10.0), (slice(4, 8), 0.1)]
    assert list(ranges.pieces(2, 6)) == [(slice(0, 1), 1.0), (slice(1, 2), 10.0), (slice(2, 4), 0.1)]
    whole = Quantiser(packing=Packing(16), scale=Scale(ranges=ranges, sites=2, weight=0.5))
    values = np.linspace(-1, 1, 8, dtype=np.float32)
    parts = [whole.encode(values[start : start + 2], start) for start in range(0, 8, 2)]
    assert np.concatenate(parts).tolist() == whole.encode(values, 0).tolist()


@pytest.mark.parametrize(("bits", "sites", "stochastic"), [(12, 4094, False), (12, 2047, True)])
def test_more_sites_than_steps_are_refused(bits: int, sites: int, stochastic: bool) -> None:
    with pytest.raises(ValueError, match="can't hold the sum"):
        Packing(bits).largest(sites, stochastic)
