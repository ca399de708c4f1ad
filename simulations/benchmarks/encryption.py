"""`fedseal bench encryption`: what it costs to send an update so that the server can add but not read it.

One update of P float32 values, ten sites. CPU seconds of one process, medians of repetitions that take turns; precision
stands beside each way, because they are not equally precise. Memory is what a site's own process grows by, measured in
a process of its own. The model of 100 million values goes its whole way (encrypt, add, decrypt) in one process. The
demo is trained without and with encryption over five seeds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from statistics import mean, median, stdev

import numpy as np
from numpy.typing import NDArray

from federation.plan import Plan, Scalar
from federation.reading import read_plan
from federation.task import load_task
from simulations.benchmarks.encryption_cases import BOUND, Summing, summing
from simulations.benchmarks.harness import Figure, Findings, Goal
from simulations.scenarios.catalogue import scenario
from simulations.simulate import simulate

_SITES = 10
_NAMES = {
    "plain": "float32 in the clear",
    "nvflare": "CKKS as NVFlare uses it (rebuilt)",
    "16": "FedSeal BFV, 16 bits (default)",
    "24": "FedSeal BFV, 24 bits",
    "12": "FedSeal BFV, 12 bits",
}
_PEER, _DEFAULT, _PRECISE = "nvflare", "16", "24"
_MIB = 2**20
_LARGE = 100_000_000


@dataclass(slots=True, kw_only=True)
class _Case:
    """One way to sum, and what its repetitions took: CPU seconds of each step."""

    way: Summing
    parameters: int
    encrypt: list[float] = field(default_factory=list)
    add: list[float] = field(default_factory=list)
    decrypt: list[float] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    largest_error: float = 0.0

    def turn(self, updates: list[NDArray[np.float32]], exact: NDArray[np.float64]) -> None:
        """Ten sites encrypt, the server adds, a site decrypts."""
        encrypting = adding = 0.0
        for update in updates:
            started = time.process_time()
            upload = self.way.encrypt(update)
            encrypted = time.process_time()
            self.way.add(upload)
            adding += time.process_time() - encrypted
            encrypting += encrypted - started
        started = time.process_time()
        total = self.way.sum()
        adding += time.process_time() - started
        started = time.process_time()
        found = self.way.decrypt(total)
        self.decrypt.append(time.process_time() - started)
        self.encrypt.append(encrypting / len(updates))
        self.add.append(adding / len(updates))
        self.bytes_up, self.bytes_down = sum(map(len, upload)), sum(map(len, total))
        self.largest_error = max(self.largest_error, float(np.abs(found[: self.parameters] - exact).max()))

    def row(self, name: str, memory: float) -> dict[str, Figure]:
        return {
            "name": _NAMES[name],
            "encrypt_cpu_seconds": median(self.encrypt),
            "server_cpu_seconds_an_upload": median(self.add),
            "decrypt_cpu_seconds": median(self.decrypt),
            "bytes_up_a_value": self.bytes_up / self.parameters,
            "bytes_down_a_value": self.bytes_down / self.parameters,
            "largest_error": self.largest_error,
            "client_grows_by_mib": memory,
            "repetitions": len(self.encrypt),
        }


def encryption(quick: bool) -> Findings:
    """Measures one million values (a quarter with `quick`), then 100 million, then the demo (not with `quick`)."""
    parameters, repetitions = (250_000, 3) if quick else (1_000_000, 5)
    cases = _measured(parameters, repetitions)
    memory = {name: _memory(name, parameters) for name in _NAMES}
    rows = [case.row(name, memory[name]) for name, case in cases.items()]
    if not quick:
        rows += [_large(), *_demo()]
    return Findings(benchmark="encryption", rows=rows, goals=_goals(cases, memory))


def _measured(parameters: int, repetitions: int) -> dict[str, _Case]:
    rng, order = np.random.default_rng(0), Random(0)
    updates = [
        np.clip(rng.normal(size=parameters) * BOUND / 5, -BOUND, BOUND).astype(np.float32) for _ in range(_SITES)
    ]
    exact = np.mean([update.astype(np.float64) for update in updates], axis=0)
    cases: dict[str, _Case] = {}
    for turn in range(repetitions + 1):  # the first one warms up and does not count
        for name in order.sample(sorted(_NAMES), len(_NAMES)):
            case = _Case(way=summing(name, _SITES, parameters), parameters=parameters)
            if turn:
                case = cases.setdefault(name, case)
                case.way = summing(name, _SITES, parameters)
            case.turn(updates, exact)
    return {name: cases[name] for name in _NAMES}


def _memory(name: str, parameters: int) -> float:
    """How many MiB a site's process grows by while it encrypts one update."""
    return _in_own_process("memory", name, str(parameters))["mib"]


