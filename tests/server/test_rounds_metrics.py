"""Figures of a round are pooled over sites, labelled by their source, and spoilt by no site's odd sums."""

from __future__ import annotations

import pytest
import torch
from flwr.app import Message, MessageType
from torch import Tensor

from server.records import RunResult
from server.rounds import Setup, run_rounds
from tests.client_builders import PLAIN, plan
from tests.server.sums_builders import a_report
from tests.server_builders import TASK, PostOffice, agreeable, refusals, refused, run, sent, start

PLAIN_METRICS = plan({**PLAIN, "metrics": "plain"})


def sums(count: float, correct: float, **more: list[float]) -> dict[str, Tensor]:
    """Sums of a site: `more` puts other names beside the usual ones."""
    usual = {
        "count": count,
        "correct": correct,
        "loss": 2 * count,
        "positives": [0.0, count],
        "negatives": [count, 0.0],
    }
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in {**usual, **more}.items()}


def measured(answers: dict[int, dict[str, Tensor] | None]) -> RunResult:
    """A run of one round whose sites report these sums; None refuses."""

    def answer(node: int, message: Message) -> list[Message]:
        if message.metadata.message_type == MessageType.TRAIN:
            return [sent(message, 1.0)]
        found = answers[node]
        if found is None:
            return [refused(message, "OrderRefused")]
        return a_report(message, PLAIN_METRICS, {name: sums.tolist() for name, sums in found.items()}, None, None)

    return run(answer, PLAIN_METRICS, nodes=len(answers))


def test_plain_metrics_are_pooled_over_sites_and_labelled() -> None:
    (record,) = measured({1: sums(10, 9), 2: sums(30, 11), 3: None}).rounds
    assert record.figures == {"accuracy": 20 / 40, "auroc": 1.0, "loss": 2.0}
    assert record.figures_source == "plain sums from sites"
    assert refusals(record) == [("site-3", "OrderRefused")]
    assert record.answered == ("site-1", "site-2", "site-3")


ODD = {
    "another name": sums(1000, 1000, extra=[1.0]),
    "another shape": sums(1000, 1000, positives=[1.0, 2.0, 3.0]),
    "a name missing": {"count": torch.tensor(1000.0, dtype=torch.float64)},
    "a NaN": sums(1000, float("nan")),
}


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_site_of_other_metrics_is_refused_wherever_it_stands(odd: dict[str, Tensor], place: int) -> None:
    (record,) = measured({**dict.fromkeys((1, 2, 3), sums(10, 9)), place: odd}).rounds
    assert record.figures["accuracy"] == 0.9
    error = "NotFinite" if odd is ODD["a NaN"] else "WrongShape"
    assert refusals(record) == [(f"site-{place}", error)]


def test_metrics_that_the_task_can_not_read_do_not_end_the_run() -> None:
    result = measured({node: {"nonsense": torch.ones(1, dtype=torch.float64)} for node in (1, 2)})
    assert result.ended == "all planned rounds are done"
    assert result.rounds[0].figures == {}


def test_without_metrics_nobody_is_asked_to_evaluate() -> None:
    grid = PostOffice([1, 2], agreeable)
    result = run_rounds(grid, Setup(task=TASK, plan=plan(PLAIN)))
    assert grid.asked == {1: [(MessageType.TRAIN, 1)], 2: [(MessageType.TRAIN, 1)]}
    assert (result.rounds[0].figures, result.rounds[0].figures_source) == ({}, "none")


def test_what_only_a_simulator_can_see_is_labelled_so() -> None:
    grid = PostOffice([1, 2], agreeable)
    setup = Setup(task=TASK, plan=plan(PLAIN), judge=lambda vector, _: {"total": float(vector.sum())})
    (record,) = run_rounds(grid, setup).rounds
    assert record.figures_source == "simulation only"
    assert record.figures["total"] == pytest.approx(float(start(plan(PLAIN)).sum()) + 4.0, abs=1e-5)
