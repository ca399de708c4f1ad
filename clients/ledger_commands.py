"""Commands for a site's ledger: `fedseal ledger show, verify, budget, plot, export, what-if, anchor`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clients.budgets import AllowOption, budget_table, in_words, read_budget
from federation.safe_options import PassphraseDescriptor, SiteOption, unlocked
from privacy.errors import DataInvalid

ledger_commands = typer.Typer(help="See and bound what a site spends, and prove it.", no_args_is_help=True)
budget_commands = typer.Typer(help="What a site may spend, for ever.", no_args_is_help=True)
ledger_commands.add_typer(budget_commands, name="budget")

_EVERY = "every data set without one of its own"
DataName = Annotated[str | None, typer.Option("--data", metavar="NAME", help="The data set; else the only one.")]


class By(StrEnum):
    """What a line of the table is."""

    ROUND = "round"
    RUN = "run"
    DATASET = "dataset"


@ledger_commands.command()
def show(
    by: Annotated[By, typer.Option(help="A line for each release, run, or data set.")] = By.ROUND,
    last: Annotated[int, typer.Option(min=1, help="By round: how many of the newest.")] = 40,
    site: SiteOption = None,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """List what was spent: when, in which run and round, on which data set, by which mechanism, epsilon after it."""
    from clients import spending

    safe = unlocked(site, passphrase_fd)
    entries = safe.ledger().entries()
    match by:
        case By.ROUND:
            found = spending.by_round(entries, last)
        case By.RUN:
            found = spending.by_run(entries)
        case By.DATASET:
            found = spending.by_data_set(entries)
    caption = "epsilon under add-or-remove-one, at the delta of the site's budget"
    table = Table(title=f"Ledger of {escape(safe.name)}", caption=caption, box=SIMPLE)
    for column in found.columns:
        table.add_column(column)
    for row in found.rows:
        table.add_row(*(escape(cell) for cell in row))
    _console().print(table if found.rows else "nothing was released yet")


@ledger_commands.command()
def verify(
    bundle: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An auditor's bundle instead of a site: needs no key.")
    ] = None,
    site: SiteOption = None,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Hold every entry to its seal, the tree, the signed checkpoint and the anchor; exits with 1 where one fails."""
    if bundle is not None:
        _verify_bundle(bundle)
        return
    safe = unlocked(site, passphrase_fd)
    ledger = safe.ledger()
    entries = ledger.entries()
    console = _console()
    reserved = sum(entry.kind == "reserve" for entry in entries)
    held = f"all {len(entries)} entries of {escape(safe.name)}'s ledger hold; {reserved} releases"
    console.print(f"[green]good[/]  {held}")
    anchor = safe.anchor()
    if anchor is None:
        console.print("[yellow]no anchor[/]: an older copy of the whole safe is noticed by the server only")
    else:
        console.print(f"[green]good[/]  it has grown from the checkpoint in {escape(str(anchor))}")
    console.print(f"\n{escape(ledger.checkpoint())}", soft_wrap=True)


