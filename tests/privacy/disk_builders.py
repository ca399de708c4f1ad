"""A tape of what a program did to the disk, and from it all that a power failure may legally leave behind.

The model is that of Pillai et al., OSDI 2014: what was not synced may be there, absent, cut at any byte, zeros or
garbage; a name that was not synced may lead to the old file or the new one.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass(slots=True)
class Act:
    """One call to the system: `open`, `write`, `fsync`, `close` or `replace`, on a file or a folder."""

    name: str
    path: Path
    data: bytes = b""
    target: Path | None = None


def never(act: Act) -> None:
    """The disk works."""


def nth(name: str, number: int, code: int) -> Callable[[Act], OSError | None]:
    """The disk fails at the n-th act of that name, and at every later one."""
    seen = 0

    def failing(act: Act) -> OSError | None:
        nonlocal seen
        seen += act.name == name
        return OSError(code, os.strerror(code)) if act.name == name and seen > number else None

    return failing


@dataclass(slots=True)
class Tape:
    """Records the acts on the disk, and lets any of them fail."""

    acts: list[Act] = field(default_factory=list)
    failing: Callable[[Act], OSError | None] = never

    def names(self) -> list[str]:
        return [act.name for act in self.acts]


def recorded(monkeypatch: pytest.MonkeyPatch) -> Tape:
    """A tape of what happens on the disk from now on."""
    tape = Tape()
    paths: dict[int, Path] = {}
    real = {name: getattr(os, name) for name in ("open", "write", "fsync", "close", "replace")}

    def note(act: Act) -> None:
        tape.acts.append(act)
        if error := tape.failing(act):
            raise error

    def open_(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        handle = real["open"](path, flags, *rest, **options)
        if flags & os.O_CREAT or flags & os.O_DIRECTORY:
            paths[handle] = Path(path)
            note(Act("open", Path(path)))
        return handle

    def write(handle: int, data: Any) -> int:
        if handle in paths:
            note(Act("write", paths[handle], bytes(data)))
        return real["write"](handle, data)

    def fsync(handle: int) -> None:
        note(Act("fsync", paths[handle]))
        real["fsync"](handle)

    def close(handle: int) -> None:
        if handle in paths:
            note(Act("close", paths.pop(handle)))
        real["close"](handle)

    def replace(source: Any, target: Any) -> None:
        note(Act("replace", Path(source), target=Path(target)))
        real["replace"](source, target)

    for name, act in {"open": open_, "write": write, "fsync": fsync, "close": close, "replace": replace}.items():
        monkeypatch.setattr(os, name, act)
    return tape


def survivors(writes: list[bytes], synced: int) -> Iterator[bytes]:
    """Everything that a power failure may leave of a file, of whose writes the first `synced` were synced."""
    safe, rest = b"".join(writes[:synced]), b"".join(writes[synced:])
    for length in range(len(rest) + 1):
        yield safe + rest[:length]  # absent, cut at each byte, whole
    yield safe + bytes(len(rest))
    yield safe + bytes(byte ^ 0x5A for byte in rest)
    for lost in range(synced, len(writes)):  # the system may write back one page and not another
        yield b"".join(bytes(len(each)) if number == lost else each for number, each in enumerate(writes))


def after_power_failure(acts: list[Act], target: Path, old: bytes | None) -> set[bytes | None]:
    """Everything that `target` may hold (None: no such file) after a power failure right after these acts."""
    writes: dict[Path, list[bytes]] = defaultdict(list)
    synced: dict[Path, int] = defaultdict(int)
    entries: list[tuple[bool, Path | None]] = [(True, None)]  # what the name may lead to: the old file, then drafts
    for act in acts:
        match act.name:
            case "write":
                writes[act.path].append(act.data)
                if act.path == target:
                    entries.append((True, target))
            case "fsync" if act.path == target.parent:
                entries = entries[-1:]
            case "fsync":
                synced[act.path] = len(writes[act.path])
            case "replace" if act.target == target:
                entries.append((True, act.path))
    found: set[bytes | None] = set()
    for _, draft in entries:
        found.update([old] if draft is None else survivors(writes[draft], synced[draft]))
    return found


def without(acts: list[Act], position: int) -> list[Act]:
    return acts[:position] + acts[position + 1 :]


def prefixes(acts: list[Act]) -> Iterator[list[Act]]:
    return (acts[:length] for length in range(len(acts) + 1))
