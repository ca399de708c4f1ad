"""Rounds with private metrics: what sites may report, what is read from it, and what a broken report costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from flwr.app import Message, MessageType

from federation.private_metrics import private_figures
from federation.promise import metrics_mechanism, round_mechanism
from privacy.accountant import epsilon
from tests.client_builders import plan
from tests.server.sums_builders import (
    MEASURED,
    Sites,
    Sums,
    a_report,
    asked_for,
    cost,
)
from tests.server_builders import refusals


def test_figures_come_from_the_noisy_sums_and_say_how_noisy_they_are() -> None:
    agreed = plan(MEASURED)
    priced = metrics_mechanism(agreed)
    assert priced is not None
    for record in Sites(agreed).run().rounds:
        assert record.figures["accuracy"] == 0.9
        assert record.figures["loss"] == pytest.approx(0.4 * agreed.privacy.loss_bound)
        assert record.figures["noise"] == pytest.approx(priced.noise_multiplier * 3**0.5 * 3**0.5 / 30)
        sums = {"count": torch.tensor(30.0), "correct": torch.tensor(27.0), "loss": torch.tensor(12.0)}
        assert record.figures == pytest.approx(private_figures(sums, 3, agreed, priced))
        assert record.figures_source == "noisy sums from sites"


def test_epsilon_of_a_round_counts_its_metrics() -> None:
    agreed = plan(MEASURED)
    result = Sites(agreed).run()
    for record in result.rounds:
        assert set(record.epsilon.values()) == {cost(agreed, record.round)}
    assert cost(agreed, 1) > epsilon([round_mechanism(agreed)], 1e-5)
    assert {site.epsilon for site in result.sites} == {cost(agreed, 2)}


@pytest.mark.parametrize("honest_ledger", [True, False])
@pytest.mark.parametrize("stated", ["less noise", "none", "that of updates"])
def test_metrics_of_another_mechanism_are_refused(stated: str, honest_ledger: bool) -> None:
    agreed = plan(MEASURED)
    priced = metrics_mechanism(agreed)
    assert priced is not None
    other = {
        "less noise": replace(priced, noise_multiplier=priced.noise_multiplier / 2),
        "none": None,
        "that of updates": round_mechanism(agreed),
    }[stated]
    sums: Sums = {"count": 1000.0, "correct": 0.0, "loss": 0.0}

    def lying(message: Message) -> list[Message]:
        return a_report(message, agreed, sums, other if honest_ledger else priced, other)

    error = "WrongMechanism" if honest_ledger else "WrongReserve"
    first, second = Sites(agreed, asked_for(MessageType.EVALUATE, {2}, lying)).run().rounds
    assert (first.figures["accuracy"], second.figures["accuracy"]) == (0.9, 0.9)
    assert refusals(first) == [("site-2", error)]
    assert first.answered == ("site-1", "site-2", "site-3")
    # What its ledger shows beside the plan costs the site the next update too.
    assert refusals(second) == [*([("site-2", "WrongReserve")] if honest_ledger else []), ("site-2", error)]


ODD: dict[str, Sums] = {
    "another name": {"count": 10.0, "right": 10.0, "loss": 0.0},
    "no sums": {},
    "another shape": {"count": [10.0, 1.0], "correct": [9.0, 1.0], "loss": [1.0, 1.0]},
}


@pytest.mark.parametrize("sums", ODD.values(), ids=ODD)
def test_odd_sums_cost_their_own_report_and_those_of_most_sites_no_more_than_the_figures(sums: Sums) -> None:
    agreed = plan(MEASURED)
    priced = metrics_mechanism(agreed)

    def odd(message: Message) -> list[Message]:
        return a_report(message, agreed, sums, priced, priced)

    few = Sites(agreed, asked_for(MessageType.EVALUATE, {2}, odd)).run()
    assert all(record.figures["accuracy"] == 0.9 for record in few.rounds)
    assert refusals(few.rounds[0]) == [("site-2", "WrongShape")]
    most = Sites(agreed, asked_for(MessageType.EVALUATE, {1, 2}, odd)).run()
    assert most.ended == "all planned rounds are done"
    assert [record.figures for record in most.rounds] == [{}, {}]


def test_without_an_answer_there_are_no_figures() -> None:
    def silent(node: int, message: Message) -> list[Message] | None:
        return [] if message.metadata.message_type == MessageType.EVALUATE else None

    agreed = plan({**MEASURED, "cohort.deadline_seconds": 0.05})
    for record in Sites(agreed, silent).run().rounds:
        assert (record.figures, record.figures_source) == ({}, "noisy sums from sites")
