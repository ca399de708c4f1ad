"""Flower's ServerApp: reads the plan from the run config and runs its rounds.

`app` is what Flower loads in deployments. It writes the run into `$FEDSEAL_RUNS`, or `runs/` of the working directory,
its models sealed by the key file `$FEDSEAL_KEY_FILE`. Orders of encrypted runs are signed by the identity in the safe
`$FEDSEAL_SERVER`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from federation.credentials import Credentials
from federation.plan import Plan
from federation.reading import read_plan
from federation.task import load_task
from privacy.certified import certificate_of
from privacy.errors import RunFailed
from privacy.passphrases import from_file, nobody_to_ask
from privacy.process import forbid_core_dumps
from privacy.safe import Safe
from server.records import Observer, RoundRecord, RunResult
from server.rounds import Setup, run_rounds
from server.run_folder import RunFolder
from server.witness import Witness

_LOG = logging.getLogger("flwr.fedseal")  # Flower shows, and gives `flwr log`, what is below its own logger


def server_app(setup_of: Callable[[Context], Setup]) -> ServerApp:
    """A ServerApp that runs what `setup_of` finds in the context."""
    made = ServerApp()

    @made.main()
    def main(grid: Grid, context: Context) -> None:
        run_rounds(grid, setup_of(context))

    return made


def setup_from_context(context: Context) -> Setup:
    """The run that Flower's run config describes."""
    forbid_core_dumps()
    plan = read_plan(context.run_config)
    key_file = os.environ.get("FEDSEAL_KEY_FILE")
    if not key_file:
        raise RunFailed(
            "this server has no key for the models that it keeps: make one with `fedseal key new FILE`, on another "
            "volume than the runs, and start the server with FEDSEAL_KEY_FILE=FILE"
        )
    runs = Path(os.environ.get("FEDSEAL_RUNS", "runs"))
    folder = RunFolder(runs, simulation_seed=None, key_file=Path(key_file))
    witness = Witness(path=runs / "ledgers.json")
    return Setup(
        task=load_task(plan.task),
        plan=plan,
        observers=(folder, LogLines()),
        witness=witness,
        credentials=_credentials() if plan.is_encrypted else None,
    )


def _credentials() -> Credentials | None:
    """Who this server is, from the safe that FEDSEAL_SERVER names; its passphrase is in FEDSEAL_SERVER_PASSPHRASE_FILE.

    Raises:
        KeyRefused, IdentityRefused: the safe does not unlock, or was never certified.
    """
    folder, passphrase = os.environ.get("FEDSEAL_SERVER"), os.environ.get("FEDSEAL_SERVER_PASSPHRASE_FILE")
    if not folder:
        return None
    safe = Safe.unlock(Path(folder), from_file(Path(passphrase)) if passphrase else nobody_to_ask)
    certificate, trust = certificate_of(safe)
    return Credentials(identity=safe.identity(), certificate=certificate, trust=trust)


class LogLines(Observer):
    """One log line an event."""

    def run_started(self, run: str, plan: Plan, nodes: int) -> None:
        _LOG.info("run started run=%s plan=%s sites=%d", run, plan.digest, nodes)

    def round_finished(self, record: RoundRecord) -> None:
        _LOG.info("round finished round=%d answered=%d of=%d", record.round, len(record.answered), record.cohort)
        for refused in record.refused:
            _LOG.warning("refused site=%s error=%s reason=%s", refused.site, refused.error, refused.reason)

    def run_finished(self, result: RunResult) -> None:
        _LOG.info("run finished rounds=%d ended=%s", len(result.rounds), result.ended)


app = server_app(setup_from_context)
