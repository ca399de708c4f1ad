"""Private metrics leave a site once a round, noised, and only after the ledger has all that left before."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from clients.site import Site
from federation.promise import (
    METRICS_BOUND,
    metrics_mechanism,
    round_mechanism,
    rounds_within_budget,
    statistics_mechanism,
)
from federation.rows import Rows
from federation.site_info import SiteInfo
from privacy.entries import Settled
from privacy.errors import BudgetExhausted, DataInvalid, OrderRefused, PlanInvalid, TaskInvalid
from tests.client_builders import ledger_of, order, plan, releases
from tests.clients.release_builders import (
    MEASURED,
    SURVEYED,
    TEN,
    UNITS,
    Measuring,
    Surveying,
    here,
    informing,
    of_unit,
    settled,
    survey,
)


@pytest.mark.parametrize("unit", UNITS)
def test_noisy_metrics_leave_with_their_mechanism_and_a_receipt(unit: str) -> None:
    agreed, ledger = of_unit(MEASURED, unit), ledger_of()
    task = Measuring(ledger)
    report = here(task, agreed, ledger).evaluate(order(task, agreed))
    assert sorted(report.sums) == ["correct", "count", "loss"]
    assert all(tensor.shape == () and tensor.isfinite() for tensor in report.sums.values())
    assert (report.purpose, report.mechanism, report.seeded) == ("metrics", metrics_mechanism(agreed), True)
    assert float(report.sums["count"]) != round(float(report.sums["count"]))
    settled(report, ledger)


def test_metrics_are_priced_before_records_are_read_and_count_when_reading_fails() -> None:
    agreed, ledger = plan(MEASURED), ledger_of()
    task = Measuring(ledger, rows=None)
    with pytest.raises(DataInvalid, match="the table is gone"):
        here(task, agreed, ledger).evaluate(order(task, agreed))
    assert task.counted == [[("metrics", metrics_mechanism(agreed))]]
    assert [(each.purpose, each.round) for each in releases(ledger)] == [("metrics", 1)]
    assert not any(isinstance(entry, Settled) for entry in ledger.entries())


def test_metrics_beyond_the_budget_are_refused_before_records_are_read() -> None:
    agreed, ledger = plan({**MEASURED, "privacy.metrics_noise_multiplier": 0.05}), ledger_of(epsilon=10.0)
    task = Measuring(ledger)
    with pytest.raises(BudgetExhausted):
        here(task, agreed, ledger).evaluate(order(task, agreed))
    assert (task.counted, releases(ledger)) == ([], [])


def test_metrics_of_rounds_add_up_until_the_plans_own_budget_ends() -> None:
    agreed, ledger = plan({**MEASURED, "rounds": 9, "privacy.epsilon": 6.0}), ledger_of()
    task, last = Measuring(ledger), rounds_within_budget(agreed)
    asked = here(task, agreed, ledger)
    for number in range(1, last + 1):
        asked.train(order(task, agreed, number))
        asked.evaluate(order(task, agreed, number))
    with pytest.raises(BudgetExhausted, match="the plan, its run"):
        asked.train(order(task, agreed, last + 1))
    assert [each.purpose for each in releases(ledger)] == ["update", "metrics"] * last


def test_metrics_of_one_round_leave_once() -> None:
    agreed, ledger = plan(MEASURED), ledger_of()
    task = Measuring(ledger)
    asked = here(task, agreed, ledger)
    asked.evaluate(order(task, agreed))
    with pytest.raises(OrderRefused, match="answered once"):
        asked.evaluate(order(task, agreed))


@pytest.mark.parametrize("unit", UNITS)
def test_a_site_that_holds_nothing_out_sends_noise_around_zero(unit: str) -> None:
    agreed, found = of_unit({**MEASURED, "rounds": 400, "privacy.epsilon": 100.0}, unit), []
    nothing = replace(TEN, held_out=torch.zeros(10, dtype=torch.bool))
    task = Measuring(ledger_of(), nothing)
    asked = here(task, agreed, ledger_of())
    for number in range(1, 101):
        found.append(torch.stack(list(asked.evaluate(order(task, agreed, number)).sums.values())))
    sigma = metrics_mechanism(agreed).noise_multiplier * METRICS_BOUND  # type: ignore[union-attr]
    assert abs(float(torch.stack(found).mean())) < 5 * sigma / 300**0.5
    assert 0.8 * sigma < float(torch.stack(found).std()) < 1.25 * sigma


class Ranking(Measuring):
    """Is right about a record where its score is above the batch's mean."""

    def correct(self, model: nn.Module, rows: Rows) -> Tensor:
        scores = model(rows["x"])[:, 0]
        return (scores > scores.mean()).double()


