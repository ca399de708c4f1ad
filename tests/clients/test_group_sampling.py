"""Who enters a step under unit group: each group by its own coin, with at most k of its records, all equally likely."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clients.sampling import GroupSampler
from federation.rows import Rows
from privacy.noise import RandomStream
from tests.client_builders import ALARM

STEPS = 4000


def sampler(units: list[int], most: int = 100, physical: int = 1000) -> GroupSampler:
    rows = Rows(fields={"x": torch.arange(len(units))}, units=torch.tensor(units, dtype=torch.int64))
    assert rows.units is not None
    return GroupSampler.of(rows, rows.units, most, physical)


def drawn(here: GroupSampler, stream: RandomStream, rate: float) -> list[int]:
    return [position for batch in here.draw(stream, rate) for position in batch.tolist()]


def has_rate(hits: int, tries: int, rate: float) -> bool:
    """A two-sided exact test of a binomial count."""
    return bool(stats.binom.ppf(ALARM, tries, rate) <= hits <= stats.binom.isf(ALARM, tries, rate))


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.6])
def test_each_group_enters_at_the_stated_rate_whatever_its_size(rate: float) -> None:
    units = [0] * 50 + [1] * 5 + [2] + [3] * 7
    here, stream = sampler(units, most=4), RandomStream.from_seed(5)
    entered: Counter[int] = Counter()
    for _ in range(STEPS):
        entered.update({units[position] for position in drawn(here, stream, rate)})
    for group in range(4):
        assert has_rate(entered[group], STEPS, rate)
        assert not has_rate(entered[group], STEPS, rate * 2 / 3)
        assert not has_rate(entered[group], STEPS, rate * 3 / 2)


def test_two_groups_enter_independently_of_each_other() -> None:
    here, stream = sampler([0, 0, 0, 1, 1]), RandomStream.from_seed(6)
    both = sum(len(set(drawn(here, stream, 0.5)) & {0, 3}) == 2 for _ in range(STEPS))
    assert has_rate(both, STEPS, 0.25)
    assert not has_rate(both, STEPS, 0.5)  # one coin for both
    assert not has_rate(both, STEPS, 0.2)


def test_records_of_a_group_enter_together_where_they_are_few() -> None:
    here, stream = sampler([7, 3, 7, 3, 7]), RandomStream.from_seed(7)
    seen = {frozenset(drawn(here, stream, 0.5)) for _ in range(200)}
    assert seen == {frozenset(), frozenset({0, 2, 4}), frozenset({1, 3}), frozenset(range(5))}


def test_of_a_large_group_every_choice_of_k_records_is_equally_likely() -> None:
    here, stream = sampler([1, 2, 1, 1, 2, 1, 1], most=2), RandomStream.from_seed(8)
    seen: Counter[tuple[int, ...]] = Counter()
    for _ in range(STEPS):
        seen[tuple(sorted(set(drawn(here, stream, 1.0)) & {0, 2, 3, 5, 6}))] += 1
    assert set(seen) == set(combinations([0, 2, 3, 5, 6], 2))
    assert stats.chisquare(list(seen.values())).pvalue > ALARM


def test_every_step_draws_anew() -> None:
    here, stream = sampler([1] * 20, most=3), RandomStream.from_seed(9)
    assert len({tuple(drawn(here, stream, 1.0)) for _ in range(10)}) == 10


@given(
    st.lists(st.integers(-3, 3), max_size=60),
    st.integers(1, 6),
    st.integers(0, 10),
    st.floats(0.05, 1),
    st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=200)
def test_whatever_groups_there_are_no_batch_is_too_large_cuts_a_group_or_holds_more_than_k_of_it(
    units: list[int], most: int, more: int, rate: float, seed: int
) -> None:
    physical = most + more
    batches = [batch.tolist() for batch in sampler(units, most, physical).draw(RandomStream.from_seed(seed), rate)]
    everybody = [position for batch in batches for position in batch]
    assert len(everybody) == len(set(everybody))
    assert all(0 < len(batch) <= physical for batch in batches)
    sizes, entered = Counter(units), Counter(units[position] for position in everybody)
    assert all(entered[unit] in (0, min(sizes[unit], most)) for unit in sizes)
    assert sum(len({units[position] for position in batch}) for batch in batches) == len(entered)
    for one, other in pairwise(batches):
        assert len(one) + Counter(units[position] for position in other)[units[other[0]]] > physical


def test_at_rate_one_everybody_enters_in_order_of_first_appearance() -> None:
    assert drawn(sampler([9, 4, 9, 0, 4]), RandomStream.from_seed(1), 1.0) == [0, 2, 1, 4, 3]


def test_another_group_changes_neither_the_chance_nor_the_records_of_a_group() -> None:
    """Statistically: the coins are as many as groups, so that only the distribution can stay the same."""
    rates = []
    for units in ([1] * 6, [0] * 9 + [1] * 6, [1] * 6 + [0] * 90):
        here, stream = sampler(units, most=2), RandomStream.from_seed(len(units))
        mine = np.flatnonzero(np.array(units) == 1)
        hits = np.zeros(6)
        for _ in range(STEPS):
            hits += np.isin(mine, drawn(here, stream, 0.5))
        rates.append(hits)
    for hits in rates:
        assert all(has_rate(int(count), STEPS, 0.5 * 2 / 6) for count in hits)


def test_no_records_draw_nobody() -> None:
    assert sampler([]).draw(RandomStream.from_seed(1), 1.0) == []
