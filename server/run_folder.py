"""What a run writes: `run.json`, `rounds.jsonl`, `report.html` and a sealed `vault/` in one folder of its own.

Rounds are appended as they end, so a killed run leaves every round that it finished. Models are written sealed, in
`vault/`; `model.safetensors` is written in the clear only where the run was asked to export it.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch

from federation.checkpoints import Checkpoint, keep, notes_of
from federation.layout import Layout
from federation.machine import machine, versions
from federation.model_files import write_safetensors
from federation.optimizers import ModelState
from federation.plan import Plan
from federation.promise import round_mechanism
from privacy.accountant import accountant_name
from privacy.passphrases import nobody_to_ask
from privacy.report import write_report
from privacy.safe import Safe
from privacy.unlocking import KeyFileSettings
from server.records import Observer, RoundRecord, RunResult


class RunFolder(Observer):
    """Writes a run into `parent/<time>-<name>/`, with `parent/latest` pointing there.

    key_file: what locks the run's models; None throws the key away with this process, so that nobody opens them again
    export:   whether the last model is also written in the clear, as model.safetensors
    """

    def __init__(
        self, parent: Path, *, simulation_seed: int | None, key_file: Path | None = None, export: bool = False
    ) -> None:
        self._parent = parent
        self._simulation_seed = simulation_seed
        self._key_file = key_file
        self._export = export
        self._facts: dict[str, object] = {}
        self._plan, self._run = Plan(), ""
        self._statistics: tuple[float, ...] = ()
        self._safe: Safe | None = None
        self.path = parent

    @contextmanager
    def claimed(self, plan: Plan) -> Iterator[Path]:
        """The run's folder before the run starts; if the block fails before it does, the folder goes."""
        self._claim(plan, datetime.now(UTC))
        try:
            yield self.path
        except BaseException:
            if not self._facts:
                shutil.rmtree(self.path)
            raise

    def _claim(self, plan: Plan, time: datetime) -> None:
        if self.path == self._parent:
            self.path = _fresh_folder(self._parent, f"{time:%Y%m%d-%H%M%S}-{plan.name}")

    def run_started(self, run: str, plan: Plan, nodes: int) -> None:
        started = datetime.now(UTC)
        key_file = KeyFileSettings(path=self._key_file.resolve()) if self._key_file else None
        self._claim(plan, started)
        _point_latest(self._parent, self.path)
        self._facts = {
            "run": run,
            "started": started.isoformat(timespec="seconds"),
            "plan": plan.model_dump(),
            "plan_hash": plan.digest,
            "sites_online": nodes,
            "versions": versions(),
            "machine": machine(),
            "seeds": {"plan": plan.seed, "simulation": self._simulation_seed},
            "accountant": accountant_name() if plan.is_private else None,
            "mechanism_of_a_round": round_mechanism(plan).facts() if plan.is_private else None,
            "models": {
                "sealed_in": "vault",
                "locked_by": "key file" if key_file else "a key that was thrown away",
                "exported_in_the_clear": "model.safetensors" if self._export else None,
            },
        }
        self._plan, self._run = plan, run
        self._write_facts()
        vault = self.path / "vault"
        if key_file is None:
            self._safe = Safe.throw_away(vault, plan.name)
        else:
            self._safe = Safe.create(vault, plan.name, key_file, nobody_to_ask)

    def statistics_gathered(self, values: tuple[float, ...]) -> None:
        self._statistics = values
        self._facts |= {"statistics": values}
        self._write_facts()

    def model_advanced(self, round_number: int, layout: Layout, state: ModelState) -> None:
        assert self._safe is not None, "a run starts before its model advances"
        moments = {"vector": state.vector, "first": state.first, "second": state.second}
        checkpoint = Checkpoint(
            model=layout.named(state.average),
            state={name: torch.from_numpy(vector) for name, vector in moments.items()},
            notes=notes_of(self._plan, self._run, round_number, self._statistics),
        )
        with self._safe.changing() as vault:
            keep(vault, self._safe.name, round_number, checkpoint)

    def round_finished(self, record: RoundRecord) -> None:
        with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(_finite(record.as_json())) + "\n")

    def run_finished(self, result: RunResult) -> None:
        self._facts |= {
            "ended": result.ended,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "totals": {
                "rounds": len(result.rounds),
                "seconds": sum(sum(record.seconds.values()) for record in result.rounds),
                "bytes_down": sum(record.bytes_down for record in result.rounds),
                "bytes_up": sum(record.bytes_up for record in result.rounds),
                "parameters": result.layout.length,
            },
            "sites": [
                {name: getattr(site, name) for name in ("site", "rounds", "refusals", "declared_rows", "epsilon")}
                for site in result.sites
            ],
        }
        self._write_facts()
        if self._export:
            notes = notes_of(self._plan, self._run, len(result.rounds), self._statistics)
            write_safetensors(self.path / "model.safetensors", result.tensors(), notes)
        write_report(self.path)

    def _write_facts(self) -> None:
        text = json.dumps(_finite(self._facts), indent=2, ensure_ascii=False)
        (self.path / "run.json").write_text(text + "\n", encoding="utf-8")


def _fresh_folder(parent: Path, name: str) -> Path:
    for number in range(1, 1000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise RuntimeError(f"{parent} holds a thousand runs of the name {name}")


def _point_latest(parent: Path, folder: Path) -> None:
    latest = parent / "latest"
    if latest.is_symlink():
        latest.unlink()
    if not latest.exists():
        latest.symlink_to(folder.name)


def _finite(value: object) -> object:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
