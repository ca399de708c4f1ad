"""A desk with marked records and an app with a marked model, where real `fedseal` commands run, and are killed.

A command is stopped (SIGSTOP) as soon as the awaited thing is seen. If it is still there then, the command is searched
and killed as it stands, else it goes on: a kill hits its instant, however fast the machine is.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import disk_search
import psutil

from privacy.key_stores import KeyFileStore
from privacy.keys import KeyRing

_FEDSEAL = Path(sys.executable).parent / "fedseal"
_POLL_SECONDS = 0.005
_DEADLINE_SECONDS = 120.0
_STOP_SECONDS = 10.0

_PROJECT = """
[project]
name = "marked"
version = "0.1.0"

[tool.flwr.app.config]
task = "task:task"
name = "marked"

[tool.flwr.app.config.privacy]
epsilon = 100.0
delta = 1e-3
noise_multiplier = 20.0
"""

_TASK = """
import json
import os

import torch
from torch import nn

from federation import Task
from federation.tables import read_table


class Marked(Task):
    def rows(self, site):
        return read_table(site.data_folder / "records.csv", label="outcome", columns=("a", "b", "c", "d", "e"))

    def model(self):
        model = nn.Sequential(nn.Linear(5, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))
        marks = torch.tensor(json.loads(os.environ["MARKED_WEIGHTS"]))
        with torch.no_grad():
            for parameter in model.parameters():
                count = parameter.numel()
                parameter.copy_(marks.repeat(count // len(marks) + 1)[:count].reshape(parameter.shape))
        return model


task = Marked()
"""


@dataclass(kw_only=True)
class Desk:
    """Everything of one test: `source` holds the records in the clear, `key` is on another volume, `work` is searched.

    seed: of all marks; a test draws its own, so that it finds nothing that another left
    """

    folder: Path
    seed: int
    began: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        for folder in (self.source, self.work, self.home, self.temporary):
            folder.mkdir(parents=True)
        KeyFileStore.create(self.key)
        self.cells = disk_search.improbable_values(self.seed, 4)
        self.weights = disk_search.improbable_values(self.seed + 1, 8)
        self.person = f"Mustermann-{self.seed}"

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def key(self) -> Path:
        return self.folder / "usb" / "key"

    @property
    def work(self) -> Path:
        """Where commands run."""
        return self.folder / "work"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def temporary(self) -> Path:
        return self.folder / "temporary"

    @property
    def site(self) -> Path:
        return self.work / "north"

    @property
    def app(self) -> Path:
        return self.folder / "app"

    @property
    def run(self) -> Path:
        return self.work / "runs" / "latest"

    def write_records(self, name: str, count: int) -> Path:
        """A table in which every record has the marked cells, a cell and a unit of its own."""
        cells = ",".join(map(repr, self.cells))
        path = self.source / name
        lines = [f"{self.person}-{number},{cells},{number / 64},{number % 2}\n" for number in range(count)]
        path.write_text("patient_id,a,b,c,d,e,outcome\n" + "".join(lines), encoding="utf-8")
        return path

    def write_app(self, hidden: int) -> None:
        """A model of 8 hidden + 2 weights, all of them marked; no file of the app holds a mark."""
        self.app.mkdir()
        (self.app / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
        (self.app / "task.py").write_text(_TASK.replace("HIDDEN", str(hidden)), encoding="utf-8")

    def needles(self) -> dict[str, bytes]:
        """The marks, the key of the key file, and how every entry of a ledger says its kind."""
        found = {
            **disk_search.values_in_any_form("record", self.cells),
            **disk_search.text_in_any_form("unit", self.person),
            **disk_search.values_in_any_form("weight", self.weights),
            **disk_search.key_in_any_form("key file", base64.b64decode(self.key.read_bytes().split()[1])),
        }
        for kind in ("open", "data", "budget", "reserve", "settle"):
            found |= disk_search.text_in_any_form(f"ledger's {kind}", f'"kind":"{kind}"')
        for place, cell in enumerate(self.cells):
            found |= disk_search.repeated_in_any_form(f"cell {place}", cell)
        return found

    def found(self, more: disk_search.Needles | None = None) -> list[str]:
        """What lies in the clear below the desk, source and key file left out, or in folders of all processes."""
        needles = {**self.needles(), **(more or {})}
        below = disk_search.hits_below(self.folder, needles, besides=(self.source, self.key))
        return below + disk_search.hits_in_shared_folders(needles, self.began)

    def fedseal(self, *arguments: str | Path) -> str:
        """Runs the command to its end, which must be good; returns what it printed."""
        with self.started(*arguments) as command:
            code = command.process.wait(_DEADLINE_SECONDS)
        assert code == 0, f"{arguments} exits with {code}: {command.shown()}"
        return command.shown()

    @contextmanager
    def started(self, *arguments: str | Path) -> Iterator[Command]:
        """The command in a session of its own; killed, with all its children, when the block ends."""
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [_FEDSEAL, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.work,
                env=self._environment(),
                start_new_session=True,
            )
            command = Command(process=process, desk=self, log=log)
            try:
                yield command
            finally:
                command.kill()

    def simulation(self, *more: str | Path) -> tuple[str | Path, ...]:
        """A private simulation of three sites, whose models stay openable."""
        data = ("--data", self.source, "--sites", "3", "--key-file", self.key)
        return ("simulate", self.app, *data, *(more or ("--no-export",)))

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.pathsep.join((str(_FEDSEAL.parent), os.environ.get("PATH", os.defpath))),
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "MARKED_WEIGHTS": repr(self.weights),
            "OMP_NUM_THREADS": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "LANG": "C.UTF-8",
            "COLUMNS": "200",
        }


@dataclass(kw_only=True)
class Command:
    """A `fedseal` command that runs."""

    process: subprocess.Popen[bytes]
    desk: Desk
    log: Path

    def stop_at(self, event: Callable[[], bool], what: str) -> None:
        """Stops the process while `event` is true."""
        until = time.monotonic() + _DEADLINE_SECONDS
        while not (event() and self._stopped() and event()):
            assert self.process.poll() is None, f"the command ended before {what}: {self.shown()}"
            assert time.monotonic() < until, f"{what}: not seen within {_DEADLINE_SECONDS:g} s: {self.shown()}"
            os.killpg(self.process.pid, signal.SIGCONT)
            time.sleep(_POLL_SECONDS)

    def found_open(self) -> list[str]:
        """What the stopped process holds in the clear in open files, those without a name included."""
        return disk_search.hits_in_open_files(self.process.pid, self.desk.needles(), besides=self.desk.source.iterdir())

    def kill(self) -> None:
        """`kill -9` to the process and its children."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(_DEADLINE_SECONDS)

    def _stopped(self) -> bool:
        """Stops the process; False where it has ended, or a system call outlasts the wait (a sync of the disk)."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        until = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < until:
            status = psutil.Process(self.process.pid).status()
            if status in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                return bool(status == psutil.STATUS_STOPPED)
            time.sleep(_POLL_SECONDS)
        return False

    def holds_open(self, path: Path) -> bool:
        with suppress(psutil.Error):  # it may end meanwhile
            return any(Path(opened.path) == path for opened in psutil.Process(self.process.pid).open_files())
        return False

    def shown(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def keys_of(ring: KeyRing) -> dict[str, bytes]:
    """Every living key of a keyring, in the forms in which keys are written."""
    found: dict[str, bytes] = {}
    for number in [number for scope in ring.scopes() for number in ring.living(scope)]:
        found |= disk_search.key_in_any_form(f"epoch key {number}", ring.key(number).reveal())
    return found
