"""A site counts the price before it reads a record, answers an order once, and refuses what its plan does not say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clients.site import MODELS, Models
from federation.orders import History, Order
from federation.promise import round_mechanism, rounds_within_budget
from federation.rows import Rows
from federation.seeding import seeded_torch
from federation.site_info import SiteInfo
from federation.task import Task
from privacy.errors import BudgetExhausted, DataInvalid, ModelUnsupported, OrderRefused, PlanInvalid
from privacy.mechanism import Mechanism
from server.rounds import initial_vector
from tests.client_builders import PLAIN, PRIVATE, DotTask, GivenTask, dots, forget, order, plan, site

TEN = dots(*[1.0] * 10)


class Untouchable(DotTask):
    """Records that nobody may ask for."""

    def rows(self, site: SiteInfo) -> Rows:
        raise AssertionError("the site read its records")


class Diary:
    """Remembers histories, and what else the test writes into it, in order."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def remember(self, history: History) -> None:
        self.events.append(history)


def test_an_order_under_another_plan_is_refused() -> None:
    agreed, other = plan(PRIVATE), plan({**PRIVATE, "seed": 1})
    task = Untouchable()
    for act in (
        lambda: site(task, agreed).train(order(task, other), History(), Diary().remember),
        lambda: site(task, agreed).evaluate(order(task, other)),
    ):
        with pytest.raises(OrderRefused, match="the order is under plan"):
            act()


def test_a_plan_that_differs_in_nothing_but_its_noise_is_another_plan() -> None:
    agreed, weaker = plan(PRIVATE), plan({**PRIVATE, "privacy.noise_multiplier": 0.9})
    task = Untouchable()
    with pytest.raises(OrderRefused):
        site(task, agreed).train(order(task, weaker), History(), Diary().remember)


@pytest.mark.parametrize(("number", "last"), [(1, 1), (1, 3), (3, 3)])
def test_a_replayed_round_is_refused_before_records_are_read(number: int, last: int) -> None:
    agreed, task, diary = plan({**PRIVATE, "rounds": 5}), Untouchable(), Diary()
    with pytest.raises(OrderRefused, match="answered once"):
        site(task, agreed).train(order(task, agreed, number), History(last_round=last), diary.remember)
    assert diary.events == []


@pytest.mark.parametrize("number", [-1, 0, 4, 10**9])
def test_a_round_outside_the_plan_is_refused_before_records_are_read(number: int) -> None:
    agreed, task, diary = plan({**PRIVATE, "rounds": 3}), Untouchable(), Diary()
    with pytest.raises(OrderRefused, match="outside the plan's 3 rounds"):
        site(task, agreed).train(order(task, agreed, number), History(), diary.remember)
    assert diary.events == []


def test_a_round_may_be_missed_and_later_ones_are_answered() -> None:
    agreed, task = plan({**PRIVATE, "rounds": 5}), DotTask(rows=TEN)
    report = site(task, agreed).train(order(task, agreed, 4), History(last_round=1), forget)
    assert report.address.round == 4


def test_a_site_that_declares_no_rows_does_not_divide_by_its_own_count() -> None:
    agreed, task, diary = plan(PRIVATE), Untouchable(), Diary()
    with pytest.raises(OrderRefused, match="declares no number of rows"):
        site(task, agreed, declared_rows=None).train(order(task, agreed), History(), diary.remember)
    assert diary.events == []


def test_the_declaration_goes_before_the_plans_number_of_rows() -> None:
    agreed, task = plan({**PRIVATE, "data.rows_per_site": 40}), DotTask(rows=TEN)
    at_ten, undeclared, at_forty = (
        float(site(task, agreed, declared_rows=declared).train(order(task, agreed), History(), forget).update[0])
        for declared in (10, None, 40)
    )
    assert at_ten == pytest.approx(4 * at_forty, rel=1e-5)
    assert undeclared == at_forty


def test_a_spent_budget_is_refused_before_records_are_read_and_nothing_is_remembered() -> None:
    agreed = plan({"rounds": 6, "privacy.epsilon": 2.0, "privacy.rounds_per_site": 2})
    task, diary = Untouchable(), Diary()
    spent = History(last_round=2, mechanisms=(round_mechanism(agreed),) * 2)
    with pytest.raises(BudgetExhausted, match="is spent in 2 rounds"):
        site(task, agreed).train(order(task, agreed, 3), spent, diary.remember)
    assert diary.events == []


