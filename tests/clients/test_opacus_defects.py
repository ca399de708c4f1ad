"""Local training has none of the eight known defects of Opacus 1.6 (research/training.md 1.4)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from federation.rows import Rows
from privacy.accountant import epsilon
from privacy.errors import PlanInvalid
from privacy.noise import RandomStream
from tests.client_builders import (
    ALARM,
    MODES,
    PRIVATE,
    DotTask,
    Embedder,
    GivenTask,
    Quiet,
    Vector,
    clipped_sum,
    dots,
    heard,
    mechanism,
    order,
    perceptron,
    plain_update,
    plan,
    private_update,
    protection,
    quiet,
    releases,
    site,
    training,
)

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # Opacus' functorch on integer inputs


@pytest.mark.parametrize("records", [10, 64, 65])
def test_defect_1_the_denominator_does_not_follow_the_number_of_records(records: int) -> None:
    loose = protection(mechanism(max_grad_norm=2.0), denominator=32)
    update = private_update(DotTask(), dots(*[1.0] * records), loose)
    assert update.tolist() == [-records / 32]


def test_defect_1_the_sample_rate_does_not_follow_the_number_of_records() -> None:
    entered = []
    for records in (64, 65):
        task = DotTask()
        private_update(task, dots(*[1.0] * records), protection(mechanism(sample_rate=0.5, max_grad_norm=9.0)))
        entered.append([number for number in task.batches[0] if number < 64])
    assert entered[0] == entered[1]
    assert 16 < len(entered[0]) < 48


def test_defect_1_a_site_prices_a_round_the_same_whatever_it_holds() -> None:
    agreed = plan({**PRIVATE, "training.sample_rate": 0.5, "training.steps": 3})
    reports = [
        site(task, agreed).train(order(task, agreed))
        for task in (DotTask(rows=dots(*[1.0] * records)) for records in (10, 64, 65))
    ]
    assert {report.mechanism for report in reports} == {mechanism(sample_rate=0.5, steps=3)}


RECORDS, RATE, STEPS = 30, 0.2, 1200


def memberships(batches: list[list[int]], steps: int) -> NDArray[np.int64]:
    """(steps, records) ones where a record entered a step; steps that drew nobody made no batch."""
    entered = np.zeros((steps, RECORDS), dtype=np.int64)
    for step, batch in enumerate(batches):
        entered[step, batch] = 1
    return entered


@pytest.fixture(scope="module")
def private_draws() -> NDArray[np.int64]:
    task = DotTask()
    facts = mechanism(sample_rate=RATE, steps=STEPS)
    private_update(task, dots(*[1.0] * RECORDS), protection(facts), heard(RandomStream.from_seed(5)))
    return memberships(task.batches, STEPS)


@pytest.fixture(scope="module")
def shuffled_draws() -> NDArray[np.int64]:
    """Batches of RATE x RECORDS records of shuffled epochs: the sampler that has no amplified price."""
    task = DotTask()
    settings = heard(RandomStream.from_seed(5), training(sample_rate=RATE, steps=STEPS))
    plain_update(task, dots(*[1.0] * RECORDS), settings)
    return memberships(task.batches, STEPS)


def sizes_fit(entered: NDArray[np.int64], rate: float) -> bool:
    """Pearson's chi-square of batch sizes against the binomial distribution, rare sizes taken together."""
    sizes = np.arange(RECORDS + 1)
    expected = stats.binom.pmf(sizes, RECORDS, rate) * len(entered)
    observed = np.bincount(entered.sum(axis=1), minlength=RECORDS + 1)
    common = expected >= 5
    seen = [*observed[common], observed[~common].sum()]
    wanted = [*expected[common], expected[~common].sum()]
    return bool(stats.chisquare(seen, wanted).pvalue > ALARM)


def records_fit(entered: NDArray[np.int64], rate: float) -> bool:
    """Every record entered a binomial number of steps."""
    return all(stats.binomtest(int(count), len(entered), rate).pvalue > ALARM for count in entered.sum(axis=0))


def steps_are_independent(entered: NDArray[np.int64]) -> bool:
    """Whether a record entered one step says nothing of the next."""
    return bool(stats.pearsonr(entered[:-1].ravel(), entered[1:].ravel()).pvalue > ALARM)


def test_defect_2_sampling_is_the_poisson_sampling_that_is_priced(private_draws: NDArray[np.int64]) -> None:
    assert sizes_fit(private_draws, RATE)
    assert records_fit(private_draws, RATE)
    assert steps_are_independent(private_draws)


@pytest.mark.parametrize("factor", [2 / 3, 3 / 2])
def test_defect_2_another_sample_rate_would_be_noticed(private_draws: NDArray[np.int64], factor: float) -> None:
    assert not sizes_fit(private_draws, RATE * factor)
    assert not records_fit(private_draws, RATE * factor)


def test_defect_2_shuffled_batches_of_fixed_size_would_be_noticed(shuffled_draws: NDArray[np.int64]) -> None:
    assert not sizes_fit(shuffled_draws, RATE)
    assert not steps_are_independent(shuffled_draws)


