"""Commands of a site's engineer: `fedseal site init, import, data, rekey, shred, verify, backup, restore`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from clients.budgets import PRIVATE_UNITS, AllowOption, in_words, read_budget
from federation.safe_options import (
    KeyFileOption,
    KeysOption,
    PassphraseDescriptor,
    SiteOption,
    lock_settings,
    new_passphrase,
    present_passphrase,
    site_folder,
    unlocked,
)
from privacy.errors import DataInvalid, FedSealError
from privacy.safe import Safe

if TYPE_CHECKING:
    from clients.data import Facts

site_commands = typer.Typer(help="Keep a site's records, models and keys, sealed.", no_args_is_help=True)


class OnBadRow(StrEnum):
    """What an import does with a row that has a bad cell."""

    REFUSE = "refuse"
    SKIP = "skip"


@site_commands.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make: the site's safe.")],
    name: Annotated[str | None, typer.Option(help="The site's name; else the folder's.")] = None,
    key_file: KeyFileOption = None,
    keys: KeysOption = None,
    epsilon: Annotated[float, typer.Option(min=0, help="What each data set may cost, for ever, over all runs.")] = 10.0,
    delta: Annotated[float, typer.Option(min=0, max=1, help="The delta of that epsilon.")] = 1e-5,
    allow: AllowOption = None,
    anchor: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File on another volume that holds the ledger's newest checkpoint."),
    ] = None,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Make a site: its identity, its keyring, its ledger, and a vault for its records and models.

    Asks for a passphrase twice, unless --key-file, --keys or --passphrase-fd says otherwise. Without the passphrase or
    key nobody opens the site again, its owner neither.
    """
    lock = lock_settings(folder, key_file, keys)
    budget = read_budget({"epsilon": epsilon, "delta": delta, "allow": allow or PRIVATE_UNITS})
    safe = Safe.create(folder, name or folder.resolve().name.lower(), lock, new_passphrase(passphrase_fd))
    safe.ledger().set_budget(budget)
    if anchor is not None:
        safe.anchor_at(anchor)
    console = _console()
    console.print(f"made site [bold]{escape(safe.name)}[/] in {escape(str(folder))}")
    console.print(f"its identity's fingerprint: {safe.public_identity().fingerprint}")
    console.print(f"its budget: {in_words(budget)}; `fedseal ledger budget set` changes it")
    console.print(f"\nnext:  fedseal site import TABLE --as NAME --label-column COLUMN --site {escape(str(folder))}")