def _large() -> dict[str, Figure]:
    found = _in_own_process("round-trip", _DEFAULT, str(_LARGE))
    return {
        "name": f"{_NAMES[_DEFAULT]}, 100 million values, one round trip",
        "encrypt_cpu_seconds": found["encrypt"],
        "server_cpu_seconds_an_upload": found["add"],
        "decrypt_cpu_seconds": found["decrypt"],
        "bytes_up_a_value": found["bytes_up"] / _LARGE,
        "bytes_down_a_value": found["bytes_down"] / _LARGE,
        "largest_error": found["largest_error"],
        "peak_mib": found["peak_mib"],
        "repetitions": 1,
    }


def _in_own_process(*arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "simulations.benchmarks.encryption_process", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _demo() -> Iterator[dict[str, Figure]]:
    """The demo's accuracy over five seeds, in the clear and encrypted."""
    chosen = scenario("breast-cancer")
    ways: Mapping[str, dict[str, Scalar]] = {
        "demo in the clear": {"encryption.scheme": "none"},
        **{f"demo, {bits} bits": {"encryption.scheme": "bfv", "encryption.bits": bits} for bits in (12, 16, 24)},
    }
    for name, changes in ways.items():
        found = [
            _accuracy(read_plan({"name": chosen.name, **chosen.settings, **changes, "seed": seed}), chosen.sites)
            for seed in range(5)
        ]
        yield {"name": name, "accuracy_percent": mean(found), "sd_percent": stdev(found), "repetitions": len(found)}


def _accuracy(plan: Plan, sites: int) -> float:
    return 100 * simulate(load_task(plan.task), plan, sites).rounds[-1].figures["accuracy"]


def _goals(cases: Mapping[str, _Case], memory: Mapping[str, float]) -> dict[str, Goal]:
    peer, default, precise = cases[_PEER], cases[_DEFAULT], cases[_PRECISE]
    plain = cases["plain"]
    return {
        "upload, NVFlare / 16 bits": Goal(value=peer.bytes_up / default.bytes_up, reach=">= 21"),
        "upload, NVFlare / 24 bits": Goal(value=peer.bytes_up / precise.bytes_up, reach=">= 16"),
        "upload, 16 bits / float32": Goal(value=default.bytes_up / plain.bytes_up, reach="<= 0.70"),
        "encrypt (CPU), NVFlare / 16 bits": Goal(value=_ratio(peer.encrypt, default.encrypt), reach=">= 10"),
        "encrypt (CPU), NVFlare / 24 bits": Goal(value=_ratio(peer.encrypt, precise.encrypt), reach=">= 7"),
        "server (CPU), NVFlare / 16 bits": Goal(value=_ratio(peer.add, default.add), reach=">= 6"),
        "decrypt (CPU), NVFlare / 16 bits": Goal(value=_ratio(peer.decrypt, default.decrypt), reach=">= 4"),
        "client memory growth, NVFlare / 16 bits": Goal(value=memory[_PEER] / memory[_DEFAULT], reach=">= 10"),
    }


def _ratio(peer: list[float], ours: list[float]) -> float:
    """The median over repetitions: neighbours on the machine slow both halves of a turn."""
    return median(one / other for one, other in zip(peer, ours, strict=True))
