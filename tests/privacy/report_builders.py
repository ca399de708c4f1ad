"""A run folder of two sites and three rounds, of which a report is written."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from privacy.report import write_report


class Folder:
    """A run folder of two sites and three rounds, for a test to change before it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = copy.deepcopy(RUN)
        self.rounds = [a_round(number) for number in (1, 2, 3)]

    def write(self) -> None:
        (self.path / "run.json").write_text(json.dumps(self.run), encoding="utf-8")
        lines = "".join(json.dumps(line) + "\n" for line in self.rounds)
        (self.path / "rounds.jsonl").write_text(lines, encoding="utf-8")

    def page(self) -> str:
        self.write()
        return write_report(self.path).read_text(encoding="utf-8")


RUN = {
    "run": "17",
    "started": "2026-01-02T03:04:05+00:00",
    "plan": {
        "task": "task:task",
        "name": "two-hospitals",
        "rounds": 3,
        "seed": 0,
        "metrics": "none",
        "privacy": {"unit": "record", "epsilon": 3.0, "delta": 1e-5, "noise_multiplier": None},
        "training": {"sample_rate": 0.25},
        "cohort": {"quorum": 2},
    },
    "plan_hash": "ab" * 32,
    "sites_online": 2,
    "versions": {"python": "3.11.7"},
    "machine": {"system": "Linux", "processor": "a chip", "cores": 2},
    "seeds": {"plan": 0, "simulation": None},
    "accountant": "dp-accounting 0.6.0 PLD",
    "ended": "all planned rounds are done",
    "finished": "2026-01-02T03:05:05+00:00",
    "totals": {"rounds": 3, "seconds": 3.0, "bytes_down": 6, "bytes_up": 6, "parameters": 62},
    "sites": [
        {"site": "north", "rounds": 3, "refusals": 0, "declared_rows": 1200, "epsilon": 2.4},
        {"site": "south", "rounds": 3, "refusals": 0, "declared_rows": 90, "epsilon": 1.20001},
    ],
}


def a_round(number: int) -> dict[str, object]:
    return {
        "round": number,
        "cohort": 2,
        "answered": ["north", "south"],
        "refused": [],
        "figures": {"accuracy": 0.5 + 0.1 * number, "auroc": 0.6 + 0.1 * number, "loss": 1.0 / number},
        "figures_source": "none",
        "epsilon": {"north": 0.8 * number, "south": 0.4 * number},
        "seconds": {"train": 0.5, "evaluate": 0.5},
        "bytes_down": 2_000_000,
        "bytes_up": 2_000_000,
        "seeded": False,
    }
