"""Local training protects each record as the accountant prices it, and has none of Opacus' eight known defects.

A `DotTask` makes gradients readable: the gradient of a record is the record, so sums are checked by hand.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from clients.model_check import refuse_dependent_losses, refuse_unsupported_model
from clients.training import Protection, grad_sample_mode, train_privately
from federation.layout import Layout
from federation.messages import read_history, write_history
from federation.plan import TrainingSettings
from federation.rows import Rows
from federation.task import Task
from privacy.accountant import epsilon
from privacy.errors import ModelUnsupported, PlanInvalid, TaskInvalid
from privacy.mechanism import Mechanism
from privacy.noise import RandomStream
from tests.client_builders import (
    FULL_STEP,
    ONE_STEP,
    PRIVATE,
    DotTask,
    GivenTask,
    Quiet,
    Vector,
    dots,
    forget,
    heard,
    order,
    plain_update,
    plan,
    private_update,
    quiet,
    site,
)

ALARM = 1e-6  # chance that a statistical test would fail without a fault; the seeds are fixed
MODES = ["hooks", "functorch", "ew"]
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # Opacus' functorch on integer inputs


def protection(mechanism: Mechanism = ONE_STEP, denominator: float = 1.0) -> Protection:
    return Protection(mechanism=mechanism, denominator=denominator)


def mechanism(**facts: object) -> Mechanism:
    known = {"noise_multiplier": 1.0, "sample_rate": 1.0, "steps": 1, "max_grad_norm": 1.0}
    return Mechanism(**{**known, **facts})  # type: ignore[arg-type]


def training(**chosen: object) -> TrainingSettings:
    return TrainingSettings.model_validate({"learning_rate": 1.0, **chosen})


# The eight defects of Opacus 1.6 (research/training.md 1.4)


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
        site(task, agreed).train(order(task, agreed), read_history(RecordDict()), forget)
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


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


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


def test_defect_5_resuming_a_history_does_not_change_the_saved_one() -> None:
    agreed = plan({**PRIVATE, "rounds": 2})
    task = DotTask(rows=dots(*[1.0] * 20))
    state = RecordDict()
    here = site(task, agreed)
    here.train(order(task, agreed, 1), read_history(state), lambda history: write_history(state, history))
    saved, resumed = read_history(state), read_history(state)
    here.train(order(task, agreed, 2), resumed, lambda history: write_history(state, history))
    assert saved == resumed
    assert (saved.last_round, len(saved.mechanisms)) == (1, 1)
    assert len(read_history(state).mechanisms) == 2


def test_defect_6_rounds_of_different_mechanisms_compose() -> None:
    gentle, strong = mechanism(noise_multiplier=4.0, steps=10), mechanism(noise_multiplier=2.0, sample_rate=0.3)
    together = epsilon([gentle, strong], 1e-5)
    assert epsilon([], 1e-5) == 0.0
    assert max(epsilon([gentle], 1e-5), epsilon([strong], 1e-5)) < together
    assert together < epsilon([gentle], 1e-5) + epsilon([strong], 1e-5)
    assert together == epsilon([strong, gentle], 1e-5)


class Embedder(nn.Module):
    """Two tokens a record, and a position embedding whose indices are one row expanded over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions, self.last = nn.Embedding(5, 4), nn.Embedding(2, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(2).expand(len(tokens), 2)
        found: Tensor = self.last((self.tokens(tokens) + self.positions(positions)).tanh().mean(dim=1))
        return found


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


# Noise


def has_sigma(sample: Vector, sigma: float) -> bool:
    """A two-sided chi-square test of the variance about zero."""
    statistic = float((sample.astype(np.float64) ** 2).sum()) / sigma**2
    return bool(stats.chi2.ppf(ALARM, len(sample)) < statistic < stats.chi2.isf(ALARM, len(sample)))


class Indifferent(GivenTask):
    """A loss that no parameter moves."""

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        return model(batch["x"]).sum(dim=1) * 0


@pytest.mark.parametrize(
    ("noise_multiplier", "bound", "denominator", "learning_rate", "steps"),
    [(1.0, 1.0, 1.0, 1.0, 1), (0.5, 4.0, 20.0, 0.1, 1), (2.0, 0.1, 0.5, 3.0, 9)],
)
@pytest.mark.parametrize("mode", ["hooks", "ew"])
def test_the_noise_is_sigma_times_bound_over_denominator(
    noise_multiplier: float, bound: float, denominator: float, learning_rate: float, steps: int, mode: str
) -> None:
    facts = mechanism(noise_multiplier=noise_multiplier, max_grad_norm=bound, steps=steps)
    settings = heard(RandomStream.from_seed(2), training(learning_rate=learning_rate), grad_sample_mode=mode)
    task = Indifferent(lambda: nn.Linear(40, 200))
    rows = Rows(fields={"x": torch.ones(3, 40)})
    update = private_update(task, rows, protection(facts, denominator), settings)
    sigma = noise_multiplier * bound / denominator * learning_rate * steps**0.5
    for part in Layout.of(task.model()).parts(update):
        assert has_sigma(part.ravel(), sigma)
        if part.size > 1000:
            assert not has_sigma(part.ravel(), sigma * 2 / 3)
            assert not has_sigma(part.ravel(), sigma * 3 / 2)


def test_noise_does_not_shrink_with_more_records_or_more_physical_batches() -> None:
    task = Indifferent(lambda: nn.Linear(40, 200))
    for records, physical in ((1, 1024), (30, 1024), (30, 4)):
        settings = heard(RandomStream.from_seed(records, physical), max_physical_batch=physical)
        assert has_sigma(private_update(task, Rows(fields={"x": torch.ones(records, 40)}), settings=settings), 1.0)


def test_noise_of_two_sites_is_not_the_same() -> None:
    agreed = plan(PRIVATE)
    task = DotTask(50, dots(*torch.zeros(9, 50).tolist()))
    updates = [
        site(task, agreed, seed=seed).train(order(task, agreed), read_history(RecordDict()), forget).update
        for seed in (1, 2, None, None)
    ]
    for first in range(4):
        for second in range(first):
            assert not np.isin(updates[first], updates[second]).any()


@pytest.mark.parametrize("records", [0, 3])
def test_a_step_that_draws_nobody_is_noise_alone(records: int) -> None:
    facts = mechanism(sample_rate=1e-12, noise_multiplier=2.0)
    update = private_update(
        DotTask(4), Rows(fields={"x": torch.ones(records, 4)}), protection(facts, 8), heard(RandomStream.from_seed(4))
    )
    expected = RandomStream.from_seed(4)
    expected.coins(records, 1e-12)
    expected.uniforms(1)  # seeds the step's augmentation
    assert update.tolist() == pytest.approx((-expected.normals(4) * 2.0 / 8).tolist(), abs=1e-7)


# Clipping


class Normed(nn.Module):
    """A layer norm between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.last(self.norm(self.first(inputs)))
        return found


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 3))


def tables(scale: float = 1.0, count: int = 7, shape: tuple[int, ...] = (6,)) -> Rows:
    inputs = torch.randn(count, *shape, generator=torch.Generator().manual_seed(8))
    inputs[count // 2] *= scale
    return Rows(fields={"x": inputs, "y": torch.arange(count) % 3})


def images(scale: float = 1.0) -> Rows:
    return tables(scale, shape=(2, 4, 4))


def sentences(scale: float = 1.0) -> Rows:
    words = torch.randint(0, 5, (7, 2), generator=torch.Generator().manual_seed(9))
    return Rows(fields={"x": words, "y": torch.arange(7) % 3})


MODELS = [(perceptron, tables), (convolution, images), (Normed, tables), (grouped, images), (Embedder, sentences)]
NAMES = ["linear", "convolution", "layer norm", "group norm", "embedding"]


def clipped_sum(task: Task, rows: Rows, bound: float) -> NDArray[np.float64]:
    """The oracle: one backward pass a record, clipped by hand, summed in float64."""
    model = task.model().train()
    total = np.zeros(Layout.of(model).length)
    for position in range(len(rows)):
        model.zero_grad()
        task.loss(model, rows.take(torch.tensor([position]))).sum().backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.requires_grad]
        gradient = torch.cat([part.flatten() for part in parts]).double().numpy()
        total += gradient * min(1.0, bound / (np.linalg.norm(gradient) + 1e-6))
    return total


@pytest.mark.parametrize("bound", [0.05, 1.0, 1e4])
@pytest.mark.parametrize("mode", [*MODES, "auto"])
@pytest.mark.parametrize(("build", "rows"), MODELS, ids=NAMES)
def test_the_sum_is_that_of_gradients_clipped_one_by_one(build, rows, mode: str, bound: float) -> None:  # type: ignore[no-untyped-def]
    task, facts = GivenTask(build), protection(mechanism(max_grad_norm=bound), denominator=10)
    update = private_update(task, rows(), facts, quiet(grad_sample_mode=mode))
    assert np.allclose(update, -clipped_sum(task, rows(), bound) / 10, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("build", "rows"), MODELS, ids=NAMES)
def test_removing_one_record_moves_the_sum_by_at_most_the_bound(build, rows, mode: str, scale: float) -> None:  # type: ignore[no-untyped-def]
    bound, task, everybody = 0.01, GivenTask(build), rows(scale)
    facts, settings = protection(mechanism(max_grad_norm=bound)), quiet(grad_sample_mode=mode)
    full = private_update(task, everybody, facts, settings)
    moved = []
    for absent in (0, len(everybody) // 2):  # an ordinary record and the scaled one
        others = everybody.take(torch.arange(len(everybody)) != absent)
        moved.append(np.linalg.norm(full - private_update(task, others, facts, settings)))
    assert max(moved) <= bound * 1.001
    assert max(moved) >= bound * 0.9


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("physical", [1, 2, 3, 7])
def test_physical_batches_change_memory_and_not_the_result(physical: int, mode: str) -> None:
    task, facts = GivenTask(perceptron), protection(mechanism(steps=3, sample_rate=0.8, max_grad_norm=0.5), 5)
    whole, parts = (
        private_update(
            task,
            tables(),
            facts,
            heard(RandomStream.from_seed(1), max_physical_batch=size, grad_sample_mode=mode),
        )
        for size in (1024, physical)
    )
    assert np.allclose(whole, parts, atol=1e-6)


class HalfUsed(nn.Module):
    """A model with a layer that the loss never reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.used(inputs)
        return found


@pytest.mark.parametrize("mode", MODES)
def test_a_parameter_without_a_gradient_gets_noise_and_nothing_else(mode: str) -> None:
    task = GivenTask(HalfUsed)
    layout = Layout.of(task.model())
    unused = layout.names.index("unused.weight")
    silent = private_update(task, tables(), settings=quiet(grad_sample_mode=mode))
    assert not layout.parts(silent)[unused].any()
    assert layout.parts(silent)[0].any()
    noisy = private_update(task, tables(), settings=heard(RandomStream.from_seed(1), grad_sample_mode=mode))
    assert layout.parts(noisy)[unused].all()


def frozen_first() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize("mode", MODES)
def test_frozen_parameters_neither_move_nor_travel(mode: str) -> None:
    task = GivenTask(frozen_first)
    model = task.model()
    before = model[0].weight.clone()  # type: ignore[index, union-attr, operator]
    update = private_update(
        task, tables(), settings=heard(RandomStream.from_seed(1), grad_sample_mode=mode), model=model
    )
    assert update.shape == (5 * 3 + 3,)
    assert update.all()
    assert torch.equal(model[0].weight, before)  # type: ignore[index, union-attr, arg-type]


def test_a_layer_that_is_used_twice_is_clipped_as_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.last(self.shared(self.shared(inputs)))
            return found

    task = GivenTask(Twice)
    update = private_update(task, tables(), protection(mechanism(max_grad_norm=0.1)))
    assert np.allclose(update, -clipped_sum(task, tables(), 0.1), atol=1e-6)


def test_auto_chooses_expanded_weights_for_convolutions_and_hooks_for_the_rest() -> None:
    assert [grad_sample_mode(build(), "auto") for build, _ in MODELS] == ["hooks", "ew", "hooks", "ew", "hooks"]
    assert grad_sample_mode(convolution(), "functorch") == "functorch"


# What can't be protected is refused


def test_batch_norm_is_refused_by_its_name_with_its_replacement() -> None:
    body = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), nn.ReLU())
    with pytest.raises(ModelUnsupported, match=r"0\.1 is BatchNorm2d: use GroupNorm\("):
        refuse_unsupported_model(body)
    refuse_unsupported_model(nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8)), nn.ReLU()))


