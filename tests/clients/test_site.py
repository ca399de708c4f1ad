"""A site trains and measures what its plan says, on the records that it may use, and refuses every other order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from clients.site import MODELS, Models
from federation.orders import Order
from federation.promise import round_mechanism
from federation.rows import Rows
from federation.seeding import initial_vector, seeded_torch
from federation.site_info import SiteInfo
from federation.task import Task
from privacy.errors import (
    DataInvalid,
    ModelUnsupported,
    OrderRefused,
    PlanInvalid,
)
from tests.client_builders import (
    PLAIN,
    PRIVATE,
    DotTask,
    GivenTask,
    Untouchable,
    dots,
    order,
    plan,
    releases,
    site,
)

TEN = dots(*[1.0] * 10)


def test_an_order_under_another_plan_is_refused() -> None:
    agreed, other = plan(PRIVATE), plan({**PRIVATE, "seed": 1})
    task = Untouchable()
    here = site(task, agreed)
    for act in (here.train, here.evaluate):
        with pytest.raises(OrderRefused, match="the order is under plan"):
            act(order(task, other))
    assert releases(here.ledger) == []


def test_a_plan_that_differs_in_nothing_but_its_noise_is_another_plan() -> None:
    agreed, weaker = plan(PRIVATE), plan({**PRIVATE, "privacy.noise_multiplier": 0.9})
    task = Untouchable()
    with pytest.raises(OrderRefused):
        site(task, agreed).train(order(task, weaker))


@pytest.mark.parametrize("number", [-1, 0, 4, 10**9])
def test_a_round_outside_the_plan_is_refused_before_records_are_read(number: int) -> None:
    agreed, task = plan({**PRIVATE, "rounds": 3}), Untouchable()
    here = site(task, agreed)
    with pytest.raises(OrderRefused, match="outside the plan's 3 rounds"):
        here.train(order(task, agreed, number))
    assert releases(here.ledger) == []


def test_a_site_that_declares_no_rows_does_not_divide_by_its_own_count() -> None:
    agreed, task = plan(PRIVATE), Untouchable()
    here = site(task, agreed, declared_rows=None)
    with pytest.raises(OrderRefused, match="declares no number of rows"):
        here.train(order(task, agreed))
    assert releases(here.ledger) == []


def test_the_declaration_goes_before_the_plans_number_of_rows() -> None:
    agreed, task = plan({**PRIVATE, "data.rows_per_site": 40}), DotTask(rows=TEN)
    at_ten, undeclared, at_forty = (
        float(site(task, agreed, declared_rows=declared).train(order(task, agreed)).update[0])
        for declared in (10, None, 40)
    )
    assert at_ten == pytest.approx(4 * at_forty, rel=1e-5)
    assert undeclared == at_forty


def test_a_report_states_the_plans_mechanism_and_no_number_of_records() -> None:
    agreed, task = plan({**PRIVATE, "training.steps": 3}), DotTask(rows=dots(*[1.0] * 17))
    report = site(task, agreed, declared_rows=20).train(order(task, agreed))
    assert report.mechanism == round_mechanism(agreed)
    assert (report.site, report.declared_rows, report.seeded) == ("north", 20, True)
    assert report.update.shape == (1,)


@pytest.mark.parametrize("seed", [None, 3])
def test_a_report_says_whether_its_noise_came_from_a_seed(seed: int | None) -> None:
    agreed, task = plan(PRIVATE), DotTask(rows=TEN)
    assert site(task, agreed, seed=seed).train(order(task, agreed)).seeded is (seed is not None)


def test_seeded_rounds_draw_different_noise() -> None:
    agreed, task = plan({**PRIVATE, "rounds": 2}), DotTask(30, dots(*[[0.0] * 30] * 10))
    first, second = (site(task, agreed).train(order(task, agreed, number)).update for number in (1, 2))
    assert not np.isin(first, second).any()


def test_held_out_records_are_never_trained_on() -> None:
    rows = Rows(fields=dots(*range(10)).fields, held_out=torch.tensor([True] * 4 + [False] * 6))
    made_up = {0, 1}
    for settings in (PRIVATE, PLAIN):
        agreed, task = plan(settings), DotTask(rows=rows)
        site(task, agreed).train(order(task, agreed))
        assert {number for batch in task.batches for number in batch} - made_up <= {4, 5, 6, 7, 8, 9}
        assert any(len(batch) == 6 for batch in task.batches)


@pytest.mark.parametrize("settings", [PRIVATE, PLAIN])
def test_evaluation_is_refused_where_the_plan_says_none(settings: dict[str, str]) -> None:
    agreed, task = plan(settings), Untouchable()
    here = site(task, agreed)
    with pytest.raises(OrderRefused, match="reports no metrics"):
        here.evaluate(order(task, agreed))
    assert releases(here.ledger) == []


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

    agreed, task = plan(PRIVATE), Normalising()
    here = site(task, agreed)
    with pytest.raises(ModelUnsupported, match="1 is BatchNorm1d"):
        here.train(order(task, agreed))
    assert releases(here.ledger) == []


def test_a_site_without_records_sends_noise_where_it_is_private_and_refuses_where_it_is_not() -> None:
    empty = Rows(fields={"x": torch.ones(0, 1), "id": torch.arange(0)}, held_out=torch.zeros(0, dtype=torch.bool))
    agreed, task = plan(PRIVATE), DotTask(rows=empty)
    assert site(task, agreed).train(order(task, agreed)).update.all()
    with pytest.raises(DataInvalid, match="no training records"):
        site(task, plan(PLAIN)).train(order(task, plan(PLAIN)))


def test_the_orders_vector_is_what_training_starts_from() -> None:
    agreed = plan({**PLAIN, "training.learning_rate": 1.0, "training.l2": 0.5})
    task = DotTask(rows=dots(*[0.0] * 10))
    wish = replace(order(task, agreed), vector=np.array([8.0], dtype=np.float32))
    assert site(task, agreed).train(wish).update.tolist() == [-4.0]
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
    site(task, agreed).train(wish)
    assert wish.vector.tolist() == before.tolist()


def test_a_delta_that_would_let_a_whole_record_out_is_refused_by_the_site_that_knows_its_size() -> None:
    agreed = plan({**PRIVATE, "privacy.delta": 0.05})
    asked = site(DotTask(2), agreed, declared_rows=20)
    with pytest.raises(PlanInvalid, match="a site holds about 20 records"):
        asked.train(order(DotTask(2), agreed))
