"""Metrics that add: the sums of two halves are the sums of the whole, and the figures are scikit-learn's."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from federation.metrics import binned_auroc, classification_figures, classification_sums


def drawn(count: int, separation: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two-class logits of shape (n, 2) whose difference is standard normal, shifted by `separation` for class 1."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 2, (count,), generator=generator)
    score = torch.randn(count, generator=generator) + separation * targets
    return torch.stack([torch.zeros(count), score], dim=1), targets


@pytest.mark.parametrize("separation", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("count", [50, 3000])
def test_binned_auroc_is_scikit_learns_within_two_thousandths(separation: float, count: int) -> None:
    logits, targets = drawn(count, separation, seed=count)
    figures = classification_figures(classification_sums(logits, targets))
    assert figures["auroc"] == pytest.approx(roc_auc_score(targets, logits[:, 1] - logits[:, 0]), abs=2e-3)


def test_accuracy_and_loss_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, targets = torch.randn(300, 4, generator=generator), torch.randint(0, 4, (300,), generator=generator)
    figures = classification_figures(classification_sums(logits, targets))
    assert list(figures) == ["accuracy", "loss"]
    assert figures["accuracy"] == accuracy_score(targets, logits.argmax(dim=1))
    assert figures["loss"] == pytest.approx(log_loss(targets, logits.double().softmax(dim=1)), rel=1e-9)


def test_well_separated_scores_have_an_auroc_of_exactly_one_or_zero() -> None:
    logits = torch.tensor([[0.0, -3.0], [0.0, -1.0], [0.0, 1.0], [0.0, 50.0]])
    for targets, area in (([0, 0, 1, 1], 1.0), ([1, 1, 0, 0], 0.0)):
        assert classification_figures(classification_sums(logits, torch.tensor(targets)))["auroc"] == area


def test_equal_scores_have_an_auroc_of_one_half() -> None:
    figures = classification_figures(classification_sums(torch.zeros(6, 2), torch.tensor([0, 0, 1, 1, 1, 1])))
    assert figures["auroc"] == 0.5


def test_auroc_counts_pairs_by_hand() -> None:
    positives, negatives = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 1.0])
    assert binned_auroc(positives, negatives) == (1 * (1 + 2 / 2) + 2 * (3 + 1 / 2)) / 12


def test_auroc_of_one_class_is_no_number() -> None:
    assert math.isnan(binned_auroc(torch.tensor([1.0]), torch.tensor([0.0])))


@given(st.integers(2, 40), st.integers(2, 4), st.data())
@settings(deadline=None, max_examples=40)
def test_the_sums_of_two_halves_are_the_sums_of_the_whole(count: int, classes: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    logits = torch.randn(count, classes, generator=generator)
    targets = torch.randint(0, classes, (count,), generator=generator)
    cut = data.draw(st.integers(0, count))
    whole = classification_sums(logits, targets)
    first, second = classification_sums(logits[:cut], targets[:cut]), classification_sums(logits[cut:], targets[cut:])
    assert set(whole) == set(first) == set(second)
    for name, total in whole.items():
        assert total.dtype == torch.float64
        assert total.shape == first[name].shape == second[name].shape
        assert torch.allclose(first[name] + second[name], total, rtol=1e-12, atol=0)
        if name != "loss":
            assert torch.equal(first[name] + second[name], total)


def test_every_record_is_counted_once_in_the_histograms_however_extreme_its_score() -> None:
    logits = torch.tensor([[0.0, 1e30], [1e30, 0.0], [0.0, 0.0], [0.0, math.inf]])
    sums = classification_sums(logits, torch.tensor([1, 0, 1, 1]))
    assert (sums["positives"].sum(), sums["negatives"].sum(), sums["count"]) == (3, 1, 4)


def test_the_figures_of_no_records_are_numbers_or_say_that_they_are_not() -> None:
    figures = classification_figures(classification_sums(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)))
    assert (figures["accuracy"], figures["loss"]) == (0.0, 0.0)
    assert math.isnan(figures["auroc"])


def test_accuracy_is_the_headline() -> None:
    assert next(iter(classification_figures(classification_sums(*drawn(10, 1.0, seed=1))))) == "accuracy"
