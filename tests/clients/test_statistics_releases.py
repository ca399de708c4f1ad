"""Private statistics leave a site once a run, noised, after the ledger has them; records are prepared by their sum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from federation import statistics
from federation.plan import Scalar
from federation.promise import (
    statistics_mechanism,
)
from federation.rows import Rows
from federation.statistics import Histogram
from privacy.errors import BudgetExhausted, DataInvalid, OrderRefused, TaskInvalid
from tests.client_builders import ledger_of, order, plan, releases
from tests.clients.release_builders import (
    AGES,
    HALF,
    ROOMY,
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
def test_noisy_statistics_leave_with_their_mechanism_and_a_receipt(unit: str) -> None:
    agreed, ledger = of_unit(SURVEYED, unit), ledger_of()
    task = Surveying(ledger)
    report = here(task, agreed, ledger).release_statistics(survey(task, agreed))
    assert list(report.sums) == ["statistics"]
    assert report.sums["statistics"].shape == (6,)
    assert report.mechanism == statistics_mechanism(agreed, 6**0.5)
    assert (report.purpose, report.address.round) == ("statistics", 0)
    assert task.prepared_by == []
    settled(report, ledger)


def test_statistics_are_of_training_records_only_and_repeat_in_no_other_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agreed = plan({**SURVEYED, "privacy.epsilon": 100.0, "privacy.statistics_share": 0.99})
    found = []
    for at_once in (1, 1 << 22):
        monkeypatch.setattr("clients.site._VALUES_AT_ONCE", at_once)
        task = Surveying(ledger_of())
        found.append(here(task, agreed, ledger_of()).release_statistics(survey(task, agreed)).sums["statistics"])
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-12)
    true = statistics.vectors((AGES,), TEN.take(~HALF)).sum(dim=0)
    assert torch.dist(found[0], true) < 6 * statistics_mechanism(agreed, 6**0.5).noise_multiplier * 6  # type: ignore[union-attr]


def test_statistics_are_priced_before_records_are_read_and_count_when_reading_fails() -> None:
    agreed, ledger = plan(SURVEYED), ledger_of()
    task = Surveying(ledger, rows=None)
    with pytest.raises(DataInvalid):
        here(task, agreed, ledger).release_statistics(survey(task, agreed))
    assert task.counted == [[("statistics", statistics_mechanism(agreed, 6**0.5))]]
    assert len(releases(ledger)) == 1


def test_statistics_of_one_run_leave_once_and_another_run_pays_again() -> None:
    agreed, ledger = plan(SURVEYED), ledger_of()
    task = Surveying(ledger)
    asked = here(task, agreed, ledger)
    asked.release_statistics(survey(task, agreed))
    with pytest.raises(OrderRefused, match="answered once"):
        asked.release_statistics(survey(task, agreed))
    asked.release_statistics(survey(task, agreed, run="2"))
    assert [(each.run, each.purpose) for each in releases(ledger)] == [("1", "statistics"), ("2", "statistics")]


def test_statistics_beyond_the_budget_are_refused_before_records_are_read() -> None:
    agreed, ledger = plan(SURVEYED), ledger_of(epsilon=0.5)
    task = Surveying(ledger)
    with pytest.raises(BudgetExhausted):
        here(task, agreed, ledger).release_statistics(survey(task, agreed))
    assert (task.counted, releases(ledger)) == ([], [])


@pytest.mark.parametrize("number", [-1, 1, 2])
def test_statistics_leave_before_the_first_round_only(number: int) -> None:
    agreed, ledger = plan(SURVEYED), ledger_of()
    task = Surveying(ledger)
    with pytest.raises(OrderRefused, match="outside the plan"):
        here(task, agreed, ledger).release_statistics(order(task, agreed, number))
    assert releases(ledger) == []


@pytest.mark.parametrize(("settings", "task_of"), [(ROOMY, Surveying), (SURVEYED, Measuring), (ROOMY, Measuring)])
def test_statistics_leave_only_where_plan_and_task_both_ask(
    settings: dict[str, Scalar], task_of: type[Surveying]
) -> None:
    agreed, ledger = plan(settings), ledger_of()
    task = task_of(ledger)
    with pytest.raises(OrderRefused, match="where the plan and the task both ask"):
        here(task, agreed, ledger).release_statistics(survey(task, agreed))
    assert (task.counted, releases(ledger)) == ([], [])


class Endless(Surveying):
    statistics = (Histogram(field="x", lower=(0.0,) * 11, upper=(1.0,) * 11, bins=10_000),)


def test_more_statistics_than_a_message_holds_are_refused_before_they_cost_anything() -> None:
    agreed, ledger = plan(SURVEYED), ledger_of()
    with pytest.raises(TaskInvalid, match="100,000 are the most"):
        here(Endless(ledger), agreed, ledger).release_statistics(survey(Endless(ledger), agreed))
    assert releases(ledger) == []


# what was learned


def test_prepare_sees_what_was_learned_in_training_and_evaluation() -> None:
    agreed, ledger = plan({**SURVEYED, "metrics": "private"}), ledger_of()
    task = Surveying(ledger)
    asked = here(task, agreed, ledger)
    for act in (asked.train, asked.evaluate):
        act(informing(task, agreed, 5.0, 2.5, 2.0, 5.0, 0.0, 0.0))
    assert task.prepared_by == [[10.0, 0.0]] * 2


def test_losses_and_figures_may_read_what_was_learned() -> None:
    class Unscaling(Surveying):
        def loss(self, model: nn.Module, batch: Rows) -> Tensor:
            assert self.learned is not None
            return super().loss(model, batch) * self.learned.deviation("x")[0]

        def correct(self, model: nn.Module, rows: Rows) -> Tensor:
            assert self.learned is not None
            return super().correct(model, rows)

    agreed, ledger = plan({**SURVEYED, "metrics": "private"}), ledger_of()
    task = Unscaling(ledger)
    asked = here(task, agreed, ledger)
    asked.train(informing(task, agreed, 5.0, 2.5, 2.0, 5.0, 0.0, 0.0))
    asked.evaluate(informing(task, agreed, 5.0, 2.5, 2.0, 5.0, 0.0, 0.0))


@pytest.mark.parametrize("act", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("settings", "values"),
    [(SURVEYED, ()), (SURVEYED, (1.0,) * 5), (SURVEYED, (1.0,) * 7), (ROOMY, (1.0,) * 6), (ROOMY, ())],
    ids=["missing", "too few", "too many", "unasked", "wanted by the task alone"],
)
def test_an_order_of_missing_or_superfluous_statistics_is_refused_and_costs_nothing(
    settings: dict[str, Scalar], values: tuple[float, ...], act: str
) -> None:
    agreed, ledger = plan({**settings, "metrics": "private"}), ledger_of()
    task = Surveying(ledger)
    with pytest.raises((OrderRefused, TaskInvalid)):
        getattr(here(task, agreed, ledger), act)(informing(task, agreed, *values))
    assert (task.counted, releases(ledger)) == ([], [])