class Diary(nn.Module):
    """Writes what it sees into a buffer."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(6))

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen += inputs.detach().sum(dim=0)
        return inputs


@pytest.mark.parametrize("mode", MODES)
def test_a_module_that_writes_records_into_a_buffer_is_refused(mode: str) -> None:
    task = GivenTask(lambda: nn.Sequential(Diary(), nn.Linear(6, 3)))
    with pytest.raises(ModelUnsupported, match=r"0\.seen"):
        private_update(task, tables(), settings=quiet(grad_sample_mode=mode))


class Positional(nn.Module):
    """Trainable parameters and a buffer in one module, which Opacus can't serve."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(6))
        self.weight = nn.Parameter(torch.zeros(6, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs * self.scale) @ self.weight


def test_a_buffer_beside_parameters_is_refused_by_name_before_a_record_is_read() -> None:
    task = GivenTask(lambda: nn.Sequential(nn.Flatten(), Positional()))
    agreed = plan(PRIVATE)
    with pytest.raises(ModelUnsupported, match="1 is Positional"):
        site(task, agreed).train(order(task, agreed), read_history(RecordDict()), forget)


class Centred(GivenTask):
    """A loss that is normalised over the batch."""

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        losses = super().loss(model, batch)
        return losses - losses.mean()


class Functional(nn.Module):
    """Batch normalisation as a function, which no list of modules shows."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.mean = torch.zeros(6)
        self.last = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        wide = inputs if self.dimensions == 2 else inputs[:, :, None].expand(-1, -1, 2) * torch.tensor([1.0, 2.0])
        normed = functional.batch_norm(wide, self.mean, self.mean + 1, training=self.training, momentum=0.0)
        found: Tensor = self.last(normed if self.dimensions == 2 else normed[:, :, 0])
        return found


def trained_at_a_site(task: Task) -> Vector:
    agreed = plan(PRIVATE)
    return site(task, agreed).train(order(task, agreed), read_history(RecordDict()), forget).update


MIXING = {
    "centred loss": Centred(perceptron, tables()),
    "centred loss behind dropout": Centred(lambda: nn.Sequential(nn.Linear(6, 5), nn.Dropout(), nn.Linear(5, 3))),
    "functional batch norm": GivenTask(lambda: Functional(2), tables()),
    "functional batch norm of sequences": GivenTask(lambda: Functional(3), tables()),
    "functional batch norm before dropout": GivenTask(lambda: nn.Sequential(Functional(2), nn.Dropout(0.2))),
}


@pytest.mark.parametrize("task", MIXING.values(), ids=MIXING)
def test_a_loss_that_mixes_records_is_refused(task: Task) -> None:
    with pytest.raises(TaskInvalid, match="records beside it"):
        refuse_dependent_losses(task, task.model(), tables())


def test_a_site_refuses_a_loss_that_mixes_records() -> None:
    with pytest.raises(TaskInvalid, match="records beside it"):
        trained_at_a_site(Centred(perceptron, tables()))


class DroppingFunction(nn.Module):
    """Dropout as a function, which no list of modules shows."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.dropout(inputs, 0.5, training=self.training)


@pytest.mark.parametrize(
    ("build", "rows"),
    [
        *MODELS,
        (lambda: nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3)), tables),
        (lambda: nn.Sequential(nn.Linear(6, 5), DroppingFunction(), nn.Linear(5, 3)), tables),
    ],
    ids=[*NAMES, "dropout", "functional dropout"],
)
def test_a_loss_of_each_record_alone_is_not_refused(build, rows) -> None:  # type: ignore[no-untyped-def]
    refuse_dependent_losses(GivenTask(build), build(), rows())


