"""Statistics before the first round: every order carries their sum, and what one site does wrong costs its own only."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flwr.app import Message, MessageType

from federation.plan import Scalar
from federation.promise import statistics_mechanism
from federation.statistics import Moments
from privacy.errors import RunFailed, TaskInvalid
from privacy.mechanism import Mechanism
from server.rounds import Setup, run_rounds
from tests.client_builders import PRIVATE, GivenTask, plan
from tests.server.sums_builders import (
    BARE,
    SURVEYED,
    TASK,
    TWO,
    Sites,
    Sums,
    Surveying,
    Watching,
    a_report,
    asked_for,
    cost,
)
from tests.server_builders import LAYOUT, PostOffice, refusals, refused


def test_every_order_carries_the_sum_of_what_sites_released() -> None:
    agreed, watching = plan({**SURVEYED, "metrics": "private"}), Watching()
    sites = Sites(agreed)
    result = sites.run(watching=watching)
    total = tuple(3 * value for value in TWO)
    assert watching.statistics == total
    assert [(order.address.round, order.statistics) for order in sites.orders] == [
        (number, () if number == 0 else total) for number in (0, 1, 1, 2, 2) for _ in range(3)
    ]
    assert set(result.rounds[0].epsilon.values()) == {cost(agreed, 1)}
    assert {site.epsilon for site in result.sites} == {cost(agreed, 2)}


def test_what_statistics_took_counts_with_the_first_round() -> None:
    first, second = Sites(plan(SURVEYED)).run().rounds
    vector = 4 * LAYOUT.length
    assert (first.bytes_down, second.bytes_down) == (6 * vector, 3 * vector)
    assert (first.bytes_up, second.bytes_up) == (3 * vector + 3 * 8 * 6, 3 * vector)
    assert "statistics" in first.seconds
    assert "statistics" not in second.seconds


def test_a_site_that_refuses_statistics_is_named_and_still_trains() -> None:
    sites = Sites(plan(SURVEYED), asked_for(MessageType.QUERY, {3}, lambda message: [refused(message, "OrderRefused")]))
    watching = Watching()
    first, second = sites.run(watching=watching).rounds
    assert watching.statistics == tuple(2 * value for value in TWO)
    assert (refusals(first), refusals(second)) == ([("site-3", "OrderRefused")], [])
    assert first.answered == ("site-1", "site-2", "site-3")


def test_a_site_whose_budget_does_not_cover_statistics_is_not_asked_again() -> None:
    no_budget = asked_for(MessageType.QUERY, {3}, lambda message: [refused(message, "BudgetExhausted")])
    assert [record.answered for record in Sites(plan(SURVEYED), no_budget).run().rounds] == [("site-1", "site-2")] * 2


@pytest.mark.parametrize("nodes", [{2, 3}, {1, 2, 3}])
def test_without_a_quorum_of_statistics_no_round_is_run(nodes: set[int]) -> None:
    sites = Sites(
        plan(SURVEYED), asked_for(MessageType.QUERY, nodes, lambda message: [refused(message, "DataInvalid")])
    )
    watching = Watching()
    with pytest.raises(RunFailed, match=r"sites released their statistics, but the plan's quorum is 2, .*\. site-"):
        sites.run(watching=watching)
    assert watching.ended.startswith("stopped before the first round")
    assert {order.address.round for order in sites.orders} == {0}


def test_statistics_of_another_mechanism_are_refused() -> None:
    agreed = plan(SURVEYED)
    priced = statistics_mechanism(agreed, 6**0.5)
    assert priced is not None
    for other in (replace(priced, max_grad_norm=1.0), replace(priced, noise_multiplier=0.5), None):

        def lying(message: Message, other: Mechanism | None = other) -> list[Message]:
            return a_report(message, agreed, {"statistics": [1e6] * 6}, other, other or priced)

        watching = Watching()
        first, _ = Sites(agreed, asked_for(MessageType.QUERY, {1}, lying)).run(watching=watching).rounds
        later = [] if other is None else [("node 1", "WrongReserve")]  # its ledger shows it with the first update
        assert refusals(first) == [("node 1", "WrongMechanism"), *later]
        assert watching.statistics == tuple(2 * value for value in TWO)


@pytest.mark.parametrize("sums", [{"statistics": [1.0] * 5}, {"statistics": [[1.0]] * 6}, {"moments": TWO}, {"x": 1.0}])
def test_statistics_of_another_shape_are_outvoted_or_end_the_run(sums: Sums) -> None:
    agreed = plan(SURVEYED)
    sites = Sites(agreed)
    few = Sites(agreed, asked_for(MessageType.QUERY, {1}, lambda message: sites.honest(message, sums)))
    assert refusals(few.run().rounds[0]) == [("site-1", "WrongShape")]
    most = Sites(agreed, asked_for(MessageType.QUERY, {1, 2}, lambda message: sites.honest(message, sums)))
    with pytest.raises(RunFailed, match="released their statistics"):
        most.run()


def test_a_sum_beyond_every_number_ends_the_run_in_words() -> None:
    agreed = plan(SURVEYED)
    sites = Sites(agreed)
    huge = {"statistics": [1e308] * 6}
    most = Sites(agreed, asked_for(MessageType.QUERY, {1, 2}, lambda message: sites.honest(message, huge)))
    with pytest.raises(RunFailed, match="a site sends nonsense"):
        most.run()


def test_a_site_that_released_nothing_but_statistics_is_listed_with_what_it_spent() -> None:
    agreed = plan({**SURVEYED, "cohort.share": 0.5, "rounds": 1})
    result = Sites(agreed).run(4)
    assert len(result.rounds[0].answered) == 2
    spent = {site.site: (site.rounds, site.epsilon) for site in result.sites}
    assert sorted(spent.values()) == sorted([(1, cost(agreed, 1))] * 2 + [(0, cost(agreed, 0))] * 2)
    assert set(result.rounds[0].epsilon) == set(spent)


@pytest.mark.parametrize(("task", "settings"), [(TASK, PRIVATE), (BARE, SURVEYED)])
def test_a_plan_and_a_task_that_do_not_agree_on_statistics_end_before_anybody_is_asked(
    task: GivenTask, settings: dict[str, Scalar]
) -> None:
    grid = PostOffice([1, 2], Sites(plan(settings)).answer)
    with pytest.raises(RunFailed, match="statistics"):
        run_rounds(grid, Setup(task=task, plan=plan(settings)))
    assert grid.asked == {}


def test_more_statistics_than_a_message_holds_end_before_anybody_is_asked() -> None:
    class Endless(Surveying):
        statistics = (Moments(field="x", lower=(0.0,) * 40_000, upper=(1.0,) * 40_000),)

    grid = PostOffice([1, 2], Sites(plan(SURVEYED)).answer)
    with pytest.raises(TaskInvalid, match="120,000 values"):
        run_rounds(grid, Setup(task=Endless(TASK._build), plan=plan(SURVEYED)))
    assert grid.asked == {}
