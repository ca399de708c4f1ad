"""Unit client: whatever a site holds, its update below the noise is no longer than the bound, and it adds the noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor, nn

from clients.site import Site
from clients.whole_update import clipped, noised, train_as_one
from federation.layout import Layout
from federation.plan import Scalar
from federation.promise import round_mechanism, rounds_within_budget
from federation.rows import Rows
from federation.site_info import SiteInfo
from federation.task import Task
from privacy.accountant import epsilon
from privacy.budget import WHOLE_SITE
from privacy.errors import BudgetExhausted, ModelUnsupported
from privacy.mechanism import Mechanism
from privacy.noise import RandomStream
from tests.client_builders import (
    MODELS,
    NAMES,
    PRIVATE,
    DotTask,
    GivenTask,
    Quiet,
    Vector,
    dots,
    heard,
    ledger_of,
    mechanism,
    order,
    plain_update,
    plan,
    quiet,
    releases,
    training,
)
from tests.clients.test_noise_of_training import Indifferent, has_sigma

CLIENT: dict[str, Scalar] = {**PRIVATE, "privacy.unit": "client"}


def client(**facts: object) -> Mechanism:
    return mechanism(unit="client", **facts)


def update(task: Task, rows: Rows, facts: Mechanism, stream: RandomStream | None = None, **chosen: object) -> Vector:
    model = task.model()
    start = Layout.of(model).flatten(model)
    wanted = training(**{"steps": 3, **chosen})
    return train_as_one(task, model, rows, facts, quiet(wanted) if stream is None else heard(stream, wanted)) - start


OPTIMIZERS = [{"optimizer": "sgd"}, {"optimizer": "momentum"}, {"optimizer": "adam"}, {"l2": 5.0}, {"proximal": 2.0}]


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("chosen", OPTIMIZERS, ids=str)
@pytest.mark.parametrize(("build", "rows"), MODELS, ids=NAMES)
def test_no_data_set_moves_the_update_further_from_zero_than_the_bound(  # type: ignore[no-untyped-def]
    build, rows, chosen: dict[str, object], scale: float
) -> None:
    moved = update(GivenTask(build), rows(scale), client(max_grad_norm=0.05), learning_rate=1e3, **chosen)
    assert np.isfinite(moved).all()
    assert np.linalg.norm(moved.astype(np.float64)) <= 0.05 * (1 + 1e-4)  # start and update meet in float32


@given(
    st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=8),
    st.floats(1e-6, 1e6),
)
@settings(deadline=None, max_examples=300)
def test_whatever_the_update_it_is_clipped_to_the_bound_or_counts_as_zero(values: list[float], bound: float) -> None:
    before = np.array(values)
    after = clipped(before, bound)
    assert np.linalg.norm(after) <= bound * (1 + 1e-12)
    if not np.isfinite(before).all():
        assert not after.any()
    elif np.linalg.norm(before) <= bound:
        assert after.tolist() == before.tolist()
    else:
        assert np.linalg.norm(after) == pytest.approx(bound)


def test_an_update_within_the_bound_is_the_one_that_training_without_privacy_gives() -> None:
    rows = dots([0.25, 0], [0.5, -0.25], [0, 0.5])
    same = training(sample_rate=0.4, steps=4, optimizer="momentum")
    free = plain_update(DotTask(2), rows, quiet(same))
    bound = update(DotTask(2), rows, client(max_grad_norm=1e3), sample_rate=0.4, steps=4, optimizer="momentum")
    assert bound.tolist() == free.tolist()
    assert free.any()


@pytest.mark.parametrize("wild", [float("nan"), float("inf"), -float("inf")])
def test_an_update_that_is_not_finite_counts_as_zero(wild: float) -> None:
    assert update(DotTask(2), dots([1.0, 1.0], [wild, 1.0]), client()).tolist() == [0.0, 0.0]


def test_a_client_without_records_sends_the_noise_of_every_other_client_around_zero() -> None:
    none = Rows(fields={"x": torch.ones(0, 30), "id": torch.arange(0)})
    assert not update(DotTask(30), none, client(), l2=3.0, iterate_averaging=0.5).any()
    sent = update(DotTask(30), none, client(noise_multiplier=2.0), RandomStream.from_seed(4))
    after_the_shuffles = RandomStream.from_seed(4)
    after_the_shuffles.uniforms(3)  # one a step seeds its augmentation
    assert sent.tolist() == pytest.approx((after_the_shuffles.normals(30) * 2.0).tolist(), abs=1e-6)


@pytest.mark.parametrize(("noise_multiplier", "bound", "steps"), [(1.0, 1.0, 1), (0.5, 4.0, 9), (3.0, 0.1, 2)])
@pytest.mark.parametrize("records", [0, 1, 30])
def test_the_noise_is_sigma_times_bound_whatever_a_client_holds_and_however_it_trains(
    noise_multiplier: float, bound: float, steps: int, records: int
) -> None:
    task = Indifferent(lambda: nn.Linear(40, 200))
    facts = client(noise_multiplier=noise_multiplier, max_grad_norm=bound)
    rows = Rows(fields={"x": torch.ones(records, 40)})
    sent = update(task, rows, facts, RandomStream.from_seed(2), steps=steps, learning_rate=0.3)
    sigma = noise_multiplier * bound
    for part in Layout.of(task.model()).parts(sent):
        assert has_sigma(part.ravel(), sigma)
        if part.size > 1000:
            assert not has_sigma(part.ravel(), sigma * 2 / 3)
            assert not has_sigma(part.ravel(), sigma * 3 / 2)


def test_noise_is_added_to_the_update_and_to_nothing_else() -> None:
    facts = client(noise_multiplier=2.0, max_grad_norm=3.0)
    silent = noised(np.array([1.0, -1.0]), facts, Quiet())
    assert silent.tolist() == [1.0, -1.0]
    expected = RandomStream.from_seed(1).normals(2) * 6.0 + np.array([1.0, -1.0])
    assert noised(np.array([1.0, -1.0]), facts, RandomStream.from_seed(1)).tolist() == pytest.approx(expected.tolist())


class Positioned(nn.Module):
    """A layer behind a constant table of positions, which travels with the model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("positions", torch.tensor([0.5, -0.5]))

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.layer(inputs + self.positions)
        return found


