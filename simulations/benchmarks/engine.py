"""`fedseal bench engine`: seconds a round and peak memory of the simulation engine, beside Flower's own on Ray.

The peer is Flower itself, installed by the optional extra `ray`; without it its rows say so and its goal is left out.
FedSeal's own apps are not measured on Ray: a site's ledger lives with the site, and Ray moves clients between workers.
Every case runs in a fresh process (`simulations.benchmarks.engine_case`), so that its peak, sampled while it runs, is
its own: the resident size of an engine of one process; where there are children the sum of proportional sizes, which
counts shared pages once (of resident sizes on systems that know no other).

Rounds after the first count; cases take turns, so that a noisy neighbour is shared. CPU seconds are those of all
processes: above the wall's, cores worked side by side; far below, others had the cores.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

from privacy.errors import RunFailed
from simulations.benchmarks.harness import Figure, Findings, Goal

_OFFLINE = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
_SAMPLE_SECONDS = 0.05
_LONGEST_SECONDS = 300.0
_NAMES = {
    "fedseal": "FedSeal, in process",
    "ray-fedavg": "Flower 1.41 Ray, FedAvg (the peer itself)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What one child process runs: an engine of `engine_case.ENGINES`, so many clients and rounds."""

    engine: str
    clients: int
    rounds: int


@dataclass(slots=True, kw_only=True)
class Measured:
    """What one engine came to at one number of clients: wall and CPU seconds of counted rounds, largest peak."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0


_QUICK = (
    Case(engine="ray-fedavg", clients=1_000, rounds=2),
    Case(engine="fedseal", clients=1_000, rounds=5),
    Case(engine="fedseal", clients=10_000, rounds=2),
)
_OURS = (
    Case(engine="fedseal", clients=100, rounds=11),
    Case(engine="fedseal", clients=1_000, rounds=6),
    Case(engine="fedseal", clients=10_000, rounds=4),
)
_FULL = (
    *_OURS,
    Case(engine="ray-fedavg", clients=1_000, rounds=4),
    Case(engine="ray-fedavg", clients=100, rounds=6),
    *_OURS,
    Case(engine="ray-fedavg", clients=1_000, rounds=4),
)


def engine(quick: bool) -> Findings:
    """Measures the engines on a model of 10,000 values that clients add a constant to: no time goes into training."""
    measured: dict[tuple[str, int], Measured] = {}
    has_ray = importlib.util.find_spec("ray") is not None
    for case in _QUICK if quick else _FULL:
        of_case = measured.setdefault((case.engine, case.clients), Measured())
        if case.engine == "fedseal" or has_ray:
            rounds, peak_mib = _run(case)
            of_case.seconds.extend(seconds for seconds, _ in rounds[1:])
            of_case.cpu_seconds.extend(cpu_seconds for _, cpu_seconds in rounds[1:])
            of_case.peak_mib = max(of_case.peak_mib, peak_mib)
    return Findings(benchmark="engine", rows=_rows(measured), goals=_goals(measured))


def _rows(measured: dict[tuple[str, int], Measured]) -> Sequence[dict[str, Figure]]:
    ordered = sorted(measured.items(), key=lambda item: (list(_NAMES).index(item[0][0]), item[0][1]))
    return [{"name": _NAMES[name], "clients": clients, **_figures(found)} for (name, clients), found in ordered]


def _figures(found: Measured) -> dict[str, Figure]:
    if not found.seconds:
        return {"seconds_a_round": "not installed (extra: ray)"}
    return {
        "seconds_a_round": median(found.seconds),
        "cpu_seconds_a_round": median(found.cpu_seconds),
        "rounds_counted": len(found.seconds),
        "peak_mib": found.peak_mib,
    }


def _goals(measured: dict[tuple[str, int], Measured]) -> dict[str, Goal]:
    ours, ten_times = measured["fedseal", 1_000], measured["fedseal", 10_000]
    flat = Goal(value=ten_times.peak_mib / ours.peak_mib, reach="<= 1.2")
    goals = {"peak memory 10,000 clients / 1,000 clients": flat}
    peer = measured["ray-fedavg", 1_000]
    if peer.seconds:
        wall = Goal(value=median(peer.seconds) / median(ours.seconds), reach=">= 15")
        cpu = Goal(value=median(peer.cpu_seconds) / median(ours.cpu_seconds), reach=">= 15")
        goals = {
            "Ray FedAvg seconds / ours, 1,000 clients": wall,
            "Ray FedAvg CPU seconds / ours, 1,000 clients": cpu,
            **goals,
        }
    return goals


def _run(case: Case) -> tuple[list[tuple[float, float]], float]:
    """Wall and CPU seconds of each round of the case, and the peak of its process and all children in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        written, log = Path(folder, "seconds.json"), Path(folder, "log.txt")
        arguments = [case.engine, str(case.clients), str(case.rounds), str(written)]
        with log.open("wb") as output:
            child = subprocess.Popen(
                # -P: a folder called `server` or `clients` where the user stands is not ours
                [sys.executable, "-P", "-m", "simulations.benchmarks.engine_case", *arguments],
                env={**os.environ, **_OFFLINE},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            peak_mib = _watched(child)
        if child.returncode != 0 or not written.exists():
            raise RunFailed(f"{case} ended with code {child.returncode}: {log.read_text(errors='replace')[-2000:]}")
        return json.loads(written.read_text(encoding="utf-8")), peak_mib


def _watched(child: subprocess.Popen[bytes]) -> float:
    """Waits for the process to end, and for no longer than it may take; returns its peak in MiB."""
    until = time.monotonic() + _LONGEST_SECONDS
    peak_mib = 0.0
    family: list[psutil.Process] = []
    try:
        while child.poll() is None and time.monotonic() < until:
            family = _family(child.pid)
            peak_mib = max(peak_mib, _mib(family))
            time.sleep(_SAMPLE_SECONDS * max(1, len(family)))
    finally:
        for process in family:  # whatever outlived the child
            with suppress(psutil.NoSuchProcess):
                process.kill()
        child.wait()
    return peak_mib


def _family(process_id: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(process_id)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _mib(family: list[psutil.Process]) -> float:
    total = 0
    for process in family:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            alone = len(family) == 1
            sizes = process.memory_info() if alone else process.memory_full_info()
            total += getattr(sizes, "pss", sizes.rss)
    return total / 2**20