class Shapeless(Measuring):
    """Says one number of all records."""

    def correct(self, model: nn.Module, rows: Rows) -> Tensor:
        return torch.ones(())


class MixingInEvaluation(nn.Linear):
    """Mixes the records of a batch, but never in training."""

    def forward(self, inputs: Tensor) -> Tensor:
        found = super().forward(inputs)
        return found if self.training else 9 * (found - found.mean(dim=0))


@pytest.mark.parametrize("task_of", [Ranking, lambda ledger: Measuring(ledger, build=lambda: MixingInEvaluation(2, 2))])
def test_answers_that_depend_on_the_records_beside_are_refused_unless_the_whole_client_is_hidden(task_of) -> None:  # type: ignore[no-untyped-def]
    for unit, refused in (("record", True), ("group", True), ("client", False)):
        agreed, ledger = of_unit(MEASURED, unit), ledger_of()
        task = task_of(ledger)
        if refused:
            with pytest.raises(TaskInvalid, match="of a record changes with the records beside it"):
                here(task, agreed, ledger).evaluate(order(task, agreed))
        else:
            here(task, agreed, ledger).evaluate(order(task, agreed))


def test_answers_of_another_shape_are_refused_in_words() -> None:
    agreed, ledger = plan(MEASURED), ledger_of()
    with pytest.raises(TaskInvalid, match=r"correct has shape \(\) for a batch of 2"):
        here(Shapeless(ledger), agreed, ledger).evaluate(order(Shapeless(ledger), agreed))


@pytest.mark.parametrize("act", ["train", "evaluate", "release_statistics"])
def test_a_delta_that_would_let_a_whole_record_out_is_refused_before_anything_is_released(act: str) -> None:
    agreed = plan({**SURVEYED, "metrics": "private", "data.rows_per_site": 5, "privacy.delta": 0.05})
    ledger = ledger_of(delta=0.05)
    task = Surveying(ledger)
    info = SiteInfo(name="north", declared_rows=20, simulation_seed=1, plan=agreed)
    asked = Site(task=task, info=info, plan=agreed, ledger=ledger)
    wish = survey(task, agreed) if act == "release_statistics" else informing(task, agreed, *[1.0] * 6)
    with pytest.raises(PlanInvalid, match="a site holds about 20 records"):
        getattr(asked, act)(wish)
    assert (task.counted, releases(ledger)) == ([], [])


def test_updates_statistics_and_metrics_are_one_account() -> None:
    agreed, ledger = plan({**SURVEYED, "metrics": "private"}), ledger_of()
    task = Surveying(ledger)
    asked = here(task, agreed, ledger)
    asked.release_statistics(survey(task, agreed))
    for number in (1, 2):
        wish = informing(task, agreed, *[1.0] * 6, number=number)
        asked.train(wish)
        asked.evaluate(wish)
    found = [each.mechanism for each in releases(ledger)]
    update, metrics = round_mechanism(agreed), metrics_mechanism(agreed)
    assert found == [statistics_mechanism(agreed, 6**0.5), update, metrics, update, metrics]