@site_commands.command("import")
def import_(
    table: Annotated[
        Path, typer.Argument(help="CSV, Parquet, Arrow, .npz or safetensors file, or a folder of images.")
    ],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Name of the new data set.")],
    label_column: Annotated[str | None, typer.Option(help="Column to predict; else the task's schema says.")] = None,
    unit_column: Annotated[
        str | None, typer.Option(help="Column that says whose a row is (patient, customer); only a keyed hash is kept.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column whose values must differ; not kept.")] = None,
    columns: Annotated[str | None, typer.Option(help="Input columns, a,b,c; else all others.")] = None,
    app: Annotated[Path | None, typer.Option(metavar="DIR", help="App whose task has the schema to check by.")] = None,
    on_bad_row: Annotated[
        OnBadRow, typer.Option(help="Refuse the table, or skip the row and list it.")
    ] = OnBadRow.REFUSE,
    site: SiteOption = None,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Check a table's rows and seal them as they are read; the table itself is left alone.

    Row numbers are those of a spreadsheet: a CSV file's header is row 1. Cells are never shown.
    """
    from clients.importing import Import, import_table

    safe = unlocked(site, passphrase_fd)
    wanted = Import(
        table=table,
        name=name,
        label=label_column,
        unit=unit_column,
        identifier=id_column,
        columns=tuple(column.strip() for column in columns.split(",")) if columns else None,
        app=app,
        skip_bad_rows=on_bad_row is OnBadRow.SKIP,
    )
    console = _console()
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(f"sealing {escape(str(table))}")
        facts, bad = import_table(
            safe,
            wanted,
            lambda rows: progress.update(task, description=f"sealed {rows:,} rows of {escape(str(table))}"),
        )
    console.print(f"sealed {_rows(facts)} as [bold]{escape(facts.name)}[/]")
    console.print(_columns(facts), soft_wrap=True)
    console.print(f"fingerprint {facts.fingerprint}", soft_wrap=True)
    if facts.skipped:
        console.print(f"[yellow]skipped {facts.skipped:,} rows with a bad cell:[/]")
        for line in bad.lines():
            console.print(f"  {escape(line)}")
    console.print(f"[dim]{escape(str(table))} still holds the rows in the clear: it is yours to keep or delete[/]")


@site_commands.command()
def data(site: SiteOption = None, passphrase_fd: PassphraseDescriptor = None) -> None:
    """List the site's data sets: rows, units, columns, fingerprint, when they were imported, size."""
    from clients.data import data_sets

    safe = unlocked(site, passphrase_fd)
    console = _console()
    listed = data_sets(safe.vault)
    for found in listed:
        facts = found.facts
        if facts is None:
            console.print(f"[bold]{found.name}[/] [red]does not open:[/] {escape(found.problem)}", soft_wrap=True)
            continue
        console.print(f"[bold]{facts.name}[/]  {_rows(facts)}, {decimal(found.sealed_bytes)} sealed")
        console.print(f"    {_columns(facts)}", soft_wrap=True)
        console.print(f"    imported {facts.imported[:16].replace('T', ' ')} UTC, fingerprint {facts.fingerprint[:16]}")
    if not listed:
        console.print("no data set yet: `fedseal site import TABLE --as NAME` makes one")


@site_commands.command()
def rekey(
    key_file: KeyFileOption = None,
    keys: KeysOption = None,
    new_passphrase_fd: Annotated[
        int | None, typer.Option(metavar="N", help="Read the new passphrase from file descriptor N.")
    ] = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="Also seal every object anew under new keys, and delete the old keys.")
    ] = False,
    site: SiteOption = None,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Change what unlocks a site: a new passphrase (asked twice), --key-file or --keys.

    Whoever kept an old copy of the keyring and its passphrase can still read what was sealed before; --objects makes
    sure that they read nothing that is written from now on.
    """
    safe = unlocked(site, passphrase_fd)
    console = _console()
    safe.lock_with(lock_settings(safe.folder, key_file, keys), new_passphrase(new_passphrase_fd))
    console.print(f"{escape(safe.name)} has a new lock; the old one opens it no more")
    if objects:
        count = sum(1 for _ in safe.reseal())
        console.print(f"sealed {count} objects anew; the old keys are gone")


@site_commands.command()
def shred(
    name: Annotated[str, typer.Argument(help="The data set to make unreadable.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    site: SiteOption = None,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Delete a data set's keys, then its files: what is left on the disk stays unreadable (crypto-shredding).

    A backup that was made before still holds the keys: destroy it too.
    """
    from clients.data import data_sets
    from clients.sealing import remove_remains

    safe = unlocked(site, passphrase_fd)
    known = {found.name: found for found in data_sets(safe.vault)}
    if name not in known:
        raise DataInvalid(f"there is no data set {name!r}; there is: {', '.join(known) or 'none'}")
    facts = known[name].facts
    rows = f"the {facts.records:,} rows" if facts is not None else "what is left"
    if not yes and not typer.confirm(f"Make {rows} of {name!r} unreadable for ever?"):
        raise DataInvalid("nothing was shredded")
    with safe.changing() as vault:
        vault.shred(f"data/{name}")
        remove_remains(vault)
    _console().print(f"shredded [bold]{escape(name)}[/]: its keys and files are gone; destroy backups that hold them")


@site_commands.command()
def verify(site: SiteOption = None, passphrase_fd: PassphraseDescriptor = None) -> None:
    """Open and authenticate every sealed object; exits with 1 where one is damaged or missing."""
    from clients.verifying import checked, refuse_other_identity

    safe = unlocked(site, passphrase_fd)
    console = _console()
    good = 0
    bad = []
    for found in checked(safe.vault):
        if found.problem:
            bad.append(found)
            console.print(f"[red]bad[/]   {escape(str(found.label))}: {escape(found.problem)}")
        else:
            good += 1
    refuse_other_identity(safe)
    if bad:
        raise FedSealError(f"{len(bad)} of {good + len(bad)} sealed objects do not open: restore a backup")
    console.print(f"[green]good[/]  all {good} sealed objects of {escape(safe.name)} open and are whole")


@site_commands.command()
def backup(
    file: Annotated[Path, typer.Argument(help="New file, best on another machine.")], site: SiteOption = None
) -> None:
    """Copy the site, as sealed as it is, into one file; no passphrase is needed."""
    from clients.backup import back_up

    folder = site_folder(site)
    size = back_up(folder, file)
    _console().print(f"backed up {escape(str(folder))} to {escape(str(file))} ({decimal(size)}), sealed as it is")


@site_commands.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What `fedseal site backup` wrote.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder.")],
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Unpack a backup into a new folder, once every object and every entry of the ledger in it was opened."""
    from clients.backup import restore as unpack

    name, behind = unpack(file, folder, present_passphrase(folder, passphrase_fd))
    console = _console()
    console.print(f"restored site [bold]{escape(name)}[/] into {escape(str(folder))}: every object opens")
    if behind:
        console.print(
            "[yellow]its ledger is older than its anchor, or the anchor is not there:[/] it trains nothing until the "
            "newest ledger.db is put back, or the anchor's volume is mounted; `fedseal ledger verify` says which"
        )


def _rows(facts: Facts) -> str:
    return f"{facts.records:,} rows" + (f" of {facts.units:,} units" if facts.units is not None else "")


def _columns(facts: Facts) -> str:
    return escape(f"{len(facts.columns)} columns: {', '.join(facts.columns)}; label: {facts.label or 'none'}")


def _console() -> Console:
    return Console(highlight=False)
