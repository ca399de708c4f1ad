"""One figure of `fedseal bench encryption` in a process of its own, so that memory is nobody else's.

Started as `python -m simulations.benchmarks.encryption_process memory|round-trip WAY PARAMETERS`; prints JSON.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from numpy.typing import NDArray

from simulations.benchmarks.encryption_cases import BOUND, summing

_MIB = 2**20


def memory(name: str, parameters: int) -> dict[str, float]:
    """How many MiB the process grows by from before the first update to the highest point of the second one."""
    way, update = summing(name, 10, parameters), _update(parameters)
    way.encrypt(update[: min(parameters, 50_000)])  # libraries and contexts are not the update's
    before = _resident()
    _forget_peak()
    way.encrypt(update)
    return {"mib": max((_peak() - before) / _MIB, 1.0)}


def round_trip(name: str, parameters: int) -> dict[str, float]:
    """CPU seconds of each step, bytes, the largest error, and the highest point of memory."""
    way, update = summing(name, 1, parameters), _update(parameters)
    moments = [time.process_time()]
    upload = way.encrypt(update)
    moments.append(time.process_time())
    way.add(upload)
    bytes_up = sum(map(len, upload))
    del upload
    total = way.sum()
    moments.append(time.process_time())
    found = way.decrypt(total)
    moments.append(time.process_time())
    peak = _peak()  # before the error is computed, which needs memory too
    encrypt, add, decrypt = np.diff(moments).tolist()
    return {
        "encrypt": encrypt,
        "add": add,
        "decrypt": decrypt,
        "bytes_up": bytes_up,
        "bytes_down": sum(map(len, total)),
        "largest_error": float(np.abs(found - update).max()),
        "peak_mib": peak / _MIB,
    }


def _update(parameters: int) -> NDArray[np.float32]:
    values = np.random.default_rng(1).standard_normal(parameters, dtype=np.float32) * np.float32(BOUND / 5)  # (P,)
    np.clip(values, -BOUND, BOUND, out=values)
    return values


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    """Bytes, from the kernel's account of this process."""
    with open("/proc/self/status", encoding="ascii") as lines:
        found = next(line for line in lines if line.startswith(field))
    return int(found.split()[1]) * 1024


def _forget_peak() -> None:
    with open("/proc/self/clear_refs", "w", encoding="ascii") as control:
        control.write("5")


if __name__ == "__main__":
    act = {"memory": memory, "round-trip": round_trip}[sys.argv[1]]
    print(json.dumps(act(sys.argv[2], int(sys.argv[3]))))
