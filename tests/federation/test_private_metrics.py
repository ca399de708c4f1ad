"""Private metrics: no unit moves the sums further than the bound, whatever its records, the task and the model say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from federation import private_metrics
from federation.plan import Plan, Scalar
from federation.private_metrics import bounded_sums, noised, noisy_sums, private_figures
from federation.promise import METRICS_BOUND, metrics_mechanism
from federation.rows import Rows
from federation.task import Task
from privacy.errors import TaskInvalid
from privacy.mechanism import Mechanism
from privacy.noise import RandomStream
from tests.client_builders import ALARM, PRIVATE, GivenTask, Quiet, mechanism, plan

MEASURED: dict[str, Scalar] = {**PRIVATE, "metrics": "private", "privacy.loss_bound": 4.0}
NUMBER = st.one_of(
    st.floats(width=32), st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -1.0, 0.0, 0.5, 1.0, 4.0])
)
RECORD = st.tuples(NUMBER, NUMBER)  # what a hostile task says of it: loss, correct
MODEL = nn.Linear(1, 2)


class Saying(GivenTask):
    """A task whose records say their own loss, and how right the model is."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.Linear(1, 2))
        self.seen: list[Rows] = []

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        self.seen.append(batch)
        return batch["loss"]

    def correct(self, model: nn.Module, rows: Rows) -> Tensor:
        return rows["correct"]


def unit_of(unit: str) -> Plan:
    return plan({**MEASURED, "privacy.unit": unit})


def saying(records: Sequence[tuple[float, float]], groups: list[int] | None = None) -> Rows:
    table = torch.tensor(records, dtype=torch.float32).reshape(-1, 2)
    units = None if groups is None else torch.tensor(groups, dtype=torch.int64)
    return Rows(fields={"loss": table[:, 0], "correct": table[:, 1]}, units=units)


def summed(records: Rows, unit: str = "record") -> Tensor:
    return bounded_sums(Saying(), MODEL, records, unit_of(unit))


# the bound


@given(st.lists(RECORD, max_size=6), RECORD, st.integers(0, 6))
def test_a_record_moves_the_sums_by_at_most_the_square_root_of_three(
    others: list[tuple[float, float]], one: tuple[float, float], place: int
) -> None:
    with_it = summed(saying([*others[:place], one, *others[place:]]))
    assert torch.dist(with_it, summed(saying(others))) <= METRICS_BOUND + 1e-9


@given(st.lists(RECORD, max_size=6), st.lists(RECORD, min_size=1, max_size=20))
def test_a_group_of_many_records_moves_the_sums_no_further(
    others: list[tuple[float, float]], group: list[tuple[float, float]]
) -> None:
    with_it = summed(saying([*others, *group], [0] * len(others) + [1] * len(group)), "group")
    assert torch.dist(with_it, summed(saying(others, [0] * len(others)), "group")) <= METRICS_BOUND + 1e-9


@given(st.lists(RECORD, max_size=20))
def test_a_client_moves_the_sums_no_further(records: list[tuple[float, float]]) -> None:
    assert summed(saying(records), "client").norm() <= METRICS_BOUND + 1e-9


def test_the_bound_is_reached_and_so_none_too_large() -> None:
    assert summed(saying([(9.0, 1.0)])).norm() == pytest.approx(METRICS_BOUND)
    assert metrics_mechanism(unit_of("group")).max_grad_norm == METRICS_BOUND  # type: ignore[union-attr]


# what they say


def test_losses_and_answers_count_as_at_most_their_bounds() -> None:
    table = saying([(2.0, 1.0), (8.0, 0.5), (-3.0, -1.0), (math.nan, math.nan), (math.inf, math.inf)])
    assert summed(table).tolist() == [5.0, 1 + 0.5 + 0 + 0 + 1, 0.5 + 1 + 0 + 1 + 1]


def test_a_groups_records_are_averaged() -> None:
    assert summed(saying([(4.0, 1.0), (0.0, 0.0), (4.0, 1.0)], [0, 0, 1]), "group").tolist() == [2.0, 1.5, 1.5]


