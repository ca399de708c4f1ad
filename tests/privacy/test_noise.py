"""The stream that privacy rests on: the right sigma is accepted, and 2/3 and 3/2 of it are rejected."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from privacy.noise import RandomStream

COUNT = 50_000
ALARM = 1e-9  # chance that a test of system randomness fails without a fault


def has_sigma(sample: NDArray[np.float32], sigma: float) -> bool:
    """A two-sided chi-square test of the variance about zero."""
    statistic = float((sample.astype(np.float64) ** 2).sum()) / sigma**2
    return bool(stats.chi2.ppf(ALARM, len(sample)) < statistic < stats.chi2.isf(ALARM, len(sample)))


def has_probability(coins: NDArray[np.bool_], probability: float) -> bool:
    return bool(stats.binomtest(int(coins.sum()), len(coins), probability).pvalue > ALARM)


def streams() -> list[RandomStream]:
    return [RandomStream.from_seed(1, "test"), RandomStream.from_system()]


@pytest.mark.parametrize("stream", streams(), ids=repr)
def test_normals_have_sigma_one_and_neither_two_thirds_nor_three_halves(stream: RandomStream) -> None:
    sample = stream.normals(COUNT)
    assert has_sigma(sample, 1.0)
    assert not has_sigma(sample, 2 / 3)
    assert not has_sigma(sample, 3 / 2)


@pytest.mark.parametrize("stream", streams(), ids=repr)
def test_normals_are_normal_and_not_uniform_or_laplacian_of_the_same_variance(stream: RandomStream) -> None:
    sample = stream.normals(COUNT)
    assert stats.kstest(sample, stats.norm.cdf).pvalue > ALARM
    assert stats.kstest(sample, stats.uniform(-(3**0.5), 2 * 3**0.5).cdf).pvalue < ALARM
    assert stats.kstest(sample, stats.laplace(scale=0.5**0.5).cdf).pvalue < ALARM


def test_normals_have_mean_zero_no_skew_and_kurtosis_three() -> None:
    sample = RandomStream.from_seed(2).normals(COUNT).astype(np.float64)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):  # of a standard normal
        assert abs((sample**power).mean() - moment) < 5 * (variance / COUNT) ** 0.5


def test_normals_do_not_depend_on_their_neighbours() -> None:
    sample = RandomStream.from_seed(3).normals(COUNT).astype(np.float64)
    half = COUNT // 2
    for first, second in ((sample[1:], sample[:-1]), (sample[:half], sample[half:])):  # Box and Muller's pairs: halves
        for power in (1, 2):
            assert abs(np.corrcoef(first**power, second**power)[0, 1]) < 6 / half**0.5


def test_normals_reach_beyond_four_sigma_as_often_as_they_should() -> None:
    sample = RandomStream.from_seed(4).normals(2_000_000)
    beyond = np.count_nonzero(np.abs(sample) > 4)  # 6.33e-5 of them: 127
    assert stats.binomtest(beyond, len(sample), 2 * stats.norm.sf(4)).pvalue > 1e-4
    assert np.abs(sample).max() < 7


class Extreme(RandomStream):
    """A stream whose every uniform is the largest that there is."""

    def uniforms(self, count: int) -> NDArray[np.float64]:
        return np.full(count, 1 - 2.0**-53)


class Least(RandomStream):
    """A stream whose every uniform is zero."""

    def uniforms(self, count: int) -> NDArray[np.float64]:
        return np.zeros(count)


def test_the_rarest_uniforms_give_finite_normals_beyond_eight_sigma() -> None:
    assert np.abs(Extreme(bytes(32), seeded=True).normals(2)).max() == pytest.approx((2 * 53 * np.log(2)) ** 0.5)
    assert Least(bytes(32), seeded=True).normals(2).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8])
def test_as_many_are_drawn_as_were_asked_for(count: int) -> None:
    stream = RandomStream.from_seed(5)
    assert stream.normals(count).shape == (count,)
    assert stream.normals(count).dtype == np.float32
    assert stream.uniforms(count).shape == (count,)
    assert stream.coins(count, 0.5).shape == (count,)


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.5, 0.9])
def test_coins_are_bernoulli_of_their_probability_and_of_no_other(probability: float) -> None:
    coins = RandomStream.from_system().coins(COUNT, probability)
    assert coins.dtype == np.bool_
    assert has_probability(coins, probability)
    assert not has_probability(coins, probability * 2 / 3)
    assert not has_probability(coins, min(probability * 3 / 2, 0.99))


def test_coins_of_probability_one_all_show_true_and_of_zero_none() -> None:
    assert RandomStream.from_system().coins(COUNT, 1.0).all()
    assert not RandomStream.from_system().coins(COUNT, 0.0).any()
    assert Extreme(bytes(32), seeded=True).coins(3, 1.0).all()


def test_coins_fall_independently() -> None:
    coins = RandomStream.from_seed(6).coins(COUNT, 0.5)
    assert has_probability(coins[1:] & coins[:-1], 0.25)


def test_uniforms_lie_in_zero_to_one_and_fill_it_evenly() -> None:
    sample = RandomStream.from_system().uniforms(COUNT)
    assert sample.dtype == np.float64
    assert sample.min() >= 0
    assert sample.max() < 1
    assert stats.kstest(sample, stats.uniform.cdf).pvalue > ALARM


def test_uniforms_have_53_random_bits() -> None:
    integers = RandomStream.from_seed(7).uniforms(COUNT) * 2.0**53
    assert (integers == np.floor(integers)).all()
    for bit in range(53):
        assert has_probability((integers.astype(np.uint64) >> np.uint64(bit)) & np.uint64(1) == 1, 0.5)


def test_two_streams_of_the_system_differ() -> None:
    assert not np.array_equal(RandomStream.from_system().uniforms(4), RandomStream.from_system().uniforms(4))


def test_a_stream_does_not_repeat_itself() -> None:
    stream = RandomStream.from_seed(8)
    assert len(set(np.concatenate([stream.uniforms(1000), stream.uniforms(1000)]).tolist())) == 2000


def test_equal_seeds_and_labels_give_equal_streams() -> None:
    first, second = (RandomStream.from_seed(9, "site", 3, "round", 1) for _ in range(2))
    assert first.normals(5).tolist() == second.normals(5).tolist()


def test_drawing_in_pieces_gives_the_same_uniforms() -> None:
    whole, pieces = RandomStream.from_seed(10), RandomStream.from_seed(10)
    assert whole.uniforms(5).tolist() == [*pieces.uniforms(2).tolist(), *pieces.uniforms(3).tolist()]


def test_another_seed_or_any_other_label_gives_another_stream() -> None:
    keys = [(1,), (2,), (1, "a"), (1, "b"), (1, "a", "b"), (1, "ab"), (1, "a b"), (1, 1), (1, "1"), (1, 1, 1), (1, 11)]
    assert len({RandomStream.from_seed(*key).uniforms(1)[0] for key in keys}) == len(keys)  # type: ignore[arg-type]


def test_a_stream_says_whether_it_can_be_repeated_and_never_shows_its_key() -> None:
    key = bytes(range(32))
    assert repr(RandomStream(key, seeded=False)) == "RandomStream(seeded=False)"
    assert key not in [value for value in vars(RandomStream(key, seeded=True)).values() if isinstance(value, bytes)]
    assert RandomStream.from_seed(1).seeded
    assert not RandomStream.from_system().seeded
