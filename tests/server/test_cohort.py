"""Who is asked: the plan's share, at least the quorum, the same for everyone who draws it again."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from federation.plan import Plan
from federation.plan_settings import CohortSettings
from server.cohort import cohort


def plan(share: float, quorum: int = 1, seed: int = 0) -> Plan:
    return Plan(seed=seed, cohort=CohortSettings(share=share, quorum=quorum))


@given(
    st.sets(st.integers(0, 2**64 - 1), max_size=30),
    st.floats(0.01, 1.0),
    st.integers(1, 10),
    st.integers(1, 1000),
    st.integers(0, 2**63 - 1),
)
@settings(deadline=None, max_examples=80)
def test_a_cohort_is_of_nodes_online_ascending_each_once_and_large_enough(
    online: set[int], share: float, quorum: int, round_number: int, seed: int
) -> None:
    asked = cohort(plan(share, quorum, seed), round_number, list(online))
    assert asked == sorted(set(asked))
    assert set(asked) <= online
    assert len(asked) == min(len(online), max(quorum, round(share * len(online))))
    assert asked == cohort(plan(share, quorum, seed), round_number, sorted(online, reverse=True))


@pytest.mark.parametrize(
    ("share", "quorum", "online", "asked"), [(0.1, 2, 100, 10), (0.1, 20, 100, 20), (1.0, 2, 7, 7), (0.1, 5, 3, 3)]
)
def test_the_share_is_asked_but_never_fewer_than_the_quorum_or_more_than_are_online(
    share: float, quorum: int, online: int, asked: int
) -> None:
    assert len(cohort(plan(share, quorum), 1, range(online))) == asked


def test_nobody_online_is_nobody_asked() -> None:
    assert cohort(plan(0.5, 2), 1, []) == []


def test_another_round_or_seed_asks_others() -> None:
    drawn = {tuple(cohort(plan(0.1, seed=seed), number, range(100))) for seed in (0, 1) for number in (1, 2, 3)}
    assert len(drawn) == 6


def test_every_site_is_asked_equally_often() -> None:
    asked = Counter(node for number in range(1, 2001) for node in cohort(plan(0.3), number, range(10)))
    assert sum(asked.values()) == 6000
    assert chisquare([asked[node] for node in range(10)]).pvalue > 1e-4
