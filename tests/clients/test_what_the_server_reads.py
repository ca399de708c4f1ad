"""A site takes no part in a plan that shows the server more than its budget allows, and reads no record for it."""

from __future__ import annotations

import pytest
from flwr.app import RecordDict

from clients.account import Account
from clients.spending import rounds_left
from federation.plan import Scalar
from federation.promise import permissions, round_mechanism
from federation.wire import refusal_in
from privacy.budget import WHOLE_SITE
from privacy.errors import OrderRefused
from simulations.sealed_sites import simulated_budget
from tests.client_builders import (
    PLAIN,
    PRIVATE,
    DotTask,
    Untouchable,
    dots,
    ledger_of,
    order,
    plan,
    releases,
    site,
)
from tests.clients.release_builders import SURVEYED, Surveying, here, survey
from tests.encrypted_builders import NAMES, clinics

ENCRYPTED: dict[str, Scalar] = {"encryption.scheme": "bfv", "rounds": 1, "privacy.epsilon": 50.0}
IN_THE_CLEAR: dict[str, Scalar] = {**ENCRYPTED, "encryption.scheme": "none"}
REHEARSED: dict[str, Scalar] = {**ENCRYPTED, "encryption.simulate": "sizes"}
RELEASED: dict[str, Scalar] = {**ENCRYPTED, "release": "server"}
DISCREET = ["record", "group", "client", "none", "plain-metrics"]
TEN = dots(*[1.0] * 10)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        (ENCRYPTED, ()),
        ({**ENCRYPTED, "encryption.scheme": "ckks"}, ()),
        (RELEASED, ("server-release",)),
        (IN_THE_CLEAR, ("plain-updates",)),
        ({**IN_THE_CLEAR, "release": "server"}, ("plain-updates",)),  # who reads every update has the model
        (REHEARSED, ("plain-updates",)),
    ],
)
def test_a_plan_needs_the_permission_for_what_the_server_could_read(
    settings: dict[str, Scalar], needed: tuple[str, ...]
) -> None:
    assert permissions(plan(settings)) == needed


@pytest.mark.parametrize("settings", [PLAIN, PRIVATE], ids=["without privacy", "private"])
def test_updates_in_the_clear_are_refused_where_the_budget_does_not_allow_them(settings: dict[str, Scalar]) -> None:
    agreed, task, ledger = plan(settings), Untouchable(), ledger_of(allow=DISCREET)
    with pytest.raises(OrderRefused, match="does not allow 'plain-updates'"):
        site(task, agreed, ledger=ledger).train(order(task, agreed))
    assert releases(ledger) == []


@pytest.mark.parametrize("metrics", ["private", "plain"])
def test_metrics_of_a_plan_in_the_clear_are_refused_with_its_updates(metrics: str) -> None:
    agreed, task = plan({**PRIVATE, "metrics": metrics}), Untouchable()
    ledger = ledger_of(allow=DISCREET)
    with pytest.raises(OrderRefused, match="does not allow 'plain-updates'"):
        site(task, agreed, ledger=ledger).evaluate(order(task, agreed))
    assert releases(ledger) == []


def test_statistics_of_a_plan_in_the_clear_are_refused_with_its_updates() -> None:
    agreed, ledger = plan({**SURVEYED, "encryption.scheme": "none"}), ledger_of(allow=DISCREET)
    task = Surveying(ledger)
    with pytest.raises(OrderRefused, match="does not allow 'plain-updates'"):
        here(task, agreed, ledger).release_statistics(survey(task, agreed))
    assert releases(ledger) == []


def test_the_newest_budget_decides_between_two_rounds() -> None:
    agreed, task, ledger = plan({**PRIVATE, "rounds": 3}), DotTask(rows=TEN), ledger_of()
    here = site(task, agreed, ledger=ledger)
    here.train(order(task, agreed, 1))
    allowed = ledger.books().budgets[None]
    ledger.set_budget(allowed.model_copy(update={"allow": DISCREET}))
    with pytest.raises(OrderRefused, match="does not allow 'plain-updates'"):
        here.train(order(task, agreed, 2))
    ledger.set_budget(allowed)
    here.train(order(task, agreed, 2))
    assert [release.round for release in releases(ledger)] == [1, 2]


@pytest.mark.parametrize(
    ("settings", "permission"),
    [(RELEASED, "server-release"), (IN_THE_CLEAR, "plain-updates"), (REHEARSED, "plain-updates")],
)
def test_a_release_is_reserved_only_with_the_plans_permission(settings: dict[str, Scalar], permission: str) -> None:
    agreed, task, ledger = plan(settings), DotTask(), ledger_of(allow=DISCREET)
    account, mechanism = Account(ledger=ledger, data=None), round_mechanism(agreed)
    with pytest.raises(OrderRefused, match=f"does not allow '{permission}'"):
        account.reserve(order(task, agreed), agreed, "update", mechanism)
    assert releases(ledger) == []
    ledger.set_budget(ledger.books().budgets[None].model_copy(update={"allow": [*DISCREET, permission]}))
    account.reserve(order(task, agreed), agreed, "update", mechanism)
    assert len(releases(ledger)) == 1


def test_what_if_refuses_a_plan_as_the_site_would() -> None:
    books = ledger_of(allow=DISCREET).books()
    assert rounds_left(books, WHOLE_SITE, plan(ENCRYPTED))[0] == 1
    for settings, permission in ((RELEASED, "server-release"), (IN_THE_CLEAR, "plain-updates")):
        with pytest.raises(OrderRefused, match=f"does not allow '{permission}'"):
            rounds_left(books, WHOLE_SITE, plan(settings))


def test_a_site_that_keeps_the_model_from_the_server_gives_neither_an_update_nor_the_model() -> None:
    federation = clinics(rounds=1, release="server")
    discreet = federation.sites[0].site.ledger
    discreet.set_budget(discreet.books().budgets[None].model_copy(update={"allow": DISCREET}))
    (record,) = federation.run().rounds
    assert sorted(record.answered) == sorted(NAMES[1:])
    assert [(one.site, one.error) for one in record.refused] == [(NAMES[0], "OrderRefused")] * 2  # to train, to release
    assert releases(discreet) == []


def test_the_model_is_not_handed_to_the_server_once_the_budget_no_longer_allows_it() -> None:
    federation = clinics(rounds=1, release="server")
    second_thoughts = federation.sites[0].site.ledger
    allowed = second_thoughts.books().budgets[None]
    told: dict[int, str] = {}

    def up(place: int, kind: str, content: RecordDict) -> RecordDict:
        if kind == "train" and place == 0:
            second_thoughts.set_budget(allowed.model_copy(update={"allow": DISCREET}))
        if kind.endswith("release"):
            refusal = refusal_in(content)
            told[place] = "the model" if refusal is None else refusal.reason
        return content

    result = federation.run(up=up)
    assert sorted(result.rounds[0].answered) == sorted(NAMES)
    assert "does not allow 'server-release'" in told.pop(0)
    assert set(told.values()) == {"the model"}


@pytest.mark.parametrize("settings", [ENCRYPTED, RELEASED, IN_THE_CLEAR, REHEARSED, PLAIN])
def test_a_simulated_site_allows_what_its_plan_needs(settings: dict[str, Scalar]) -> None:
    agreed = plan(settings)
    assert {agreed.privacy.unit, *permissions(agreed)} <= set(simulated_budget(agreed).allow)
