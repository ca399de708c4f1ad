"""What a round must survive, and what a stopped run must keep."""

from __future__ import annotations

import numpy as np
import pytest

from federation.reading import read_plan
from server.records import Observer, RunResult
from simulations.scenarios.breast_cancer import task
from simulations.simulate import Options, simulate

PLAN = read_plan(
    {
        "encryption.scheme": "none",
        "rounds": 3,
        "privacy.noise_multiplier": 2.0,
        "privacy.epsilon": 50.0,
        "privacy.delta": 1e-3,
    }
)


class Impatient(Observer):
    """A person who presses Ctrl-C in the second round."""

    def __init__(self) -> None:
        self.finished: RunResult | None = None

    def reply_arrived(self, round_number: int, done: int, cohort: int) -> None:
        if round_number == 2:
            raise KeyboardInterrupt

    def run_finished(self, result: RunResult) -> None:
        self.finished = result


def test_an_interrupted_run_keeps_its_finished_rounds_and_its_model() -> None:
    person = Impatient()
    with pytest.raises(KeyboardInterrupt):
        simulate(task, PLAN, 4, Options(observers=(person,)))
    assert person.finished is not None
    assert [record.round for record in person.finished.rounds] == [1]
    assert person.finished.ended == "stopped in round 2: interrupted"
    assert np.isfinite(person.finished.vector).all()


def test_a_finite_but_huge_report_costs_its_own_report_and_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from clients import site as sites

    honest = sites.Site._trained

    def lying(self: sites.Site, *given: object) -> np.ndarray:
        update = honest(self, *given)  # type: ignore[arg-type]
        return np.full_like(update, 3e38) if self.info.index == 0 else update

    monkeypatch.setattr(sites.Site, "_trained", lying)
    result = simulate(task, PLAN, 4)
    assert [len(record.answered) for record in result.rounds] == [3, 3, 3]
    assert {refused.error for record in result.rounds for refused in record.refused} == {"NotFinite"}
    assert np.isfinite(result.run.vector).all()