def pairs(count: int = 6) -> Rows:
    return Rows(fields={"x": torch.randn(count, 2), "y": torch.arange(count) % 2})


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_constant_buffer_gets_no_noise_and_tells_nothing(decay: float) -> None:
    sent = update(
        GivenTask(Positioned), pairs(), client(), RandomStream.from_seed(1), iterate_averaging=decay, learning_rate=0.1
    )
    assert sent.shape == (8,)
    assert sent[:6].all()
    assert not sent[6:].any()


class Counting(Positioned):
    """Writes the mean of its records into a buffer."""

    def forward(self, inputs: Tensor) -> Tensor:
        self.positions.copy_(inputs.mean(dim=0).detach())
        return super().forward(inputs)


def test_a_model_that_carries_records_in_a_buffer_is_refused() -> None:
    with pytest.raises(ModelUnsupported, match="buffers positions, which no clipping or noise covers"):
        update(GivenTask(Counting), pairs(), client())


def site(task: Task, changes: dict[str, Scalar], **facts: object) -> Site:
    agreed = plan({**CLIENT, **changes})
    info = replace(SiteInfo(name="north", simulation_seed=1, plan=agreed), **facts)  # type: ignore[arg-type]
    return Site(task=task, info=info, plan=agreed, ledger=ledger_of())


def test_running_statistics_are_refused_before_a_record_is_read() -> None:
    def normed() -> nn.Module:
        return nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4))

    here = site(GivenTask(normed), {})
    with pytest.raises(ModelUnsupported, match=r"1 is BatchNorm1d; use GroupNorm"):
        here.train(order(here.task, here.plan))
    assert releases(here.ledger) == []


class Recurrent(nn.Module):
    """A model that record-level training could not serve."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.last = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, series: Tensor) -> Tensor:
        found: Tensor = self.last(self.memory(series)[0][:, -1])
        return found


def test_a_model_whose_gradients_are_no_records_own_is_served() -> None:
    rows = Rows(fields={"x": torch.randn(9, 4, 2), "y": torch.arange(9) % 2})
    here = site(GivenTask(Recurrent, rows), {})
    assert here.train(order(here.task, here.plan)).update.all()


def test_a_client_declares_nothing_and_reports_one_release() -> None:
    here = site(DotTask(4, dots(*[[1.0] * 4] * 9)), {"training.steps": 5, "training.sample_rate": 0.2}, declared_rows=9)
    report = here.train(order(here.task, here.plan))
    assert report.mechanism == client(noise_multiplier=1.0)
    assert report.declared_rows == 0
    silent = site(here.task, {"training.steps": 5, "training.sample_rate": 0.2}, declared_rows=None)
    assert silent.train(order(silent.task, silent.plan)).update.tobytes() == report.update.tobytes()


def test_an_empty_client_answers_as_every_other() -> None:
    held_out = Rows(fields=dots(*range(5)).fields, held_out=torch.ones(5, dtype=torch.bool))
    here = site(DotTask(1, held_out), {})
    assert here.train(order(here.task, here.plan)).update.all()


def gaussian_delta(sigma: float, wanted: float) -> float:
    """The exact delta of one Gaussian at this epsilon (Balle and Wang 2018, theorem 8)."""
    return float(norm.cdf(0.5 / sigma - wanted * sigma) - np.exp(wanted) * norm.cdf(-0.5 / sigma - wanted * sigma))


@pytest.mark.parametrize("rounds", [1, 7, 40])
def test_the_calibrated_noise_spends_the_epsilon_of_one_gaussian(rounds: int) -> None:
    agreed = plan({"privacy.unit": "client", "rounds": rounds, "privacy.epsilon": 2.0, "training.steps": 3})
    facts = round_mechanism(agreed)
    assert (facts.sample_rate, facts.steps, facts.unit) == (1.0, 1, "client")
    assert epsilon([facts] * rounds, 1e-5) == pytest.approx(2.0, abs=1e-3)
    assert gaussian_delta(facts.noise_multiplier / rounds**0.5, 2.0) == pytest.approx(1e-5, rel=1e-2)
    assert rounds_within_budget(agreed) == rounds


def test_neither_the_local_batches_nor_the_cohort_make_the_noise_smaller() -> None:
    whole = round_mechanism(plan({"privacy.unit": "client"}))
    for changes in ({"training.sample_rate": 0.01}, {"training.steps": 50}, {"cohort.share": 0.01}):
        assert round_mechanism(plan({"privacy.unit": "client", **changes})) == whole


def test_a_client_whose_budget_is_spent_answers_no_more() -> None:
    here = site(DotTask(1, dots(1.0)), {"rounds": 3, "privacy.noise_multiplier": 1.0, "privacy.epsilon": 7.0})
    assert rounds_within_budget(here.plan) == 2
    for number in (1, 2):
        here.train(order(here.task, here.plan, number))
    with pytest.raises(BudgetExhausted):
        here.train(order(here.task, here.plan, 3))
    assert [found.account for found in releases(here.ledger)] == [WHOLE_SITE] * 2