def test_looking_for_mixed_losses_draws_nothing_from_torchs_generator() -> None:
    model = dropping()
    torch.manual_seed(5)
    refuse_dependent_losses(GivenTask(dropping), model, tables())
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)


class Shaped(GivenTask):
    """A loss of the wrong shape: one number for the batch, a column, or twice too many."""

    def __init__(self, reduction: str) -> None:
        super().__init__(perceptron, tables())
        self._reduction = reduction

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        losses = super().loss(model, batch)
        wrong = {"mean": losses.mean(), "column": losses[:, None], "twice": losses.repeat(2)}
        return wrong[self._reduction]


@pytest.mark.parametrize("reduction", ["mean", "column", "twice"])
def test_a_loss_of_the_wrong_shape_is_refused(reduction: str) -> None:
    task = Shaped(reduction)
    for act in (
        lambda: private_update(task, tables()),
        lambda: plain_update(task, tables(), quiet()),
        lambda: trained_at_a_site(task),
    ):
        with pytest.raises(TaskInvalid, match="one loss a record"):
            act()


# The site's optimizer


def start(*weights: float) -> nn.Module:
    model = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([weights]))
    return model


@pytest.mark.parametrize(
    ("chosen", "moved"),
    [
        ({"l2": 0.5}, [-0.25, 0.5, 0.0]),  # 0.5 * 0.5 * w
        ({"l1": 0.25}, [-0.125, 0.125, 0.0]),  # 0.5 * 0.25 * sign(w)
        ({"l1": 0.25, "l2": 0.5}, [-0.375, 0.625, 0.0]),
        ({"proximal": 8.0}, [0.0, 0.0, 0.0]),  # at the start there is no distance
    ],
)
def test_penalties_are_those_computed_by_hand(chosen: dict[str, float], moved: list[float]) -> None:
    settings = quiet(training(learning_rate=0.5, **chosen))
    model = start(1.0, -2.0, 0.0)
    assert private_update(DotTask(3), dots([0.0, 0.0, 0.0]), settings=settings, model=model).tolist() == moved