def test_the_budget_admits_exactly_the_rounds_that_it_covers() -> None:
    agreed = plan({"rounds": 9, "privacy.epsilon": 2.0, "privacy.rounds_per_site": 3})
    task, history = DotTask(rows=TEN), History()
    here = site(task, agreed)
    for number in range(1, 1 + rounds_within_budget(agreed)):
        diary = Diary()
        here.train(order(task, agreed, number), history, diary.remember)
        (history,) = diary.events  # type: ignore[assignment]
    assert len(history.mechanisms) == rounds_within_budget(agreed) == 3
    with pytest.raises(BudgetExhausted):
        here.train(order(task, agreed, 4), history, forget)


def test_stronger_rounds_of_the_past_count_at_their_own_price() -> None:
    agreed = plan({"rounds": 3, "privacy.epsilon": 2.0})
    task = Untouchable()
    dear = Mechanism(noise_multiplier=0.5, sample_rate=1.0, steps=1, max_grad_norm=1.0)
    with pytest.raises(BudgetExhausted, match="is spent in 1 rounds"):
        site(task, agreed).train(order(task, agreed, 2), History(last_round=1, mechanisms=(dear,)), forget)


class Noting(DotTask):
    """Writes into the diary when its records are read."""

    def __init__(self, diary: Diary) -> None:
        super().__init__(rows=TEN)
        self._diary = diary

    def rows(self, site: SiteInfo) -> Rows:
        self._diary.events.append("records read")
        return super().rows(site)


def test_the_round_is_remembered_before_records_are_read() -> None:
    agreed, diary = plan(PRIVATE), Diary()
    task = Noting(diary)
    site(task, agreed).train(order(task, agreed), History(), diary.remember)
    assert diary.events == [History(last_round=1, mechanisms=(round_mechanism(agreed),)), "records read"]


def test_a_memory_that_fails_keeps_records_unread() -> None:
    agreed, diary = plan(PRIVATE), Diary()
    task = Noting(diary)

    def full_disk(history: History) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        site(task, agreed).train(order(task, agreed), History(), full_disk)
    assert diary.events == []


class Crashing(DotTask):
    """Fails in the middle of training."""

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        if len(batch) > 2:
            raise ZeroDivisionError
        return super().loss(model, batch)


def test_a_crash_in_training_leaves_the_round_counted() -> None:
    agreed, task, diary = plan({**PRIVATE, "rounds": 2}), Crashing(rows=TEN), Diary()
    here = site(task, agreed)
    with pytest.raises(ZeroDivisionError):
        here.train(order(task, agreed, 1), History(), diary.remember)
    (history,) = diary.events
    assert history == History(last_round=1, mechanisms=(round_mechanism(agreed),))
    with pytest.raises(OrderRefused, match="answered once"):
        here.train(order(task, agreed, 1), history, diary.remember)


def test_a_report_states_the_plans_mechanism_and_no_number_of_records() -> None:
    agreed, task = plan({**PRIVATE, "training.steps": 3}), DotTask(rows=dots(*[1.0] * 17))
    report = site(task, agreed, declared_rows=20).train(order(task, agreed), History(), forget)
    assert report.mechanism == round_mechanism(agreed)
    assert (report.site, report.declared_rows, report.seeded) == ("north", 20, True)
    assert report.update.shape == (1,)


@pytest.mark.parametrize("seed", [None, 3])
def test_a_report_says_whether_its_noise_came_from_a_seed(seed: int | None) -> None:
    agreed, task = plan(PRIVATE), DotTask(rows=TEN)
    assert site(task, agreed, seed=seed).train(order(task, agreed), History(), forget).seeded is (seed is not None)


def test_seeded_rounds_draw_different_noise() -> None:
    agreed, task = plan({**PRIVATE, "rounds": 2}), DotTask(30, dots(*[[0.0] * 30] * 10))
    first, second = (
        site(task, agreed).train(order(task, agreed, number), History(), forget).update for number in (1, 2)
    )
    assert not np.isin(first, second).any()


def test_held_out_records_are_never_trained_on() -> None:
    rows = Rows(fields=dots(*range(10)).fields, held_out=torch.tensor([True] * 4 + [False] * 6))
    made_up = {0, 1}
    for settings in (PRIVATE, PLAIN):
        agreed, task = plan(settings), DotTask(rows=rows)
        site(task, agreed).train(order(task, agreed), History(), forget)
        assert {number for batch in task.batches for number in batch} - made_up <= {4, 5, 6, 7, 8, 9}
        assert any(len(batch) == 6 for batch in task.batches)