class WeighedTask(GivenTask):
    """Each record's loss is multiplied by its own weight: at weight 0 the record has no gradient."""

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        return super().loss(model, batch) * batch["weight"]


def weighed(weights: list[float], broken: float | None = None) -> Rows:
    generator = torch.Generator().manual_seed(3)
    count = len(weights)
    inputs = torch.randn(count, 6, generator=generator)
    if broken is not None:
        inputs[2, 4] = broken
    labels = torch.arange(count) % 3
    return Rows(fields={"x": inputs, "y": labels, "weight": torch.tensor(weights)})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_defect_3_a_record_without_a_finite_gradient_counts_as_zero(broken: float, mode: str) -> None:
    task = WeighedTask(perceptron)
    facts = protection(mechanism(sample_rate=0.7, steps=4), denominator=5)
    with_it, without_it = (
        private_update(task, rows, facts, heard(RandomStream.from_seed(1), grad_sample_mode=mode))
        for rows in (weighed([1.0] * 8, broken), weighed([1.0, 1.0, 0.0, *[1.0] * 5]))
    )
    assert np.isfinite(with_it).all()
    assert with_it.tolist() == without_it.tolist()


def test_defect_3_a_record_without_a_finite_gradient_is_as_if_it_were_not_there() -> None:
    with_it = private_update(DotTask(2), dots([0.5, 0.25], [float("nan"), 1.0], [0.0, -0.5]))
    assert with_it.tolist() == private_update(DotTask(2), dots([0.5, 0.25], [0.0, -0.5])).tolist() == [-0.5, 0.25]


@pytest.mark.parametrize("huge", [1e25, 3e38])
def test_defect_3_a_finite_gradient_whose_norm_overflows_moves_no_more_than_the_bound(huge: float) -> None:
    update = private_update(DotTask(2), dots([0.5, 0.25], [huge, huge]))
    assert np.isfinite(update).all()
    assert np.linalg.norm(update - [-0.5, -0.25]) <= 1.00001


class CountingStream(Quiet):
    """Counts the draws of noise: one a step."""

    draws = 0

    def normals(self, count: int) -> Vector:
        self.draws += 1
        return super().normals(count)


ONE_STEP_SHORT = [number for number in range(1, 200) if int(1 / (1 / number)) != number]


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 64, 100, *ONE_STEP_SHORT])
def test_defect_4_exactly_the_stated_steps_are_taken(steps: int) -> None:
    assert 93 in ONE_STEP_SHORT
    stream = CountingStream()
    facts = mechanism(sample_rate=1 / steps, steps=steps)
    private_update(DotTask(), dots(1.0), protection(facts), heard(stream))
    assert stream.draws == steps


def test_defect_5_a_round_does_not_change_what_was_recorded_before_it() -> None:
    agreed = plan({**PRIVATE, "rounds": 2})
    task = DotTask(rows=dots(*[1.0] * 20))
    here = site(task, agreed)
    here.train(order(task, agreed, 1))
    saved = releases(here.ledger)
    here.train(order(task, agreed, 2))
    assert [release.round for release in saved] == [1]
    assert [release.round for release in releases(here.ledger)] == [1, 2]
    assert releases(here.ledger)[0] == saved[0]


def test_defect_6_rounds_of_different_mechanisms_compose() -> None:
    gentle, strong = mechanism(noise_multiplier=4.0, steps=10), mechanism(noise_multiplier=2.0, sample_rate=0.3)
    together = epsilon([gentle, strong], 1e-5)
    assert epsilon([], 1e-5) == 0.0
    assert max(epsilon([gentle], 1e-5), epsilon([strong], 1e-5)) < together
    assert together < epsilon([gentle], 1e-5) + epsilon([strong], 1e-5)
    assert together == epsilon([strong, gentle], 1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_defect_7_an_embedding_of_expanded_positions_has_its_gradients(mode: str) -> None:
    rows = Rows(fields={"x": torch.tensor([[0, 1], [2, 2], [4, 3]]), "y": torch.tensor([0, 1, 2])})
    task = GivenTask(Embedder)
    update = private_update(task, rows, settings=quiet(grad_sample_mode=mode))
    assert np.allclose(update, -clipped_sum(task, rows, 1.0), atol=1e-6)


def test_defect_8_adaptive_clipping_is_not_offered() -> None:
    with pytest.raises(PlanInvalid, match="no setting"):
        plan({"privacy.clipping": "adaptive"})


def test_defect_8_neither_bound_nor_divisor_follows_the_batch() -> None:
    task = DotTask()
    facts = mechanism(sample_rate=0.5, steps=40, max_grad_norm=0.5)
    update = private_update(task, dots(*[100.0] * 6), protection(facts, denominator=2))
    entered = sum(len(batch) for batch in task.batches)
    assert len({len(batch) for batch in task.batches}) > 2
    assert update.tolist() == pytest.approx([-0.5 * entered / 2], rel=1e-5)
