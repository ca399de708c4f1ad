"""A search of a disk for what must not lie there: values, texts and keys, in every form in which programs write them.

A value is a multiple of 2^-20 with an odd numerator: float32, float64 and decimals hold the same number, and no file
holds it by chance. Two neighbours of a tensor, 8 bytes, are looked for, so that a fragment is found too.
"""

from __future__ import annotations

import base64
import os
import random
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from stat import S_ISREG

import numpy as np
import psutil

SHARED_FOLDERS = (Path("/dev/shm"), Path("/tmp"), Path("/var/tmp"))
_SHORTEST_NEEDLE = 8  # what is shorter may stand somewhere by chance

Needles = Mapping[str, bytes]


def improbable_values(seed: int, count: int) -> list[float]:
    """Values between 1/4 and 1 that float32 holds exactly."""
    rng = random.Random(seed)
    return [(2 * rng.randrange(2**17, 2**19) + 1) / 2**20 for _ in range(count)]


def values_in_any_form(name: str, values: Sequence[float]) -> Needles:
    """Neighbours as float32; each value as float64 of either byte order, and as a decimal of either precision."""
    found = {f"{name} as float32 {place}": struct.pack("<2f", *pair) for place, pair in enumerate(pairwise(values))}
    for place, value in enumerate(values):
        found[f"{name} as float64 {place}"] = struct.pack("<d", value)
        found[f"{name} as big-endian float64 {place}"] = struct.pack(">d", value)
        found[f"{name} as decimal {place}"] = repr(value).encode()
        found[f"{name} as short decimal {place}"] = str(np.float32(value)).encode()
    return {label: needle for label, needle in found.items() if len(needle) >= _SHORTEST_NEEDLE}


def repeated_in_any_form(name: str, value: float) -> Needles:
    """A column in which every record has this value."""
    return {f"{name} as a float32 column": struct.pack("<2f", value, value)}


def text_in_any_form(name: str, text: str) -> Needles:
    """UTF-8, and what NumPy makes of it."""
    return {f"{name} as {coding}": text.encode(coding) for coding in ("utf-8", "utf-16-le", "utf-32-le")}


def key_in_any_form(name: str, key: bytes) -> Needles:
    return {f"{name} as bytes": key, f"{name} as hex": key.hex().encode(), f"{name} as base64": base64.b64encode(key)}


def hits_below(folder: Path, needles: Needles, besides: Iterable[Path] = ()) -> list[str]:
    """`file: needle` for each needle in the bytes or in the path of a file; `besides` are files or folders left out."""
    left_out = [path.resolve() for path in besides]
    return [
        f"{path.relative_to(folder)}: {label}"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(path.resolve().is_relative_to(other) for other in left_out)
        for label in _inside(os.fsencode(path) + b"\0" + path.read_bytes(), needles)
    ]


def hits_in_shared_folders(needles: Needles, since: float) -> list[str]:
    """Hits in our files that lie openly in folders of all processes, changed after `since`, a time in seconds."""
    found = []
    for folder in SHARED_FOLDERS:
        for path in sorted(folder.iterdir()):
            try:
                state = path.lstat()
                if S_ISREG(state.st_mode) and state.st_ctime >= since and state.st_uid == os.getuid():
                    found += [f"{path}: {label}" for label in _inside(path.read_bytes(), needles)]
            except FileNotFoundError:
                continue  # another process of this machine deleted its own
    return found


def hits_in_open_files(pid: int, needles: Needles, besides: Iterable[Path] = ()) -> list[str]:
    """Hits in files that a process holds open, those without a name included: their blocks are on the disk too."""
    left_out = [path.resolve() for path in besides]
    return [
        f"{target}, held open: {label}"
        for handle, target in _open_files(pid)
        if target not in left_out
        for label in _inside(handle.read_bytes(), needles)
    ]


def _open_files(pid: int) -> Iterator[tuple[Path, Path]]:
    """Each open file of a process that stands still, as a handle that reads it from its beginning, and its path."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for member in family:
        for handle in Path(f"/proc/{member.pid}/fd").iterdir():
            if S_ISREG(handle.stat().st_mode):
                yield handle, handle.readlink()


def _inside(content: bytes, needles: Needles) -> list[str]:
    return [label for label, needle in needles.items() if needle in content]