def test_without_noise_figures_are_the_tasks_own() -> None:
    generator = torch.Generator().manual_seed(2)
    records = Rows(fields={"x": torch.randn(300, 1, generator=generator), "y": torch.arange(300) % 2})
    task, agreed = GivenTask(lambda: nn.Linear(1, 2)), unit_of("record")
    model = task.model().eval()
    sums = noisy_sums(task, model, records, agreed, mechanism(max_grad_norm=METRICS_BOUND), Quiet())
    found = private_figures(sums, 1, agreed, mechanism(max_grad_norm=METRICS_BOUND))
    exact = task.figures(task.metrics(model, records))
    assert found["accuracy"] == pytest.approx(exact["accuracy"])
    assert found["loss"] == pytest.approx(exact["loss"], rel=1e-5)
    assert found["noise"] == pytest.approx(METRICS_BOUND / 300)


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("unit", ["record", "group", "client"])
def test_how_records_are_batched_changes_nothing(monkeypatch: pytest.MonkeyPatch, size: int, unit: str) -> None:
    generator = np.random.default_rng(5)
    table = saying(generator.normal(1, 2, (40, 2)).tolist(), [number * number % 7 for number in range(40)])
    whole = summed(table, unit)
    monkeypatch.setattr(private_metrics, "_BATCH", size)
    assert torch.allclose(summed(table, unit), whole, rtol=0, atol=1e-12)


def test_a_task_never_sees_how_groups_are_numbered() -> None:
    task = Saying()
    bounded_sums(task, MODEL, saying([(1.0, 1.0)] * 3, [0, 1, 0]), unit_of("group"))
    assert [batch.units for batch in task.seen] == [None]


# noise


def noise(sigma: float, records: Rows, count: int = 2000) -> Tensor:
    """What noise of this multiplier adds: (count, 3)."""
    stream, task, agreed = RandomStream.from_seed(7, "metrics"), Saying(), unit_of("record")
    priced = Mechanism(noise_multiplier=sigma, sample_rate=1.0, steps=1, max_grad_norm=METRICS_BOUND)
    found = [noisy_sums(task, MODEL, records, agreed, priced, stream) for _ in range(count)]
    return torch.stack([torch.stack(list(sums.values())) for sums in found]) - summed(records)


def has_sigma(sample: Tensor, sigma: float) -> bool:
    statistic = float((sample**2).sum()) / sigma**2
    return bool(stats.chi2.ppf(ALARM, sample.numel()) < statistic < stats.chi2.isf(ALARM, sample.numel()))


@pytest.mark.parametrize("records", [saying([]), saying([(1.0, 1.0)] * 5)], ids=["no record", "five records"])
def test_noise_has_its_sigma_in_every_sum_and_neither_two_thirds_nor_three_halves(records: Rows) -> None:
    sample = noise(1.5, records)
    for part in (sample, *sample.T):
        assert has_sigma(part, 1.5 * METRICS_BOUND)
        for wrong in (2 / 3, 3 / 2):
            assert not has_sigma(part, wrong * 1.5 * METRICS_BOUND)
    assert float(sample.mean(dim=0).abs().max()) < 6 * 1.5 * METRICS_BOUND / 2000**0.5
    assert np.abs(np.corrcoef(sample.T) - np.eye(3)).max() < 0.15


def test_noise_of_any_vector_is_the_mechanisms() -> None:
    priced = mechanism(noise_multiplier=0.5, max_grad_norm=4.0)
    sample = noised(torch.full((50_000,), 3.0, dtype=torch.float64), priced, RandomStream.from_seed(1, "statistics"))
    assert sample.dtype == torch.float64
    for share, right in ((1.0, True), (2 / 3, False), (3 / 2, False)):
        assert has_sigma(sample - 3, share * 2.0) is right


def test_equal_streams_give_equal_noise_and_others_another() -> None:
    zero = torch.zeros(5, dtype=torch.float64)
    first, same, other = (noised(zero, mechanism(), RandomStream.from_seed(1, label)) for label in ("a", "a", "b"))
    assert torch.equal(first, same)
    assert not torch.isin(first, other).any()


def test_figures_of_noise_alone_stay_in_their_ranges_and_say_so() -> None:
    agreed, priced = unit_of("record"), mechanism(noise_multiplier=2.0, max_grad_norm=METRICS_BOUND)
    sums = {name: torch.tensor(value) for name, value in (("count", -4.0), ("correct", 7.0), ("loss", -3.0))}
    found = private_figures(sums, 4, agreed, priced)
    assert (found["accuracy"], found["loss"]) == (1.0, 0.0)
    assert found["noise"] == pytest.approx(2 * METRICS_BOUND * 2)


# refusals


class Odd(Saying):
    """Says one number of a whole batch."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        return batch["loss"].mean() if self._what == "loss" else batch["loss"]

    def correct(self, model: nn.Module, rows: Rows) -> Tensor:
        return rows["correct"][:, None] if self._what == "correct" else rows["correct"]


@pytest.mark.parametrize(("what", "shape"), [("loss", r"\(\)"), ("correct", r"\(2, 1\)")])
def test_what_is_not_one_number_a_record_is_refused(what: str, shape: str) -> None:
    task: Task = Odd(what)
    with pytest.raises(TaskInvalid, match=rf"the task's {what} has shape {shape}"):
        bounded_sums(task, MODEL, saying([(1.0, 1.0)] * 2), unit_of("record"))
