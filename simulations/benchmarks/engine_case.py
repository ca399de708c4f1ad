"""One case of `fedseal bench engine`, in a process of its own: some rounds of one engine, and the seconds of each.

Started by `simulations.benchmarks.engine` as `python -m simulations.benchmarks.engine_case ENGINE CLIENTS ROUNDS FILE`;
writes a JSON list to FILE, a pair of wall and CPU seconds for each round. Every client adds a constant to a model of
10,000 float32 values, so that the time is the engine's own: orders out, replies in, checked where the engine checks,
and their mean.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from torch import nn

from clients.account import Account
from federation.layout import Layout
from federation.messages import read_order, write_report
from federation.orders import TrainReport, digest_of_report
from federation.plan import Plan
from federation.plan_settings import CohortSettings, EncryptionSettings, PrivacySettings
from federation.rows import Rows
from federation.site_info import SiteInfo
from federation.task import Task
from privacy.identity import Signer
from privacy.keys import KeyRing
from privacy.ledger import Ledger
from privacy.ledger_rows import MemoryRows
from server.app import server_app
from server.records import Observer, RoundRecord
from server.rounds import Setup
from simulations.engine import InProcessGrid
from simulations.sealed_sites import simulated_budget

PARAMETERS = 10_000
_SIDE, _ADDED = 100, np.float32(0.5)
_WITHOUT_PRIVACY = Plan(privacy=PrivacySettings(unit="none"), encryption=EncryptionSettings(scheme="none"))


def main(engine: str, clients: int, rounds: int) -> list[tuple[float, float]]:
    """Wall seconds, and CPU seconds of this process and its children, of each round on `engine`, one of ENGINES."""
    clock = _Clock()
    ENGINES[engine](clients, rounds, clock)
    return clock.seconds


class _Clock(Observer):
    """Notes when rounds end; the first one begins when the run has its sites."""

    def __init__(self) -> None:
        self._moments: list[tuple[float, float]] = []

    def run_started(self, run: str, plan: Plan, nodes: int) -> None:
        self.tick()

    def round_finished(self, record: RoundRecord) -> None:
        if len(record.answered) != record.cohort:
            raise RuntimeError(f"{len(record.answered)} of {record.cohort} clients answered: {record.refused[:3]}")
        self.tick()

    def tick(self) -> None:
        """A round ends here."""
        self._moments.append((time.perf_counter(), _cpu_seconds()))

    @property
    def seconds(self) -> list[tuple[float, float]]:
        """What lies between the ticks: wall and CPU seconds."""
        pairs = pairwise(self._moments)
        return [(after[0] - before[0], after[1] - before[1]) for before, after in pairs]


def _cpu_seconds() -> float:
    """User and system time that this process and its living descendants have used."""
    here = psutil.Process()
    total = 0.0
    for process in [here, *here.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


class _Square(Task):
    """A model of 10,000 values that nobody trains."""

    def model(self) -> nn.Module:
        return nn.Linear(_SIDE, _SIDE, bias=False)

    def rows(self, site: SiteInfo) -> Rows:
        raise NotImplementedError(f"{site.name} trains nothing")


def adding_client() -> ClientApp:
    """A ClientApp that answers FedSeal's orders as a site does, but adds a constant where a site would train."""
    app = ClientApp()
    layout = Layout.of(_Square().model())
    account_of = lru_cache(maxsize=None)(_account)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        order = read_order(message.content, layout)
        site = f"site-{context.node_config['partition-id']}"
        account = account_of(site)
        reservation = account.reserve(order, _WITHOUT_PRIVACY, "update", None)
        update = (order.vector + _ADDED) - order.vector  # (P,)
        report = TrainReport(
            address=order.address,
            site=site,
            update=update,
            mechanism=None,
            declared_rows=0,
            seeded=False,
            receipt=account.settle(reservation, digest_of_report(order.address, site, update)),
        )
        return Message(write_report(report), reply_to=message)

    return app


def _account(site: str) -> Account:
    """The account of a site that lives in memory and may train without privacy."""
    ledger = Ledger.create(MemoryRows(), KeyRing.throw_away(site), Signer.create(site))
    ledger.set_budget(simulated_budget(_WITHOUT_PRIVACY))
    return Account(ledger=ledger, data=None)


def flower_client() -> ClientApp:
    """The same client as a user of Flower writes it."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:  # noqa: ARG001
        received = message.content.array_records["arrays"]
        added = [values + _ADDED for values in received.to_numpy_ndarrays()]  # (P,)
        content = RecordDict({"arrays": ArrayRecord(added), "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    return app


def _fedseal_server(clients: int, rounds: int, clock: _Clock) -> ServerApp:
    plan = _WITHOUT_PRIVACY.model_copy(update={"rounds": rounds, "cohort": CohortSettings(quorum=clients)})
    setup = Setup(task=_Square(), plan=plan, observers=(clock,))
    return server_app(lambda _: setup)


def _flower_server(clients: int, rounds: int, clock: _Clock) -> ServerApp:
    """Flower's FedAvg; its first round, which waits for Ray to start and is not counted, asks two clients only."""
    app = ServerApp()

    @app.main()
    def start(grid: Grid, context: Context) -> None:  # noqa: ARG001
        strategy = FedAvg(fraction_train=2 / clients, fraction_evaluate=0.0, min_available_nodes=clients)
        first: NDArray[np.float32] = np.zeros(PARAMETERS, np.float32)  # (P,)

        def after_round(number: int, _arrays: ArrayRecord) -> None:
            clock.tick()
            if number == 1:
                strategy.fraction_train = 1.0

        strategy.start(grid, ArrayRecord([first]), num_rounds=rounds, evaluate_fn=after_round)

    return app


def _in_process(clients: int, rounds: int, clock: _Clock) -> None:
    grid = InProcessGrid(adding_client(), clients, lambda index: {"partition-id": index}, {})
    context = Context(run_id=grid.run.run_id, node_id=0, node_config={}, state=RecordDict(), run_config={})
    _fedseal_server(clients, rounds, clock)(grid, context)


def _on_ray(clients: int, rounds: int, clock: _Clock) -> None:
    from flwr.simulation import run_simulation  # warns when it is imported without Ray

    run_simulation(
        server_app=_flower_server(clients, rounds, clock),
        client_app=flower_client(),
        num_supernodes=clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},  # an actor a core, Flower's best here
    )


ENGINES: dict[str, Callable[[int, int, _Clock], None]] = {
    "fedseal": _in_process,
    "ray-fedavg": _on_ray,
}


if __name__ == "__main__":
    _, name, wanted_clients, wanted_rounds, path = sys.argv
    logging.getLogger("flwr").setLevel(logging.WARNING)
    Path(path).write_text(json.dumps(main(name, int(wanted_clients), int(wanted_rounds))), encoding="utf-8")
