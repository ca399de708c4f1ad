"""What may still be spent: overlaps in the worst case, the stricter of all bounds, figures in the refusal."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from privacy.accountant import Budget, epsilon
from privacy.budget import WHOLE_SITE, Books, Tally
from privacy.entries import Entry, Permission, Reserved
from privacy.errors import BudgetExhausted, MechanismUnsound, OrderRefused
from privacy.mechanism import Mechanism
from tests.privacy.ledger_builders import (
    DELTA,
    HEART,
    LIVER,
    LUNG,
    NOISE,
    asked,
    books,
    budget,
    data,
)

SAMPLED = Mechanism(noise_multiplier=2.0, sample_rate=0.1, steps=10, max_grad_norm=1.0)
PRIVATE = ["record", "group", "client"]
HEARTS = data(HEART, "heart")


def cost(count: int, mechanism: Mechanism = NOISE) -> float:
    return epsilon([replace(mechanism, steps=count * mechanism.steps)], DELTA)


def enough_for(count: int, mechanism: Mechanism = NOISE) -> float:
    return (cost(count, mechanism) + cost(count + 1, mechanism)) / 2


def admitted(known: Books, release: Reserved, wish: Budget | None = None, limit: int = 10) -> int:
    """How often a release is admitted before the budget refuses it."""
    for number in range(limit):
        try:
            known.refuse(release, wish)
        except BudgetExhausted:
            return number
        known.add(release)
    return limit


def spent(known: Books, account: str) -> float:
    return known.spent(account).epsilon(DELTA)


def test_overlapping_data_sets_compose_and_disjoint_ones_do_not() -> None:
    known = books(HEARTS, data(LUNG, "lung", HEART), data(LIVER, "liver", LUNG), budget())
    for account, count in ((HEART, 1), (LUNG, 2), (LIVER, 3)):
        for number in range(count):
            known.add(asked(number, account=account))
    assert spent(known, HEART) == cost(1 + 2)
    assert spent(known, LUNG) == cost(1 + 2 + 3)
    assert spent(known, LIVER) == cost(2 + 3)  # nobody is in heart and liver


def test_different_mechanisms_of_overlapping_data_sets_compose() -> None:
    known = books(HEARTS, data(LUNG, "lung", HEART), budget())
    known.add(asked(1, account=HEART))
    known.add(asked(1, account=LUNG, mechanism=SAMPLED))
    assert spent(known, HEART) == epsilon([NOISE, SAMPLED], DELTA) > max(cost(1), cost(1, SAMPLED))


def test_a_release_that_an_overlapping_data_sets_budget_does_not_cover_is_refused() -> None:
    known = books(HEARTS, data(LUNG, "lung", HEART), budget(), budget(enough_for(3), account=HEART))
    known.add(asked(1, account=HEART))
    assert admitted(known, asked(1, account=LUNG)) == 2
    with pytest.raises(BudgetExhausted, match="data set 'heart', for ever"):
        known.refuse(asked(2, account=LUNG), None)


@pytest.mark.parametrize("purpose", ["update", "metrics"])
def test_what_an_overlapping_data_sets_budget_does_not_allow_unprotected_is_refused(purpose: str) -> None:
    guarded = budget(account=HEART, allow=PRIVATE)
    known = books(HEARTS, data(LUNG, "lung", HEART), data(LIVER, "liver"), budget(), guarded)
    known.refuse(asked(1, account=LIVER, mechanism=None, purpose=purpose), None)
    with pytest.raises(OrderRefused, match="for data set 'heart'"):
        known.refuse(asked(1, account=LUNG, mechanism=None, purpose=purpose), None)
    with pytest.raises(OrderRefused, match="for data set 'heart'"):
        known.refuse(asked(1, mechanism=None, purpose=purpose), None)  # records that were never sealed may be any


def test_the_bounds_of_a_run_and_a_release_hold_for_overlapping_data_sets_too() -> None:
    known = books(HEARTS, data(LUNG, "lung", HEART), budget(), budget(account=HEART, per_run=enough_for(2)))
    known.add(asked(1, account=HEART))
    assert admitted(known, asked(1, account=LUNG)) == 1
    known = books(HEARTS, data(LUNG, "lung", HEART), budget(), budget(account=HEART, per_round=cost(1) / 2))
    with pytest.raises(BudgetExhausted, match="data set 'heart', a release"):
        known.refuse(asked(1, account=LUNG), None)


def test_releases_of_records_that_were_never_sealed_count_for_every_data_set() -> None:
    known = books(HEARTS, data(LIVER, "liver"), budget(enough_for(3)))
    known.add(asked(1))
    known.add(asked(1, account=HEART))
    assert (spent(known, HEART), spent(known, LIVER), spent(known, WHOLE_SITE)) == (cost(2), cost(1), cost(2))
    assert admitted(known, asked(1, account=LIVER)) == 1  # unsealed records have spent two, and liver's counts for them


@pytest.mark.parametrize("bound", ["per_run", "per_round", "epsilon", "wish"])
def test_the_stricter_of_all_bounds_wins(bound: str) -> None:
    strict = {bound: enough_for(2)} if bound != "wish" else {}
    wish = Budget(epsilon=enough_for(2), delta=DELTA) if bound == "wish" else Budget(epsilon=100.0, delta=DELTA)
    known = books(budget(**strict))
    assert admitted(known, asked(1), wish) == {"per_round": 10}.get(bound, 2)
    another_run = {"per_run": 2, "wish": 2, "epsilon": 0, "per_round": 10}
    assert admitted(known, asked(1, run="2"), wish) == another_run[bound]
    if bound == "per_round":
        with pytest.raises(BudgetExhausted, match="a release"):
            known.refuse(asked(1, mechanism=replace(NOISE, steps=3)), wish)


def test_a_wish_is_held_at_its_own_delta() -> None:
    known = books(budget())
    wish = Budget(epsilon=enough_for(2), delta=DELTA / 1000)
    assert admitted(known, asked(1), wish) < 2


def test_the_newest_budget_counts_and_a_data_sets_own_before_the_others() -> None:
    known = books(HEARTS, budget(enough_for(1)), budget(enough_for(5), account=HEART))
    assert admitted(known, asked(1, account=HEART)) == 5
    known.add(budget(enough_for(7), account=HEART))
    assert admitted(known, asked(1, account=HEART)) == 2
    known.add(budget(enough_for(6), account=HEART))  # less than is spent
    assert admitted(known, asked(1, account=HEART)) == 0


def test_a_refusal_says_whose_budget_it_is_what_was_spent_asked_and_left() -> None:
    known = books(HEARTS, budget(0.5))
    known.add(asked(1, account=HEART))
    strong = replace(NOISE, noise_multiplier=1.0)
    with pytest.raises(BudgetExhausted) as told:
        known.refuse(asked(2, account=HEART, mechanism=strong), None)
    after = epsilon([NOISE, strong], DELTA)
    assert str(told.value) == (
        f"budget of data set 'heart', for ever: epsilon 0.5 at delta 1e-05; spent {cost(1):.4f} in 1 releases, left "
        f"{0.5 - cost(1):.4f}, and this release would make it {after:.4f}"
    )


def test_without_a_budget_nothing_is_spent() -> None:
    known = books(HEARTS, budget(account=LUNG))
    for release in (asked(1, account=HEART), asked(1), asked(1, account=HEART, mechanism=None)):
        for permissions in ((), ("plain-updates",)):
            with pytest.raises(OrderRefused, match="no budget is set"):
                known.refuse(release, None, permissions)


def test_what_has_no_privacy_must_be_allowed_and_then_no_epsilon_is_left() -> None:
    known = books(budget(allow=PRIVATE))
    for purpose, kind in (("update", "none"), ("statistics", "none"), ("metrics", "plain-metrics")):
        with pytest.raises(OrderRefused, match=f"does not allow '{kind}'"):
            known.refuse(asked(1, mechanism=None, purpose=purpose), None)
    known.add(budget())
    known.refuse(asked(1, mechanism=None, purpose="metrics"), None)
    known.add(asked(1, mechanism=None, purpose="metrics"))
    assert spent(known, WHOLE_SITE) == 0.0  # exact metrics have no epsilon, and reports say so
    known.refuse(asked(1, mechanism=None), None)
    known.add(asked(1, mechanism=None))
    assert spent(known, WHOLE_SITE) == math.inf
    with pytest.raises(BudgetExhausted, match=r"spent inf in 1 releases, left 0.0000"):
        known.refuse(asked(2), None)


ALLOWED = [*PRIVATE, "plain-updates"]


@pytest.mark.parametrize("permission", ["plain-updates", "server-release"])
@pytest.mark.parametrize("purpose", ["update", "metrics", "statistics"])
def test_what_the_server_would_read_must_be_allowed_whatever_is_released(permission: Permission, purpose: str) -> None:
    known, release = books(budget(allow=PRIVATE)), asked(1, purpose=purpose)
    known.refuse(release, None)
    with pytest.raises(OrderRefused, match=f"does not allow '{permission}', only record, group, client; .* --allow`"):
        known.refuse(release, None, [permission])
    known.add(budget(allow=[*PRIVATE, permission]))
    known.refuse(release, None, [permission])
    known.add(budget(allow=PRIVATE))  # the newest counts
    with pytest.raises(OrderRefused, match=f"does not allow '{permission}'"):
        known.refuse(release, None, [permission])


def test_to_read_updates_is_not_allowed_by_allowing_the_model_nor_the_other_way_round() -> None:
    for allowed, wanted in (("plain-updates", "server-release"), ("server-release", "plain-updates")):
        with pytest.raises(OrderRefused, match=f"does not allow '{wanted}'"):
            books(budget(allow=[*PRIVATE, allowed])).refuse(asked(1), None, [wanted])


def test_what_the_server_would_read_must_be_allowed_for_every_data_set_that_overlaps() -> None:
    known = books(HEARTS, data(LUNG, "lung", HEART), data(LIVER, "liver"), budget(allow=ALLOWED))
    known.add(budget(account=HEART, allow=PRIVATE))
    known.refuse(asked(1, account=LIVER), None, ["plain-updates"])
    for account in (HEART, LUNG, WHOLE_SITE):  # records that were never sealed may be any
        with pytest.raises(OrderRefused, match="does not allow 'plain-updates'"):
            known.refuse(asked(1, account=account), None, ["plain-updates"])


def test_units_of_privacy_that_are_not_the_same_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privacy.mechanism.UNITS", ("record", "client"))
    of_clients = replace(NOISE, unit="client")
    known = books(HEARTS, data(LUNG, "lung", HEART), data(LIVER, "liver", LUNG), budget())
    known.add(asked(1, account=HEART, mechanism=of_clients))
    for account, name in ((HEART, "heart"), (LUNG, "lung"), (LIVER, "lung")):
        with pytest.raises(OrderRefused, match=f"data set '{name}' counts in units of client"):
            known.refuse(asked(1, account=account), None)
    with pytest.raises(MechanismUnsound, match="no common epsilon"):
        Tally.union([known.spent(HEART)]).epsilon(DELTA, NOISE)


def test_a_figure_that_is_no_number_is_beyond_every_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privacy.budget.epsilon", lambda *_: math.nan)
    with pytest.raises(BudgetExhausted):
        books(budget()).refuse(asked(1), None)


@pytest.mark.parametrize("noise", [1e-300, 1e-160, 1e-5, 0.1, 1e160, 1e300, 10**300])
@pytest.mark.parametrize("rate", [1e-300, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 10**6, 10**18, 10**400])
def test_facts_that_nobody_means_are_priced_at_once_and_never_below_the_truth(
    noise: float, rate: float, steps: int
) -> None:
    strange = Mechanism(noise_multiplier=noise, sample_rate=rate, steps=steps, max_grad_norm=1.0)
    found = epsilon([strange], DELTA)
    assert found >= 0
    if noise < 1 and rate == 1.0:
        assert found > 50
    if steps > 10**9:
        assert found == math.inf


def test_entries_of_every_order_come_to_the_same_spending() -> None:
    entries: list[Entry] = [HEARTS, data(LUNG, "lung", HEART), *(asked(n, account=HEART) for n in range(3))]
    assert spent(books(*entries), LUNG) == spent(books(*reversed(entries)), LUNG) == cost(3)


def test_what_the_server_is_told_of_a_budget_names_no_data_set() -> None:
    known = books(budget(epsilon=cost(1)), data(HEART, "oncology-2024"), asked(1, account=HEART))
    exposed = asked(2, account=HEART, mechanism=None)
    known.add(budget(epsilon=cost(1), allow=["record"]))
    for refused, error in ((asked(2, account=HEART), BudgetExhausted), (exposed, OrderRefused)):
        with pytest.raises(error) as told:
            known.refuse(refused, None)
        assert "oncology-2024" in str(told.value)
        assert "oncology-2024" not in told.value.told
        assert "the site's data set" in told.value.told
