"""What one group can do to an update: its records count together, once, however many and however wild they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.training import Protection
from federation.layout import Layout
from federation.rows import Rows
from federation.task import Task
from privacy.errors import DataInvalid, TaskInvalid
from privacy.noise import RandomStream
from tests.client_builders import (
    MODELS,
    MODES,
    NAMES,
    DotTask,
    GivenTask,
    Vector,
    dots,
    dropping,
    heard,
    mechanism,
    perceptron,
    private_update,
    quiet,
    tables,
    training,
)
from tests.clients.test_noise_of_training import Indifferent, has_sigma

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # Opacus' functorch on integer inputs

PATIENT, RECORDS = 99, 50  # one patient with fifty records, among others


def grouped(rows: Rows, *units: int) -> Rows:
    return replace(rows, units=torch.tensor(units, dtype=torch.int64))


def by_group(k: int = 1000, denominator: float = 1.0, **facts: object) -> Protection:
    return Protection(mechanism=mechanism(unit="group", **facts), denominator=denominator, records_per_group=k)


def grouped_sum(task: Task, rows: Rows, bound: float) -> NDArray[np.float64]:
    """The oracle: one backward pass a record, summed by group, clipped by hand, summed in float64."""
    model = task.model().train()
    assert rows.units is not None
    sums: dict[int, NDArray[np.float64]] = {}
    for position, unit in enumerate(rows.units.tolist()):
        model.zero_grad()
        task.loss(model, rows.take(torch.tensor([position]))).sum().backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.requires_grad]
        gradient = torch.cat([part.flatten() for part in parts]).double().numpy()
        sums[unit] = sums.get(unit, np.zeros(len(gradient))) + gradient
    return sum(  # type: ignore[return-value]
        total * min(1.0, bound / (np.linalg.norm(total) + 1e-6)) for total in sums.values()
    )


def crowd(rows: Rows, scale: float) -> Rows:
    """Seven records of three people, three each at most, and fifty of one patient between them, the same but scaled."""
    places = torch.cat([torch.arange(4), torch.full((RECORDS,), 2), torch.arange(4, 7)])
    many = rows.take(places)
    if many["x"].is_floating_point():
        inputs = many["x"].clone()
        inputs[4 : 4 + RECORDS] *= scale
        many = many.replace(x=inputs)
    units = [5, 3, 5, 4] + [PATIENT] * RECORDS + [3, 5, 4]
    return grouped(many, *units)


@pytest.mark.parametrize("bound", [0.05, 1.0, 1e4])
@pytest.mark.parametrize("mode", [*MODES, "auto"])
@pytest.mark.parametrize(("build", "rows"), MODELS, ids=NAMES)
def test_the_sum_is_that_of_groups_clipped_one_by_one(build, rows, mode: str, bound: float) -> None:  # type: ignore[no-untyped-def]
    task, people = GivenTask(build), grouped(rows(), 2, 0, 2, 7, 0, 2, 1)
    update = private_update(task, people, by_group(denominator=10, max_grad_norm=bound), quiet(grad_sample_mode=mode))
    assert np.allclose(update, -grouped_sum(task, people, bound) / 10, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("build", "rows"), MODELS, ids=NAMES)
def test_removing_a_patient_with_fifty_records_moves_the_sum_by_at_most_the_bound(  # type: ignore[no-untyped-def]
    build, rows, mode: str, scale: float
) -> None:
    bound, task, everybody = 0.01, GivenTask(build), crowd(rows(), scale)
    assert everybody.units is not None
    others = everybody.take(everybody.units != PATIENT)
    for k in (3, 8, 1000):  # three is all that the others have, so that their choices are the same with and without
        facts = by_group(k, max_grad_norm=bound)
        full, without = (
            private_update(task, rows, facts, quiet(grad_sample_mode=mode)) for rows in (everybody, others)
        )
        assert np.isfinite(full).all()
        assert np.linalg.norm(full - without) <= bound * 1.001


def test_fifty_records_count_as_one_gradient_of_the_bound() -> None:
    rows = grouped(dots(*[3.0] * RECORDS, -1.0), *[PATIENT] * RECORDS, 1)
    update = private_update(DotTask(), rows, by_group(max_grad_norm=2.0))
    assert update.tolist() == pytest.approx([-(2.0 - 1.0)], abs=1e-5)


def test_records_of_a_group_may_cancel_each_other_before_they_are_clipped() -> None:
    rows = grouped(dots(1e6, -1e6, 0.5), 1, 1, 1)
    assert private_update(DotTask(), rows, by_group()).tolist() == [-0.5]


@pytest.mark.parametrize("wild", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("mode", MODES)
def test_a_group_whose_gradient_is_not_finite_counts_as_zero_and_spoils_nobody(wild: float, mode: str) -> None:
    rows = grouped(dots([0.25, 0], [wild, 1], [wild, 1], [0.5, 0]), 1, 7, 7, 2)
    update = private_update(DotTask(2), rows, by_group(), quiet(grad_sample_mode=mode))
    assert update.tolist() == [-0.75, 0.0]


def test_the_sampled_step_divides_by_the_public_number_of_groups() -> None:
    rows = grouped(dots(*[1.0] * 6), 1, 1, 1, 2, 2, 2)
    assert private_update(DotTask(), rows, by_group(denominator=8)).tolist() == pytest.approx([-2 / 8], abs=1e-6)


@pytest.mark.parametrize("physical", [3, 4, 5, 7, 1000])
@pytest.mark.parametrize("mode", MODES)
def test_physical_batches_cut_no_group_and_change_nothing_but_memory(physical: int, mode: str) -> None:
    task, rows = GivenTask(perceptron), grouped(tables(count=24), *[number * number % 9 for number in range(24)])
    facts = by_group(3, 5, steps=3, sample_rate=0.8, max_grad_norm=0.5)
    whole, parts = (
        private_update(
            task, rows, facts, heard(RandomStream.from_seed(1), max_physical_batch=size, grad_sample_mode=mode)
        )
        for size in (1024, physical)
    )
    assert np.allclose(whole, parts, atol=1e-6)


class Uneven(DotTask):
    """Notes the size of the largest batch."""

    @property
    def largest(self) -> int:
        return max(len(batch) for batch in self.batches)


def test_no_physical_batch_is_larger_than_the_plan_allows() -> None:
    task = Uneven()
    rows = grouped(dots(*[1.0] * 40), *[number % 7 for number in range(40)])
    private_update(task, rows, by_group(4, steps=3), quiet(max_physical_batch=9))
    assert task.largest == 8
    assert sorted(len(batch) for batch in task.batches) == [4] * 3 + [8] * 9  # seven groups of four, three times


def test_a_group_larger_than_a_physical_batch_is_never_cut_silently() -> None:
    with pytest.raises(ValueError, match="do not fit a physical batch"):
        private_update(DotTask(), grouped(dots(1.0), 1), by_group(5), quiet(max_physical_batch=4))


class Shaky(GivenTask):
    """A task that adds random numbers to its batches."""

    def augment(self, batch: Rows, generator: torch.Generator) -> Rows:
        return batch.replace(x=batch["x"] + torch.rand(batch["x"].shape, generator=generator))


@pytest.mark.parametrize("task", [GivenTask(perceptron), GivenTask(dropping), Shaky(perceptron)])
@pytest.mark.parametrize("k", [1, 8])
def test_groups_of_one_record_train_what_records_train_to_the_last_bit(task: Task, k: int) -> None:
    def update(unit: str) -> Vector:
        facts = mechanism(unit=unit, sample_rate=0.6, steps=4, noise_multiplier=0.3, max_grad_norm=0.1)
        protection = Protection(mechanism=facts, denominator=5, records_per_group=k)
        rows = grouped(tables(), 3, 1, 4, 15, 9, 2, 6) if unit == "group" else tables()
        return private_update(task, rows, protection, heard(RandomStream.from_seed(3), max_physical_batch=8))

    assert update("group").tobytes() == update("record").tobytes()


def test_how_groups_are_numbered_changes_nothing() -> None:
    rows = tables(count=9)
    facts = by_group(2, 5, sample_rate=0.6, steps=4)
    one, other = (
        private_update(GivenTask(perceptron), grouped(rows, *units), facts, heard(RandomStream.from_seed(3)))
        for units in ([5, 5, 1, 1, 1, 0, 0, 7, 7], [-1, -1, 2**62, 2**62, 2**62, 3, 3, 2, 2])
    )
    assert one.tobytes() == other.tobytes()


class Shuffling(GivenTask):
    """Changes the order of a batch, and takes the groups along."""

    def augment(self, batch: Rows, generator: torch.Generator) -> Rows:
        return batch.take(torch.randperm(len(batch), generator=generator))


def test_a_batch_that_augment_puts_in_another_order_is_still_clipped_by_group() -> None:
    rows = grouped(tables(), 2, 0, 2, 7, 0, 2, 1)
    update = private_update(Shuffling(perceptron), rows, by_group(max_grad_norm=0.05))
    assert np.allclose(update, -grouped_sum(GivenTask(perceptron), rows, 0.05), rtol=1e-4, atol=1e-6)


class Forgetting(GivenTask):
    def augment(self, batch: Rows, generator: torch.Generator) -> Rows:
        return Rows(fields=batch.fields)


def test_an_augmentation_that_loses_the_groups_is_refused() -> None:
    with pytest.raises(TaskInvalid, match="augment lost the groups"):
        private_update(Forgetting(perceptron), grouped(tables(), 1, 1, 2, 2, 3, 3, 3), by_group())


def test_records_without_groups_are_refused() -> None:
    with pytest.raises(DataInvalid, match="--unit-column`, or give Rows their units"):
        private_update(GivenTask(perceptron), tables(), by_group())


def test_a_loss_never_sees_how_groups_are_numbered() -> None:
    class Curious(DotTask):
        def loss(self, model: nn.Module, batch: Rows) -> Tensor:
            assert batch.units is None
            return super().loss(model, batch)

    assert private_update(Curious(), grouped(dots(1.0, 1.0), 4, 5), by_group()).tolist() == pytest.approx([-2.0])


@pytest.mark.parametrize(("noise_multiplier", "bound", "denominator", "steps"), [(1.0, 1.0, 1.0, 1), (0.5, 4.0, 20, 9)])
@pytest.mark.parametrize(("records", "groups", "physical"), [(30, 3, 1024), (30, 15, 4), (1, 1, 4)])
def test_the_noise_is_sigma_times_bound_over_denominator_whatever_groups_there_are(
    noise_multiplier: float, bound: float, denominator: float, steps: int, records: int, groups: int, physical: int
) -> None:
    facts = by_group(2, denominator, noise_multiplier=noise_multiplier, max_grad_norm=bound, steps=steps)
    settings = heard(RandomStream.from_seed(2), training(), max_physical_batch=physical)
    task = Indifferent(lambda: nn.Linear(40, 200))
    rows = Rows(fields={"x": torch.ones(records, 40)}, units=torch.arange(records) % groups)
    update = private_update(task, rows, facts, settings)
    sigma = noise_multiplier * bound / denominator * steps**0.5
    for part in Layout.of(task.model()).parts(update):
        assert has_sigma(part.ravel(), sigma)
        if part.size > 1000:
            assert not has_sigma(part.ravel(), sigma * 2 / 3)
            assert not has_sigma(part.ravel(), sigma * 3 / 2)
