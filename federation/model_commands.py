"""Commands for a trained model: `fedseal model export`, `predict`, `evaluate`."""

from __future__ import annotations

import csv
import io
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from privacy import files, passphrases
from privacy.errors import DataInvalid
from privacy.secret import Secret
from privacy.vault import is_name

if TYPE_CHECKING:
    from federation.model_files import StoredModel

model_commands = typer.Typer(help="Use a trained model.", no_args_is_help=True)

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A run's folder, a site's folder, or a .safetensors file.")
]
App = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the app that was trained, if it was an app.")]
Round = Annotated[int | None, typer.Option("--round", min=1, help="Which of the kept rounds; else the last.")]
Descriptor = Annotated[
    int | None, typer.Option("--passphrase-fd", metavar="N", help="Read the passphrase from file descriptor N.")
]
DataOption = Annotated[
    Path, typer.Option(metavar="TABLE", help="CSV, Parquet, Arrow, .npz, safetensors, or a folder of images.")
]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the right answers; else the task's schema says.")]
Columns = Annotated[str | None, typer.Option(help="Input columns, a,b,c; else the schema's, or all others.")]


class Format(StrEnum):
    """What a model can be exported to."""

    SAFETENSORS = "safetensors"
    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"


@model_commands.command()
def export(
    model: Model,
    to: Annotated[Format, typer.Option(help="The format.")] = Format.SAFETENSORS,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to; else here, named by the run.")] = None,
    app: App = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="N,N", help="Shape of one input, for onnx and torchscript.")
    ] = None,
    round_number: Round = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Open a sealed model on purpose, and write it in the clear for other programs."""
    from federation.model_export import SUFFIXES, export_model

    stored = _stored(model, round_number, passphrase_fd)
    target = out or Path(_named_by_the_run(stored) + SUFFIXES[to])
    if target.suffix != SUFFIXES[to]:
        raise DataInvalid(f"{target}: a {to} file ends in {SUFFIXES[to]}")
    shape = _shape(input_shape) if input_shape else None
    export_model(stored, lambda: stored.task(app), target, shape)
    number, name = escape(stored.notes.get("round", "?")), escape(stored.notes.get("name", "?"))
    Console(highlight=False).print(f"exported round {number} of {name} [bold]in the clear[/] to {escape(str(target))}")


@model_commands.command()
def predict(
    model: Model,
    data: DataOption,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="CSV file to write; else they are printed.")] = None,
    label_column: LabelColumn = None,
    columns: Columns = None,
    app: App = None,
    round_number: Round = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Say what a model makes of new rows: a line a row, with its number, the class, and the probability of each class.

    Rows are checked as at import; one with a bad cell refuses the table.
    """
    from federation.prediction import predictions, table_rows

    if out is not None and out.resolve() in (data.resolve(), model.resolve()):
        raise DataInvalid(f"{out} is what is read: name another file for the predictions")
    stored = _stored(model, round_number, passphrase_fd)
    task = stored.task(app)
    rows, numbers = table_rows(task, data, label_column, _names(columns), labelled=False)
    header, *lines = predictions(task, stored.module(task), rows, numbers)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *lines])
    if out is None:
        typer.echo(text.getvalue(), nl=False)
        return
    files.replace(out, text.getvalue().encode())
    Console(highlight=False).print(f"wrote {len(lines):,} predictions to {escape(str(out))}")


@model_commands.command()
def evaluate(
    model: Model,
    data: DataOption,
    label_column: LabelColumn = None,
    columns: Columns = None,
    app: App = None,
    round_number: Round = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Hold a model to labelled rows, and print the task's figures. They are exact: epsilon does not cover them."""
    from federation.evaluation import metric_sums
    from federation.prediction import fitting, table_rows

    stored = _stored(model, round_number, passphrase_fd)
    task = stored.task(app)
    rows, _ = table_rows(task, data, label_column, _names(columns), labelled=True)
    model_of_task = stored.module(task)
    with fitting(rows):
        prepared = task.prepare(rows)
        sums = metric_sums(task, model_of_task, prepared)
    console = Console(highlight=False)
    for name, value in task.figures(sums).items():
        console.print(f"{name} {value:.4g}")
    console.print(f"[dim]{len(prepared):,} of {len(rows):,} rows, exact figures[/]")


def _stored(model: Path, round_number: int | None, descriptor: int | None) -> StoredModel:
    from federation.model_files import read_model

    def passphrase() -> Secret:
        if descriptor is not None:
            return passphrases.from_descriptor(descriptor)
        return passphrases.asked(f"Passphrase of {model}")

    return read_model(model, passphrase, round_number)


def _named_by_the_run(stored: StoredModel) -> str:
    """A file's name. What the notes of a file of others' making say may be a path: that is no name."""
    name, number = stored.notes.get("name", ""), stored.notes.get("round", "")
    return f"{name if is_name(name) else 'model'}-round-{number if is_name(number) else '0'}"


def _names(columns: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in columns.split(",")) if columns else None


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise DataInvalid(f"--input-shape {text}: write whole numbers from 1 with commas between, e.g. 1,28,28")
    return shape
