"""A round holds a few replies at a time, and observers hear of each as it comes."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import pytest
from flwr.app import Message

from federation.plan import Plan
from server.records import Observer, RoundRecord, RunResult
from tests.client_builders import PLAIN, plan
from tests.server_builders import agreeable, moved, run, sent


def test_the_mean_of_many_sites_holds_a_few_replies_at_a_time() -> None:
    alive: weakref.WeakSet[Message] = weakref.WeakSet()
    most = [0]

    def answer(node: int, message: Message) -> Iterable[Message]:
        reply = sent(message, float(node))
        alive.add(reply)
        most[0] = max(most[0], len(alive))
        yield reply

    result = run(answer, plan(PLAIN), nodes=200)
    assert moved(result) == pytest.approx([100.5] * 4, abs=1e-4)
    assert most[0] <= 4


def test_observers_hear_of_every_reply_and_every_round() -> None:
    heard: list[tuple[str, int]] = []

    class Listener(Observer):
        def run_started(self, run: str, plan: Plan, nodes: int) -> None:
            heard.append((f"run {run}", nodes))

        def reply_arrived(self, round_number: int, done: int, cohort: int) -> None:
            heard.append((f"{round_number}: {done} of {cohort}", 0))

        def round_finished(self, record: RoundRecord) -> None:
            heard.append(("round", record.round))

        def run_finished(self, result: RunResult) -> None:
            heard.append(("end", len(result.rounds)))

    run(agreeable, plan(PLAIN), nodes=2, observers=(Listener(),))
    assert heard == [("run 17", 2), ("1: 1 of 2", 0), ("1: 2 of 2", 0), ("round", 1), ("end", 1)]
