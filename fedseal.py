"""The command `fedseal`: mounts each folder's commands; errors meant for people become one line and exit code 1."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from clients import certificate_commands
from clients.commands import site_commands
from clients.ledger_commands import ledger_commands
from federation.authority_commands import authority_commands
from federation.commands import new, plan_commands
from federation.key_commands import key_commands
from federation.model_commands import model_commands
from privacy.errors import FedSealError
from privacy.process import forbid_core_dumps
from server.commands import server_commands
from simulations.commands import bench, scenarios, simulate

app = typer.Typer(
    name="fedseal",
    help="Train one PyTorch model across sites that may not show each other their records, and know what it cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `fedseal simulate`: eight hospitals train together in this process, in seconds.",
)
app.command()(simulate)
app.command()(scenarios)
app.command()(new)
app.add_typer(plan_commands, name="plan")
site_commands.command()(certificate_commands.request)
site_commands.command()(certificate_commands.certify)
app.add_typer(site_commands, name="site")
app.add_typer(ledger_commands, name="ledger")
app.add_typer(server_commands, name="server")
app.add_typer(authority_commands, name="authority")
app.add_typer(key_commands, name="key")
app.add_typer(model_commands, name="model")
app.command()(bench)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedseal {version('fedseal')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Nothing is done before a command is named; the help text above is the app's."""


def main() -> None:
    """Runs the command line."""
    forbid_core_dumps()
    try:
        app()
    except FedSealError as error:
        typer.secho(f"fedseal: {error}", fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.secho("fedseal: interrupted; what was finished is kept", fg="red", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
