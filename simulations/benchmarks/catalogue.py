"""The benchmarks by name."""

from __future__ import annotations

from collections.abc import Callable

from privacy.errors import PlanInvalid
from simulations.benchmarks.encryption import encryption
from simulations.benchmarks.engine import engine
from simulations.benchmarks.harness import Findings
from simulations.benchmarks.ledger import ledger
from simulations.benchmarks.storage import storage
from simulations.benchmarks.utility import utility

BENCHMARKS: dict[str, tuple[str, Callable[[bool], Findings]]] = {
    "encryption": (
        "sending, adding and reading an update that the server can't read, beside CKKS as NVFlare uses it",
        encryption,
    ),
    "engine": ("seconds a round and peak memory of the simulation engine, beside Flower's Ray engine", engine),
    "ledger": ("reserving and settling a round durably, replaying, proving; eight processes on one budget", ledger),
    "storage": ("opening and sealing checkpoints and training rows, beside files in the clear", storage),
    "utility": ("test accuracy at epsilon 1, 3, 8 and without privacy: federated against centralised", utility),
}


def benchmark(name: str) -> Callable[[bool], Findings]:
    """The benchmark of that name.

    Raises:
        PlanInvalid: there is none.
    """
    if name not in BENCHMARKS:
        raise PlanInvalid(f"there is no benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name][1]
