"""`fedseal key new`: the key file that locks a safe or the models of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from privacy.key_stores import KeyFileStore

key_commands = typer.Typer(help="Make key files.", no_args_is_help=True)


@key_commands.callback()
def _keys() -> None:
    """Make key files."""


@key_commands.command()
def new(
    file: Annotated[Path, typer.Argument(help="New file, on another volume than what it will lock.")],
) -> None:
    """Make a key file: 32 random bytes that only its owner can read. An existing file is never overwritten."""
    KeyFileStore.create(file)
    Console(highlight=False).print(
        f"made key file {escape(str(file))} (mode 0600): back it up apart from what it locks; without it nothing opens"
    )
