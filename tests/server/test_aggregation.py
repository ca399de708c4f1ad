"""The centre of a round's updates: numpy's, and close to the honest ones when some sites lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from federation.plan_settings import AggregationSettings
from privacy.errors import RunFailed
from server.aggregation import Vector, aggregate, krum, median, trimmed_mean

VALUES = st.floats(min_value=-1e6, max_value=1e6, width=32, allow_subnormal=False)
UPDATES = st.integers(1, 8).flatmap(lambda sites: arrays(np.float32, (sites, 3), elements=VALUES))


def centre(updates: Vector, weights: list[float] | None = None, **chosen: object) -> Vector:
    total = aggregate(AggregationSettings(**chosen), updates.shape[1])  # type: ignore[arg-type]
    for update, weight in zip(updates, weights or [1.0] * len(updates), strict=True):
        total.add(update, weight)
    return total.result()


def honest_and_lying(lie: float, liars: int) -> tuple[Vector, Vector]:
    """Seven honest updates about (1, -2, 0.5), and all updates once `liars` sites add their lie."""
    honest = np.array([1, -2, 0.5]) + 0.1 * np.random.default_rng(1).standard_normal((7, 3))
    lies = np.full((liars, 3), lie)
    return honest.astype(np.float32), np.concatenate([lies, honest]).astype(np.float32)


@given(UPDATES, st.data())
@settings(deadline=None, max_examples=60)
def test_the_mean_is_numpys_weighted_mean_within_one_rounding(updates: Vector, data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 100_000), min_size=len(updates), max_size=len(updates)))
    mean = centre(updates, [float(weight) for weight in weights])
    exact = np.average(updates.astype(np.float64), axis=0, weights=weights)
    scale = np.average(np.abs(updates.astype(np.float64)), axis=0, weights=weights)
    assert mean.dtype == np.float32
    assert (
        np.abs(mean - exact) <= np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64) / 2 + 1e-14 * scale
    ).all()


def test_the_mean_of_two_updates_is_checked_by_hand() -> None:
    updates = np.array([[1, 2], [4, 6]], dtype=np.float32)
    assert centre(updates).tolist() == [2.5, 4.0]
    assert centre(updates, [2.0, 1.0]).tolist() == [2.0, pytest.approx(10 / 3)]


def test_the_mean_of_many_equal_updates_does_not_drift() -> None:
    tenth = np.full((10_000, 1), 0.1, dtype=np.float32)
    assert centre(tenth)[0] == np.float32(0.1)


def test_the_mean_lets_go_of_an_update_and_does_not_change_it() -> None:
    total, update = aggregate(AggregationSettings(), 2), np.array([1, 2], dtype=np.float32)
    total.add(update, 3.0)
    assert update.tolist() == [1, 2]
    update[:] = 100
    assert total.result().tolist() == [1, 2]


def test_one_liar_moves_the_mean_as_far_as_it_likes() -> None:
    honest, updates = honest_and_lying(1e6, 1)
    assert np.abs(centre(updates) - honest.mean(axis=0)).min() > 1e5


@given(UPDATES)
@settings(deadline=None, max_examples=60)
def test_the_median_is_the_middle_of_the_sorted_values(updates: Vector) -> None:
    ordered = np.sort(updates.astype(np.float64), axis=0)
    middle = (ordered[(len(updates) - 1) // 2] + ordered[len(updates) // 2]) / 2
    result = centre(updates, rule="median")
    assert result.dtype == np.float32
    assert np.allclose(result, middle, rtol=3e-7, atol=1e-38)


@given(UPDATES, st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.4, 0.49]))
@settings(deadline=None, max_examples=60)
def test_the_trimmed_mean_drops_its_share_at_each_end(updates: Vector, share: float) -> None:
    dropped = int(np.floor(share * len(updates)))
    expected = []
    for column in updates.astype(np.float64).T:
        ordered = sorted(column)
        kept = ordered[dropped : len(ordered) - dropped]
        expected.append(sum(kept) / len(kept))
    result = centre(updates, rule="trimmed-mean", trimmed_share=share)
    assert result.dtype == np.float32
    assert np.allclose(result, expected, rtol=1e-6, atol=1e-9 * (1 + np.abs(updates).max()))


def test_the_trimmed_mean_is_checked_by_hand() -> None:
    updates = np.array([[100], [1], [2], [3], [-100]], dtype=np.float32)
    assert trimmed_mean(updates, 0.2).tolist() == [2.0]
    assert trimmed_mean(updates, 0.4).tolist() == [2.0]
    assert trimmed_mean(updates, 0.19).tolist() == [pytest.approx(1.2)]


@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
@pytest.mark.parametrize("lie", [1e6, -1e6, 3e38])
@pytest.mark.parametrize("liars", [1, 3])
def test_liars_cannot_pull_a_robust_centre_out_of_the_honest_values(rule: str, lie: float, liars: int) -> None:
    honest, updates = honest_and_lying(lie, liars)
    result = centre(updates, rule=rule, trimmed_share=0.3)
    assert (honest.min(axis=0) <= result).all()
    assert (result <= honest.max(axis=0)).all()


def test_a_lying_majority_owns_the_median() -> None:
    _, updates = honest_and_lying(1e6, 8)
    assert median(updates).tolist() == [1e6] * 3


def plain_krum(updates: Vector, byzantine: int) -> int:
    """Blanchard et al. 2017, section 4, one pair at a time."""
    scores = []
    for one, update in enumerate(updates.astype(np.float64)):
        others = [((update - other) ** 2).sum() for two, other in enumerate(updates.astype(np.float64)) if two != one]
        scores.append(sum(sorted(others)[: len(updates) - byzantine - 2]))
    return int(np.argmin(scores))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("sites", "byzantine"), [(3, 0), (5, 1), (9, 2), (12, 4)])
def test_krum_chooses_the_update_that_the_paper_chooses(seed: int, sites: int, byzantine: int) -> None:
    updates = np.random.default_rng(seed).standard_normal((sites, 6)).astype(np.float32)
    chosen = centre(updates, rule="krum", byzantine_sites=byzantine)
    assert chosen.tolist() == updates[plain_krum(updates, byzantine)].tolist()


@pytest.mark.parametrize("lie", [2.0, -50.0, 1e6, 3e38])
@pytest.mark.parametrize("liars", [1, 2])
def test_krum_never_chooses_a_liar(lie: float, liars: int) -> None:
    honest, updates = honest_and_lying(lie, liars)
    assert krum(updates, liars).tolist() in honest.tolist()


def test_krum_tells_updates_apart_that_share_a_large_offset() -> None:
    honest, updates = honest_and_lying(3.0, 2)
    assert (krum(updates + np.float32(1000), 2) - np.float32(1000)).tolist() == pytest.approx(
        krum(updates, 2).tolist(), abs=1e-3
    )
    assert krum(updates, 2).tolist() in honest.tolist()


def test_krum_refuses_too_few_reports_to_promise_anything() -> None:
    with pytest.raises(RunFailed, match="krum against 2 lying sites needs 7 reports, but 6 came"):
        centre(np.zeros((6, 1), dtype=np.float32), rule="krum", byzantine_sites=2)


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "krum"])
def test_a_robust_rule_counts_every_site_once_whatever_it_declares(rule: str) -> None:
    _, updates = honest_and_lying(1e6, 1)
    assert centre(updates, [1e9, *[1.0] * 7], rule=rule).tolist() == centre(updates, rule=rule).tolist()


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed-mean"])
def test_the_order_of_arrival_does_not_matter(rule: str) -> None:
    updates = np.random.default_rng(1).standard_normal((6, 20)).astype(np.float32)
    assert np.allclose(centre(updates, rule=rule), centre(updates[::-1], rule=rule), rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed-mean", "krum"])
def test_the_centre_of_equal_updates_is_that_update(rule: str) -> None:
    updates = np.tile(np.array([0.1, -2.5], dtype=np.float32), (5, 1))
    assert centre(updates, rule=rule).tolist() == updates[0].tolist()
