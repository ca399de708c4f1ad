"""The server's optimizers against their papers' formulas, written out in float64 for two rounds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from federation.optimizers import ModelState, Vector, advance
from federation.plan_settings import AggregationSettings

START = np.array([1.0, -0.5, 0.25, 0.0], dtype=np.float32)
FIRST = np.array([0.5, -0.25, 0.0, 1e-3], dtype=np.float32)
SECOND = np.array([-0.125, -0.5, 0.5, 2e-3], dtype=np.float32)
RATE, BETA, BETA_2, TAU = 0.5, 0.75, 0.9375, 0.125  # exact in binary
Wide = NDArray[np.float64]


def chosen(**values: object) -> AggregationSettings:
    return AggregationSettings(  # type: ignore[arg-type]
        **{"learning_rate": RATE, "momentum": BETA, "second_moment": BETA_2, "adaptivity": TAU, **values}
    )


def run(settings: AggregationSettings, *updates: Vector) -> ModelState:
    state = ModelState.start(START, settings)
    for update in updates:
        state = advance(state, update, settings)
    return state


def adaptive(yogi: bool) -> Wide:
    """Reddi et al. 2021, Algorithm 2, two rounds, from m = 0 and v = tau^2."""
    vector, first = START.astype(np.float64), np.zeros(4)
    second = np.full(4, TAU**2)
    for delta in (FIRST.astype(np.float64), SECOND.astype(np.float64)):
        first = BETA * first + (1 - BETA) * delta
        if yogi:
            second = second - (1 - BETA_2) * delta**2 * np.sign(second - delta**2)
        else:
            second = BETA_2 * second + (1 - BETA_2) * delta**2
        vector = vector + RATE * first / (np.sqrt(second) + TAU)
    return vector


def test_fedavg_adds_the_mean_update() -> None:
    state = run(chosen(optimizer="fedavg", learning_rate=1.0), FIRST, SECOND)
    assert state.vector.tolist() == (START + FIRST + SECOND).tolist()


def test_fedavg_of_half_a_step_goes_half_as_far() -> None:
    assert run(chosen(optimizer="fedavg"), FIRST).vector.tolist() == (START + FIRST / 2).tolist()


def test_fedavgm_is_hsu_and_others_equation_3() -> None:
    first, second = FIRST.astype(np.float64), SECOND.astype(np.float64)
    expected = START + RATE * first + RATE * (BETA * first + second)
    assert run(chosen(optimizer="fedavgm"), FIRST, SECOND).vector == pytest.approx(expected, rel=1e-6)


def test_fedavgm_without_momentum_is_fedavg() -> None:
    assert run(chosen(optimizer="fedavgm", momentum=0.0), FIRST, SECOND).vector.tolist() == (
        run(chosen(optimizer="fedavg"), FIRST, SECOND).vector.tolist()
    )


@pytest.mark.parametrize(("optimizer", "yogi"), [("fedadam", False), ("fedyogi", True)])
def test_adaptive_optimizers_are_reddi_and_others_algorithm_2(optimizer: str, yogi: bool) -> None:
    assert run(chosen(optimizer=optimizer), FIRST, SECOND).vector == pytest.approx(adaptive(yogi), rel=2e-6)
    assert run(chosen(optimizer=optimizer), FIRST, SECOND).vector != pytest.approx(adaptive(not yogi), rel=1e-3)


def test_one_step_of_fedadam_is_checked_by_hand() -> None:
    vector = run(chosen(optimizer="fedadam"), np.full(4, 0.5, dtype=np.float32)).vector
    second = 0.9375 * 0.125**2 + 0.0625 * 0.25  # 0.0302734375
    assert vector == pytest.approx(START + 0.5 * 0.125 / (second**0.5 + 0.125), rel=1e-6)


def test_yogis_second_moment_never_turns_negative() -> None:
    state = run(chosen(optimizer="fedyogi", second_moment=0.0), *[FIRST, SECOND, np.zeros(4, dtype=np.float32)] * 5)
    assert (state.second >= 0).all()
    assert np.isfinite(state.vector).all()


def test_the_moments_start_at_zero_and_at_the_square_of_the_adaptivity() -> None:
    state = ModelState.start(START, chosen(optimizer="fedadam"))
    assert (state.first.tolist(), state.second.tolist()) == ([0.0] * 4, [TAU**2] * 4)
    assert state.vector.tolist() == state.average.tolist() == START.tolist()


@pytest.mark.parametrize(("optimizer", "moments"), [("fedavg", (0, 0)), ("fedavgm", (4, 0)), ("fedyogi", (4, 4))])
def test_an_optimizer_keeps_only_the_moments_that_it_uses(optimizer: str, moments: tuple[int, int]) -> None:
    state = run(chosen(optimizer=optimizer), FIRST)
    assert (len(state.first), len(state.second)) == moments


@pytest.mark.parametrize("optimizer", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
def test_no_update_from_the_start_moves_nothing(optimizer: str) -> None:
    assert run(chosen(optimizer=optimizer), np.zeros(4, dtype=np.float32)).vector.tolist() == START.tolist()


@pytest.mark.parametrize("optimizer", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
def test_a_step_is_float32_and_leaves_the_state_before_it_alone(optimizer: str) -> None:
    settings = chosen(optimizer=optimizer, iterate_averaging=0.5)
    before = ModelState.start(START.copy(), settings)
    after = advance(before, FIRST, settings)
    assert {array.dtype for array in (after.vector, after.first, after.second, after.average)} == {np.dtype("float32")}
    assert before.vector.tolist() == START.tolist()
    assert not before.first.any()
    assert after.vector.tolist() == advance(before, FIRST, settings).vector.tolist()


def test_the_runs_model_is_the_last_one_unless_iterates_are_averaged() -> None:
    state = run(chosen(optimizer="fedavgm"), FIRST, SECOND)
    assert state.average.tolist() == state.vector.tolist()


def test_averaged_iterates_decay_and_do_not_steer_the_next_step() -> None:
    plain = run(chosen(optimizer="fedavg", learning_rate=1.0), FIRST, SECOND)
    state = run(chosen(optimizer="fedavg", learning_rate=1.0, iterate_averaging=0.75), FIRST, SECOND)
    one, two = START + FIRST, START + FIRST + SECOND
    assert state.average == pytest.approx(0.75 * (0.75 * START + 0.25 * one) + 0.25 * two, rel=1e-6)
    assert state.vector.tolist() == plain.vector.tolist()