@pytest.mark.parametrize("settings", [PRIVATE, PLAIN])
def test_evaluation_is_refused_where_the_plan_says_none(settings: dict[str, str]) -> None:
    agreed, task = plan(settings), Untouchable()
    with pytest.raises(OrderRefused, match="reports no metrics"):
        site(task, agreed).evaluate(order(task, agreed))


def test_evaluation_sums_over_held_out_records_only() -> None:
    x = torch.tensor([[3.0, -3.0], [3.0, -3.0], [-3.0, 3.0], [3.0, -3.0]])
    rows = Rows(fields={"x": x, "y": torch.tensor([0, 1, 1, 0])}, held_out=torch.tensor([True, True, True, False]))
    task = GivenTask(lambda: nn.Linear(2, 2, bias=False), rows)
    agreed = plan({**PLAIN, "metrics": "plain"})
    wish = replace(order(task, agreed), vector=np.array([1, 0, 0, 1], dtype=np.float32))
    report = site(task, agreed).evaluate(wish)
    assert (float(report.sums["count"]), float(report.sums["correct"])) == (3.0, 2.0)


def test_a_model_that_mixes_records_is_refused_before_any_is_read() -> None:
    class Normalising(Untouchable):
        def model(self) -> nn.Module:
            return nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4))

    agreed, task, diary = plan(PRIVATE), Normalising(), Diary()
    with pytest.raises(ModelUnsupported, match="1 is BatchNorm1d"):
        site(task, agreed).train(order(task, agreed), History(), diary.remember)
    assert diary.events == []


def test_a_site_without_records_sends_noise_where_it_is_private_and_refuses_where_it_is_not() -> None:
    empty = Rows(fields={"x": torch.ones(0, 1), "id": torch.arange(0)}, held_out=torch.zeros(0, dtype=torch.bool))
    agreed, task = plan(PRIVATE), DotTask(rows=empty)
    assert site(task, agreed).train(order(task, agreed), History(), forget).update.all()
    with pytest.raises(DataInvalid, match="no training records"):
        site(task, plan(PLAIN)).train(order(task, plan(PLAIN)), History(), forget)


def test_the_orders_vector_is_what_training_starts_from() -> None:
    agreed = plan({**PLAIN, "training.learning_rate": 1.0, "training.l2": 0.5})
    task = DotTask(rows=dots(*[0.0] * 10))
    wish = replace(order(task, agreed), vector=np.array([8.0], dtype=np.float32))
    assert site(task, agreed).train(wish, History(), forget).update.tolist() == [-4.0]
    assert wish.vector.tolist() == [8.0]


class FrozenBase(Task):
    """A random frozen layer under a trainable one: what is frozen does not travel."""

    def model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        model[0].requires_grad_(False)
        return model

    def rows(self, site: SiteInfo) -> Rows:
        raise NotImplementedError


def test_frozen_weights_are_the_same_at_every_site_and_at_the_server() -> None:
    agreed, task = plan({**PRIVATE, "seed": 3}), FrozenBase()
    torch.manual_seed(1)
    first = Models().of(task, agreed)
    torch.manual_seed(2)
    second = Models().of(task, agreed)
    with seeded_torch(3):
        servers = task.model()
    for model in (second, servers):
        assert torch.equal(first[0].weight, model[0].weight)  # type: ignore[index]
    assert initial_vector(task, 3)[0].length == 4
    assert not torch.equal(first[0].weight, Models().of(task, plan({**PRIVATE, "seed": 4}))[0].weight)  # type: ignore[index]


def test_two_tasks_never_share_a_model() -> None:
    agreed = plan(PRIVATE)
    first, second = DotTask(2), DotTask(3)
    assert MODELS.of(first, agreed) is MODELS.of(first, agreed)
    assert MODELS.of(second, agreed).in_features == 3  # type: ignore[comparison-overlap]
    assert MODELS.of(first, agreed).in_features == 2  # type: ignore[comparison-overlap]


def test_an_order_is_a_value_that_training_does_not_change() -> None:
    agreed, task = plan(PRIVATE), DotTask(rows=TEN)
    wish: Order = order(task, agreed)
    before = wish.vector.copy()
    site(task, agreed).train(wish, History(), forget)
    assert wish.vector.tolist() == before.tolist()


def test_a_delta_that_would_let_a_whole_record_out_is_refused_by_the_site_that_knows_its_size() -> None:
    agreed = plan({**PRIVATE, "privacy.delta": 0.05})
    asked = site(DotTask(2), agreed, declared_rows=20)
    with pytest.raises(PlanInvalid, match="a site holds about 20 records"):
        asked.train(order(DotTask(2), agreed), History(), forget)
