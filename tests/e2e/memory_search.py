"""What lies in the memory of running processes: each is stopped, read page by page, and goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping

import psutil

_CHUNK_BYTES = 1 << 24


def needles_in_memory(processes: Iterable[psutil.Process], needles: Mapping[str, bytes]) -> set[str]:
    """The names of the needles that lie in writable memory of one of these processes."""
    found: set[str] = set()
    for process in processes:
        try:
            os.kill(process.pid, signal.SIGSTOP)
            found |= _search(process.pid, needles)
            os.kill(process.pid, signal.SIGCONT)
        except ProcessLookupError:
            continue  # it ended meanwhile
    return found


def _search(pid: int, needles: Mapping[str, bytes]) -> set[str]:
    longest = max(map(len, needles.values()))
    found: set[str] = set()
    with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as maps:
        regions = [line.split() for line in maps]
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for region in regions:
            if not region[1].startswith("rw"):
                continue
            start, end = (int(number, 16) for number in region[0].split("-"))
            tail = b""
            for place in range(start, end, _CHUNK_BYTES):
                try:
                    memory.seek(place)
                    chunk = memory.read(min(_CHUNK_BYTES, end - place))
                except OSError:
                    break  # the kernel does not show this page
                found |= {name for name, needle in needles.items() if needle in tail + chunk}
                tail = chunk[-longest:]
    return found