@ledger_commands.command()
def plot(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Picture to write: .png or .svg.")] = Path("ledger.png"),
    data: DataName = None,
    site: SiteOption = None,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Draw a data set's epsilon, release by release, against its budget."""
    from clients.spending import account_named, books_of, spending_of
    from privacy.ledger_plot import draw_spending

    entries = unlocked(site, passphrase_fd).ledger().entries()
    books = books_of(entries)
    account = account_named(books, data)
    budget = books.budget(account)
    if budget is None:
        raise DataInvalid("no budget is set, so there is no delta to draw epsilon at: `fedseal ledger budget set`")
    points = spending_of(entries, account, budget.delta)
    name = books.names.get(account, account[:16])
    draw_spending(out, name, points, (budget.epsilon, budget.delta))
    _console().print(f"drew {len(points)} releases of {escape(name)} to {escape(str(out))}")


@ledger_commands.command()
def export(
    file: Annotated[Path, typer.Option("--for-auditor", metavar="FILE", help="Bundle to write.")],
    run: Annotated[list[str] | None, typer.Option(help="Reveal this run only; may be repeated. Else all runs.")] = None,
    site: SiteOption = None,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Write a signed, self-contained bundle: entries, proofs that they are in the ledger, checkpoint, public key.

    Entries about budgets and data sets are revealed too. `fedseal ledger verify --bundle FILE` checks it without a key.
    """
    from privacy.bundle import write_bundle
    from privacy.entries import Reserved, Settled

    safe = unlocked(site, passphrase_fd)
    ledger = safe.ledger()
    entries = ledger.entries()
    known = {entry.run for entry in entries if isinstance(entry, Reserved)}
    wanted = set(run) if run else known
    if wanted - known:
        unknown, there = ", ".join(sorted(wanted - known)), ", ".join(sorted(known)) or "none"
        raise DataInvalid(f"the ledger knows no run {unknown}; it knows: {there}")
    chosen = []
    for index, entry in enumerate(entries):
        about = entries[entry.reserve] if isinstance(entry, Settled) else entry
        if not isinstance(about, Reserved) or about.run in wanted:
            chosen.append(index)
    write_bundle(file, safe.identity(), ledger.reveal(chosen))
    _console().print(f"revealed {len(chosen)} of {len(entries)} entries in {escape(str(file))}")
    _console().print(f"its signer's fingerprint: {safe.public_identity().fingerprint}")


@ledger_commands.command("what-if")
def what_if(
    plan: Annotated[Path, typer.Option(metavar="APP", help="Folder of the app whose plan is asked about.")],
    data: DataName = None,
    site: SiteOption = None,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Say how many rounds of a plan the budget still covers."""
    from clients.spending import account_named, rounds_left
    from federation.reading import app_config, read_plan

    asked = read_plan(app_config(plan))
    books = unlocked(site, passphrase_fd).ledger().books()
    count, why = rounds_left(books, account_named(books, data), asked)
    _console().print(f"[bold]{count}[/] of {asked.rounds} rounds of {escape(asked.name)} are covered")
    _console().print(escape(why))


@ledger_commands.command()
def anchor(
    file: Annotated[Path, typer.Argument(help="File on another volume that shall hold the newest checkpoint.")],
    site: SiteOption = None,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Keep the ledger's newest checkpoint on another volume too, so that an older copy of the safe is noticed here."""
    unlocked(site, passphrase_fd).anchor_at(file)
    _console().print(f"from now on {escape(str(file))} holds the newest checkpoint; without it nothing is spent")


@budget_commands.command("set")
def set_budget(
    epsilon: Annotated[float | None, typer.Option(help="What each data set may cost, for ever, over all runs.")] = None,
    delta: Annotated[float | None, typer.Option(help="The delta of that epsilon.")] = None,
    per_run: Annotated[float | None, typer.Option(help="Epsilon of one run.")] = None,
    per_round: Annotated[float | None, typer.Option(help="Epsilon of one release.")] = None,
    allow: AllowOption = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="For this data set only; else for all others.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML file whose table [budget] says all of this, instead of options."),
    ] = None,
    site: SiteOption = None,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Set what may be spent from now on. The change is an entry of the ledger, like everything else."""
    from clients.spending import account_named

    typed = {"epsilon": epsilon, "delta": delta, "per_run": per_run, "per_round": per_round, "allow": allow or None}
    wanted = {name: value for name, value in typed.items() if value is not None}
    if policy is not None and wanted:
        raise typer.BadParameter("name a --policy file or options, not both: one place says what may be spent")
    if policy is None and (epsilon is None or delta is None):
        raise typer.BadParameter("name --epsilon and --delta, or a --policy file with a table [budget]")
    ledger = unlocked(site, passphrase_fd).ledger()
    account = None if data is None else account_named(ledger.books(), data)
    budget = read_budget({**(wanted if policy is None else budget_table(policy)), "account": account})
    ledger.set_budget(budget)
    _console().print(f"[bold]{escape(data or _EVERY)}[/]: {in_words(budget)}")


@budget_commands.command("show")
def show_budget(site: SiteOption = None, passphrase_fd: PassphraseDescriptor = None) -> None:
    """Show what may be spent."""
    books = unlocked(site, passphrase_fd).ledger().books()
    for account, budget in books.budgets.items():
        whose = _EVERY if account is None else books.names.get(account, account[:16])
        _console().print(f"[bold]{escape(whose)}[/]: {in_words(budget)}")
    if not books.budgets:
        _console().print("no budget is set: nothing may be spent; `fedseal ledger budget set --epsilon E --delta D`")


def _verify_bundle(path: Path) -> None:
    from clients.spending import books_of
    from privacy.bundle import read_bundle

    found = read_bundle(path)
    console = _console()
    shown = f"{len(found.entries)} of {found.checkpoint.size} entries"
    console.print(f"[green]good[/]  {shown}, each in the signed checkpoint")
    console.print(f"site {escape(found.identity.name)}; compare its fingerprint with what the site says:")
    console.print(found.identity.fingerprint)
    books = books_of([entry for _, entry in sorted(found.entries.items())])
    for account in sorted(books.by_account):
        limit, tally = books.budget(account), books.spent(account)
        if limit is not None:
            name = books.names.get(account, account[:16])
            spent = f"epsilon {tally.epsilon(limit.delta):.4f} of {limit.epsilon:g} at delta {limit.delta:g}"
            console.print(f"{escape(name)}: {tally.releases} releases revealed, {spent}")


def _console() -> Console:
    return Console(highlight=False)
