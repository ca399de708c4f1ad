"""The benchmark's honesty: who may see which record."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from federation.rows import Rows
from simulations.benchmarks import utility
from simulations.benchmarks.utility import BREAST_CANCER, Candidate, Recipe, Setting, best, divide, site_rows


@pytest.mark.parametrize("fold", range(5))
def test_parts_never_overlap_and_hold_every_record(fold: int) -> None:
    division = divide(107, fold)
    assert sorted(np.concatenate([division.train, division.validation, division.test])) == list(range(107))
    assert len(division.test) in (21, 22)
    assert len(division.validation) in (21, 22)


def test_each_record_is_tested_on_once() -> None:
    assert sorted(np.concatenate([divide(107, fold).test for fold in range(5)])) == list(range(107))


@pytest.mark.parametrize("sites", [1, 10])
def test_sites_hold_training_records_validation_is_held_out_and_test_is_nowhere(sites: int) -> None:
    pool = Rows(fields={"x": torch.arange(107)})
    division = divide(len(pool), fold=3)
    parts = site_rows(pool, division, sites)
    training = [int(x) for part in parts for x in part.take(~part.held_out)["x"]]
    held_out = [int(x) for part in parts for x in part.take(part.held_out)["x"]]
    assert len(parts) == sites
    assert sorted(training) == sorted(division.train)
    assert sorted(held_out) == sorted(division.validation)


def test_training_and_choice_are_blind_to_test_records(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(data=BREAST_CANCER, epsilon=None, sites=1)
    recipe = Recipe(rounds=2, max_grad_norm=1.0, learning_rate=1.0)
    honest = utility.trained(setting, recipe, [0])[0]
    pool = utility._pool(BREAST_CANCER)
    labels = pool["y"].clone()
    labels[divide(len(pool), 0).test] = 1 - labels[divide(len(pool), 0).test]
    monkeypatch.setattr(utility, "_pool", lambda _: pool.replace(y=labels))
    poisoned = utility.trained(setting, recipe, [0])[0]
    assert honest.validation == poisoned.validation
    assert torch.equal(honest.model.weight, poisoned.model.weight)


def test_the_best_on_validation_is_chosen_and_ties_go_to_the_first() -> None:
    recipe = Recipe(rounds=1, max_grad_norm=1.0, learning_rate=1.0)
    first = Candidate(recipe=recipe, model=torch.nn.Linear(1, 1), validation=90.0)
    second = replace(first, validation=95.0)
    third = replace(first, validation=95.0)
    assert best([first, second, third]) is second