def test_the_proximal_penalty_pulls_the_second_step_back() -> None:
    # Step 1: w = -0.5 * 1. Step 2: gradient 1 + 0.5 * (-0.5) = 0.75, so w = -0.5 - 0.5 * 0.75.
    settings = quiet(training(learning_rate=0.5, proximal=0.5))
    update = private_update(
        DotTask(), dots(1.0), protection(mechanism(steps=2, max_grad_norm=2.0)), settings, start(0.0)
    )
    assert update.tolist() == [-0.875]


def test_a_penalty_is_added_beside_the_noise_and_not_clipped() -> None:
    update = private_update(DotTask(), dots(0.0), settings=quiet(training(l2=1.0)), model=start(64.0))
    assert update.tolist() == [-64.0]


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.3),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.3, momentum=0.8),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.3, betas=(0.8, 0.999)),
}


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_takes_torchs_steps_on_the_same_gradients(name: str, private: bool) -> None:
    task, rows = GivenTask(perceptron), tables()
    settings = quiet(training(optimizer=name, learning_rate=0.3, momentum=0.8, steps=4))
    if private:
        loose = protection(mechanism(steps=4, max_grad_norm=1e6), denominator=len(rows))
        update = private_update(task, rows, loose, settings)
    else:
        update = plain_update(task, rows, settings)
    model = task.model()
    layout, optimizer = Layout.of(model), OPTIMIZERS[name](model.parameters())
    before = layout.flatten(model)
    for _ in range(4):
        optimizer.zero_grad()
        task.loss(model, rows).mean().backward()
        optimizer.step()
    assert np.allclose(update, layout.flatten(model) - before, atol=2e-6)


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_average_of_iterates_is_numpys(decay: float) -> None:
    task, rows = GivenTask(perceptron), tables()
    iterates = [private_update(task, rows, protection(mechanism(steps=steps))) for steps in range(1, 6)]
    average = iterates[0].astype(np.float64)
    for iterate in iterates[1:]:
        average = decay * average + (1 - decay) * iterate
    settings = quiet(training(iterate_averaging=decay))
    assert np.allclose(private_update(task, rows, protection(mechanism(steps=5)), settings), average, atol=1e-6)
    assert not np.allclose(average, iterates[-1], atol=1e-3)


