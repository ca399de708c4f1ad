"""A real federation on this machine: a SuperLink over TLS, SuperNodes that prove who they are, and the `flwr` command.

Every process has a home, a log file and a session of its own, and is stopped with all its children. Nothing waits for a
fixed time: each wait polls for an event until a deadline, and says what the processes wrote when it passes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
from federation_certificates import write_certificates, write_node_key

from privacy.key_stores import KeyFileStore

_PROGRAMS = Path(sys.executable).parent
_POLL_SECONDS = 0.1
_START_SECONDS = 120.0
_LOG_TAIL = 6000


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A run that is over: Flower's status of it, and what `flwr run --stream` showed."""

    status: str
    shown: str


@dataclass(slots=True, kw_only=True)
class FederationProcesses:
    """The processes of one federation; a context manager that leaves none behind.

    folder:  holds every file of theirs
    sites:   `--node-config` of each SuperNode
    runs:    where the server's app writes its runs
    server:  the server's safe, locked by a key file; None: it runs plans in the clear only
    """

    folder: Path
    sites: Sequence[Mapping[str, str | int]]
    server: Path | None = None
    _port: int = 0
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _logs: ExitStack = field(default_factory=ExitStack)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def key_file(self) -> Path:
        """What locks the models that the server keeps."""
        return self.folder / "keys" / "server.key"

    def __enter__(self) -> FederationProcesses:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def submit(self, app: Path, seconds: float) -> FinishedRun:
        """`flwr run APP`, until the run is over."""
        shown = self._flwr("run", str(app), "link", "--stream", seconds=seconds)
        newest = json.loads(self._flwr("ls", "link", "--limit", "1", "--format", "json", seconds=_START_SECONDS))[
            "runs"
        ][0]
        return FinishedRun(status=newest["status"], shown=shown)

    def log(self, name: str) -> str:
        """All that a process and its children have written so far: "superlink", "supernode-0"."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def log_tails(self) -> str:
        """The ends of all logs, to be read when a test fails."""
        return "\n".join(
            f"===== {path.name}\n{path.read_text(encoding='utf-8', errors='replace')[-_LOG_TAIL:]}"
            for path in sorted(self.folder.glob("*.log"))
        )

    def server_processes(self) -> list[psutil.Process]:
        """The SuperLink, and whatever it has started: the server's app among them."""
        return _family(self._running["superlink"].pid)

    @contextmanager
    def submitted(self, app: Path, seconds: float) -> Iterator[Callable[[], FinishedRun]]:
        """`flwr run APP` beside what the block does; the value waits for the run's end."""
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self.submit, app, seconds)
            yield running.result

    def stop(self) -> None:
        """Stops every process and its children, whatever state they are in."""
        families = [_family(process.pid) for process in self._running.values()]
        for process in self._running.values():
            _signal(process.pid, signal.SIGTERM)
        _, stubborn = psutil.wait_procs([member for family in families for member in family], timeout=3)
        for member in stubborn:
            _signal(member.pid, signal.SIGKILL)
        for process in self._running.values():
            process.wait(timeout=10)
        self._running.clear()
        self._logs.close()

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        KeyFileStore.create(self.key_file)
        self._port, *node_ports = _free_ports(1 + len(self.sites))
        write_certificates(self.folder)
        self._write_connection()
        authority, server = self.folder / "ca.crt", self.folder / "server"
        self._spawn(
            "superlink",
            *("flower-superlink", "--host", "127.0.0.1", "--port", str(self._port)),
            *("--ssl-ca-certfile", str(authority), "--ssl-certfile", f"{server}.crt", "--ssl-keyfile", f"{server}.key"),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        )
        self._wait_for(self._healthy, "the SuperLink's health page", seconds=_START_SECONDS)
        for index in range(len(self.sites)):
            write_node_key(self.folder / f"node-{index}")
            self._flwr("supernode", "register", str(self.folder / f"node-{index}.pub"), "link", seconds=_START_SECONDS)
        for index, (site, port) in enumerate(zip(self.sites, node_ports, strict=True)):
            self._spawn(
                f"supernode-{index}",
                *("flower-supernode", "--superlink", f"127.0.0.1:{self._port}", "--root-certificates", str(authority)),
                *("--auth-supernode-private-key", str(self.folder / f"node-{index}")),
                *("--host", "127.0.0.1", "--port", str(port), "--node-config", _node_config(site)),
            )
        for index in range(len(self.sites)):
            self._wait_for(partial(self._online, index), f"site {index}", seconds=_START_SECONDS)

    def _spawn(self, name: str, program: str, *arguments: str) -> None:
        output = self._logs.enter_context((self.folder / f"{name}.log").open("wb"))
        self._running[name] = subprocess.Popen(
            [_PROGRAMS / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=self._home(name),
            env=self._environment(name),
            start_new_session=True,
        )

    def _flwr(self, *arguments: str, seconds: float) -> str:
        """Runs the `flwr` command to its end and returns what it printed."""
        name = f"flwr-{arguments[0]}"
        self._spawn(name, "flwr", *arguments)
        process = self._running[name]
        try:
            self._wait_for(lambda: process.poll() is not None, f"flwr {' '.join(arguments)}", seconds)
        finally:
            process.kill()
            process.wait()
            del self._running[name]
        if process.returncode:
            raise AssertionError(f"flwr {' '.join(arguments)} exits with {process.returncode}\n{self.log_tails()}")
        return self.log(name)

    def _wait_for(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not condition():
            for name, process in self._running.items():
                if process.poll() and not name.startswith("flwr"):
                    raise AssertionError(f"{name} exits with {process.returncode}\n{self.log_tails()}")
            if time.monotonic() > until:
                raise AssertionError(f"{what}: not there after {seconds:g} s\n{self.log_tails()}")
            time.sleep(_POLL_SECONDS)

    def _healthy(self) -> bool:
        trusted = ssl.create_default_context(cafile=self.folder / "ca.crt")
        trusted.verify_flags |= ssl.VERIFY_X509_STRICT
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
        )
        try:
            with direct.open(f"https://127.0.0.1:{self._port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def _online(self, index: int) -> bool:
        return "SuperNode ID:" in self.log(f"supernode-{index}")

    def _write_connection(self) -> None:
        """What `flwr` knows of the SuperLink."""
        (self._home("flwr-run") / "config.toml").write_text(
            f'[superlink]\ndefault = "link"\n\n[superlink.link]\naddress = "127.0.0.1:{self._port}"\n'
            f'root-certificates = "{self.folder / "ca.crt"}"\n',
            encoding="utf-8",
        )

    def _home(self, name: str) -> Path:
        """Where a process keeps its Flower files; all `flwr` commands share one."""
        home = self.folder / ("home-flwr" if name.startswith("flwr-") else f"home-{name}")
        home.mkdir(exist_ok=True)
        return home

    def _environment(self, name: str) -> dict[str, str]:
        home = str(self._home(name))
        return {
            "PATH": os.pathsep.join((str(_PROGRAMS), os.environ.get("PATH", os.defpath))),
            "HOME": home,
            "FLWR_HOME": home,
            "FEDSEAL_RUNS": str(self.runs),
            "FEDSEAL_KEY_FILE": str(self.key_file),
            **({"FEDSEAL_SERVER": str(self.server)} if self.server else {}),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "LANG": "C.UTF-8",
            "COLUMNS": "200",
        }


def _node_config(values: Mapping[str, str | int]) -> str:
    """Flower reads each value as TOML: text in double quotes, without spaces around the equals sign."""
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody uses now; held all at once, so that they differ."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in held:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in held]


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
