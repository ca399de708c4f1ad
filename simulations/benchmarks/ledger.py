"""`fedseal bench ledger`: what it costs to reserve and settle a round durably, to replay, and to prove.

The baseline of the same run is two bare commits of SQLite with the same durability (WAL, synchronous=FULL) on the same
disk; cases take turns. Then eight processes spend from one budget that covers exactly so many releases: each must be
granted once, and no more than those.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

from privacy.accountant import epsilon
from privacy.entries import BudgetSet, Reserved
from privacy.errors import BudgetExhausted
from privacy.key_stores import KeyFileStore
from privacy.ledger import Ledger, now
from privacy.mechanism import Mechanism
from privacy.passphrases import nobody_to_ask
from privacy.receipts import Receipt, judged
from privacy.safe import Safe
from privacy.unlocking import KeyFileSettings
from simulations.benchmarks.harness import Figure, Findings, Goal

_DELTA = 1e-5
_NOISE = Mechanism(noise_multiplier=50.0, sample_rate=1.0, steps=1, max_grad_norm=1.0)
_PROCESSES = 8
_REPLAYED = 20_000


@dataclass(slots=True, kw_only=True)
class _Case:
    """One way to do one thing, and how long it took each time, in seconds."""

    name: str
    act: Callable[[int], object]
    seconds: list[float] = field(default_factory=list)

    def time(self, number: int) -> None:
        start = time.perf_counter()
        self.act(number)
        self.seconds.append(time.perf_counter() - start)

    @property
    def median_ms(self) -> float:
        return 1e3 * median(self.seconds)

    @property
    def p99_ms(self) -> float:
        return 1e3 * quantiles(self.seconds, n=100)[-1]

    def row(self) -> dict[str, Figure]:
        return {
            "name": self.name,
            "median_ms": self.median_ms,
            "p99_ms": self.p99_ms,
            "repetitions": len(self.seconds),
        }


def ledger(quick: bool) -> Findings:
    """Measures 1,000 rounds (200 with `quick`), a replay, receipts, and eight processes on one budget."""
    with TemporaryDirectory(prefix="fedseal-bench-") as name:
        folder = Path(name)
        KeyFileStore.create(folder / "keys" / "bench.key")
        cases = _cases(folder)
        for number in range(1, 201 if quick else 1001):
            for case in cases.values():
                case.time(number)
        entries, replay = _replay(folder, 4_000 if quick else _REPLAYED)
        granted, gaps, wall = _race(folder, 40 if quick else 250)
    wanted = _PROCESSES // 2 * (40 if quick else 250)
    rows: list[Mapping[str, Figure]] = [case.row() for case in cases.values()]
    rows.append({"name": f"replay and verify {entries:,} entries", "median_ms": 1e3 * replay, "repetitions": 5})
    rows.append(
        {"name": f"{_PROCESSES} processes on a budget for {wanted:,}", "granted": granted, "gaps": gaps, "s": wall}
    )
    file, bare = cases["file"], cases["bare"]
    return Findings(
        benchmark="ledger",
        rows=rows,
        goals={
            "reserve + settle, median ms": Goal(value=file.median_ms, reach="<= 10"),
            "reserve + settle, p99 ms": Goal(value=file.p99_ms, reach="<= 50"),
            "reserve + settle / two bare commits": Goal(value=file.median_ms / bare.median_ms, reach="<= 10"),
            "replay and verify 20,000 entries, s": Goal(value=replay * _REPLAYED / entries, reach="<= 1"),
            "granted / covered": Goal(value=granted / wanted, reach="<= 1"),
            "covered / granted": Goal(value=wanted / max(granted, 1), reach="<= 1"),
            "gaps": Goal(value=gaps, reach="<= 0"),
        },
    )


def _cases(folder: Path) -> dict[str, _Case]:
    file = _safe(folder, "file")
    anchored = _safe(folder, "anchored")
    anchored.anchor_at(folder / "elsewhere" / "anchor")
    memory = Safe.throw_away(folder / "memory", "memory")
    memory.ledger().set_budget(_budget(1e6))
    receipts: dict[int, Receipt] = {}
    shown = file.ledger()

    def receipt(number: int) -> None:
        receipts[0] = shown.receipt(str(number), len(shown.entries()) - 2)

    return {
        "bare": _Case(name="two bare commits of SQLite", act=_bare_commits(folder / "bare.db")),
        "file": _Case(name="reserve + settle", act=_round_on(file.ledger())),
        "anchored": _Case(name="reserve + settle, with an anchor", act=_round_on(anchored.ledger())),
        "memory": _Case(name="reserve + settle in memory (simulations)", act=_round_on(memory.ledger())),
        "receipt": _Case(name="a round's receipt, made", act=receipt),
        "judged": _Case(name="a round's receipt, judged", act=lambda _: judged(receipts[0], None)),
    }


def _round_on(ledger: Ledger) -> Callable[[int], None]:
    def act(number: int) -> None:
        ledger.settle(ledger.reserve(_asked(number, str(number))), bytes(32))

    return act


def _bare_commits(path: Path) -> Callable[[int], None]:
    connection = sqlite3.connect(path, isolation_level=None)
    for text in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "CREATE TABLE entry (sealed BLOB)"):
        connection.execute(text)

    def act(_: int) -> None:
        for _ in range(2):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO entry VALUES (?)", (os.urandom(600),))
            connection.execute("COMMIT")

    return act


def _replay(folder: Path, entries: int) -> tuple[int, float]:
    """Replays a ledger of about so many entries; returns how many, and the median seconds of five times."""
    safe = _safe(folder, "long")
    act = _round_on(safe.ledger())
    for number in range(1, entries // 2):
        act(number)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        count = len(safe.ledger().entries())
        times.append(time.perf_counter() - start)
    return count, median(times)


def _race(folder: Path, each: int) -> tuple[int, int, float]:
    """Processes that together ask for twice what a budget covers; returns granted, gaps in the numbers, seconds."""
    covered = _PROCESSES * each // 2
    costs = [epsilon([_NOISE] * count, _DELTA) for count in (covered, covered + 1)]
    safe = _safe(folder, "race")
    safe.ledger().set_budget(_budget(sum(costs) / 2))
    context = get_context("spawn")
    start = time.perf_counter()
    with context.Pool(_PROCESSES) as pool:
        granted = pool.starmap(_spend, [(str(safe.folder), worker, each) for worker in range(_PROCESSES)])
    wall = time.perf_counter() - start
    reserves = [entry for entry in safe.ledger().entries() if isinstance(entry, Reserved)]
    with closing(sqlite3.connect(safe.folder / "ledger.db")) as connection:
        numbers = [row[0] for row in connection.execute("SELECT i FROM entry ORDER BY i")]
    gaps = len(set(range(len(numbers))) ^ set(numbers)) + abs(len(reserves) - sum(granted))
    return sum(granted), gaps, wall


def _spend(folder: str, worker: int, times: int) -> int:
    """How many of so many releases were granted."""
    ledger = Safe.unlock(Path(folder), nobody_to_ask).ledger()
    granted = 0
    for number in range(1, times + 1):
        try:
            ledger.reserve(_asked(number, f"worker-{worker}"))
        except BudgetExhausted:
            continue
        granted += 1
    return granted


def _safe(folder: Path, name: str) -> Safe:
    safe = Safe.create(folder / name, name, KeyFileSettings(path=folder / "keys" / "bench.key"), nobody_to_ask)
    safe.ledger().set_budget(_budget(1e6))
    return safe


def _budget(limit: float) -> BudgetSet:
    return BudgetSet(
        time=now(), account=None, epsilon=limit, delta=_DELTA, per_run=None, per_round=None, allow=["record"]
    )


def _asked(number: int, run: str) -> Reserved:
    return Reserved(
        time=now(),
        account="a" * 64,
        run=run,
        round=number,
        plan="b" * 64,
        purpose="update",
        mechanism=_NOISE,
        witnessed="c" * 64,
    )