def test_training_without_privacy_is_plain_torch_on_the_same_batches() -> None:
    task, rows = DotTask(2), dots([1.0, 2.0], [3.0, -1.0], [0.5, 0.0], [4.0, 4.0], [0.0, 1.0])
    update = plain_update(task, rows, heard(RandomStream.from_seed(1), training(sample_rate=0.4, steps=6)))
    model = task.model()
    before, optimizer = model.weight.clone(), torch.optim.SGD(model.parameters(), lr=1.0)  # type: ignore[operator, union-attr]
    for batch in list(task.batches):
        optimizer.zero_grad()
        task.loss(model, rows.take(torch.tensor(batch))).mean().backward()
        optimizer.step()
    assert np.allclose(update, (model.weight - before).detach().numpy().ravel(), atol=1e-6)  # type: ignore[operator, union-attr]


def test_training_without_privacy_sees_every_record_once_an_epoch() -> None:
    task = DotTask()
    plain_update(task, dots(*range(5)), heard(RandomStream.from_seed(1), training(sample_rate=0.4, steps=6)))
    epochs = task.batches[:3], task.batches[3:]
    assert [[len(batch) for batch in epoch] for epoch in epochs] == [[2, 2, 1], [2, 2, 1]]
    assert [sorted(number for batch in epoch for number in batch) for epoch in epochs] == [[0, 1, 2, 3, 4]] * 2
    assert epochs[0] != epochs[1]


