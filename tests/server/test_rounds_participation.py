"""A round goes on without silent and spent sites, and the run ends by name where too few are left."""

from __future__ import annotations

import pytest
from flwr.app import Message

from privacy.errors import RunFailed
from server.rounds import Setup, run_rounds
from tests.client_builders import PLAIN, plan
from tests.server_builders import HASTY, TASK, PostOffice, agreeable, moved, order_of, refusals, refused, run, sent


def test_a_silent_site_is_recorded_and_the_round_ends_at_its_deadline() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [] if node == 3 else [sent(message, 1.0)]

    result = run(answer, plan(HASTY), nodes=3)
    assert [refusals(record) for record in result.rounds] == [[("node 3", "DeadlinePassed")]] * 2
    assert moved(result) == pytest.approx([2.0] * 4, abs=1e-6)


def test_a_run_without_its_quorum_ends_with_the_model_it_has() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        number = order_of(message).address.round
        return [refused(message)] if number == 3 and node > 1 else [sent(message, 1.0)]

    result = run(answer, plan({**PLAIN, "rounds": 9, "cohort.quorum": 2}), nodes=3)
    assert len(result.rounds) == 3
    assert result.ended == "quorum not reached: 1 good reports, the plan asks for 2"
    assert moved(result) == pytest.approx([2.0] * 4, abs=1e-6)  # the third round's lone report is not applied


def test_too_few_sites_at_the_start_fail_the_run_and_ask_nobody() -> None:
    grid = PostOffice([1, 2], agreeable)
    agreed = plan({**PLAIN, "cohort.quorum": 3, "cohort.deadline_seconds": 0.01})
    with pytest.raises(RunFailed, match=r"2 sites came online .* quorum is 3"):
        run_rounds(grid, Setup(task=TASK, plan=agreed))
    assert not grid.asked


def test_a_site_whose_budget_is_spent_is_not_asked_again_and_the_run_goes_on() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        spent = node == 2 and order_of(message).address.round == 2
        return [refused(message, "BudgetExhausted") if spent else sent(message, 1.0)]

    grid = PostOffice([1, 2, 3], answer)
    result = run_rounds(grid, Setup(task=TASK, plan=plan({**PLAIN, "rounds": 4})))
    assert result.ended == "all planned rounds are done"
    assert [number for _, number in grid.asked[2]] == [1, 2]
    assert [number for _, number in grid.asked[3]] == [1, 2, 3, 4]
    assert [record.cohort for record in result.rounds] == [3, 3, 2, 2]


def test_a_site_that_refuses_for_another_reason_is_asked_again() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [refused(message) if node == 2 else sent(message, 1.0)]

    grid = PostOffice([1, 2, 3], answer)
    run_rounds(grid, Setup(task=TASK, plan=plan({**PLAIN, "rounds": 3})))
    assert [number for _, number in grid.asked[2]] == [1, 2, 3]


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_run_whose_every_budget_is_spent_stops_and_says_so(share: float) -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [refused(message, "BudgetExhausted") if order_of(message).address.round > 1 else sent(message, 1.0)]

    agreed = plan({**PLAIN, "rounds": 9, "cohort.share": share, "cohort.quorum": 4})
    result = run(answer, agreed, nodes=4)
    assert result.ended == "no site has privacy budget left for another round"
    assert len(result.rounds) == 2
    assert moved(result) == pytest.approx([1.0] * 4, abs=1e-6)