# Randomness


class Shaky(GivenTask):
    """A task that adds random numbers to its batches."""

    def augment(self, batch: Rows, generator: torch.Generator) -> Rows:
        return batch.replace(x=batch["x"] + torch.rand(batch["x"].shape, generator=generator))


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 20), nn.Dropout(0.5), nn.Linear(20, 3))


@pytest.mark.parametrize("task", [GivenTask(perceptron), GivenTask(dropping), Shaky(perceptron)])
@pytest.mark.parametrize("private", [True, False])
def test_seeded_training_repeats_bit_for_bit(task: Task, private: bool) -> None:
    def update(seed: int) -> list[float]:
        torch.rand(seed + 1)  # whatever the process drew before
        settings = heard(RandomStream.from_seed(seed), training(sample_rate=0.6, steps=3))
        facts = protection(mechanism(sample_rate=0.6, steps=3, noise_multiplier=0.1))
        trained = private_update(task, tables(), facts, settings) if private else plain_update(task, tables(), settings)
        return trained.tolist()  # type: ignore[no-any-return]

    assert update(1) == update(1)
    assert update(1) != update(2)


def test_dropout_differs_between_seeds_that_share_everything_else() -> None:
    updates = []
    for seed in (1, 2):
        stream = Quiet()
        stream.uniforms(seed)
        updates.append(private_update(GivenTask(dropping), tables(), settings=heard(stream)))
    assert not np.allclose(updates[0], updates[1])


def test_seeded_dropout_leaves_torchs_own_generator_as_it_was() -> None:
    task = GivenTask(dropping)
    model = task.model()
    torch.manual_seed(5)
    private_update(task, tables(), model=model)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


def test_noise_from_the_system_never_repeats() -> None:
    first, second = (
        private_update(DotTask(100), dots([0.0] * 100), settings=heard(RandomStream.from_system(), FULL_STEP))
        for _ in range(2)
    )
    assert not np.isin(first, second).any()


def test_an_augmented_batch_is_drawn_anew_each_step() -> None:
    seen: list[float] = []

    class Noting(Shaky):
        def loss(self, model: nn.Module, batch: Rows) -> Tensor:
            seen.append(float(batch["x"].sum()))
            return super().loss(model, batch)

    private_update(Noting(perceptron), tables(), protection(mechanism(steps=4)))
    assert len(set(seen)) == 4


def test_a_crash_in_the_loss_leaves_the_model_usable() -> None:
    class Breaking(GivenTask):
        broken = True

        def loss(self, model: nn.Module, batch: Rows) -> Tensor:
            losses = super().loss(model, batch)
            if self.broken:
                raise ZeroDivisionError
            return losses

    task = Breaking(perceptron)
    model = task.model()
    with pytest.raises(ZeroDivisionError):
        train_privately(task, model, tables(), protection(), quiet())
    task.broken = False
    assert private_update(task, tables(), model=model).tolist() == private_update(task, tables()).tolist()
