"""Commands of the words that both sides say: `fedseal plan show`, `fedseal plan check`, `fedseal new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from federation.new_app import write_app
from federation.plan import Plan, flatten
from federation.reading import app_config, read_overrides, read_plan, settings

plan_commands = typer.Typer(help="Show and check plans: the settings of one run.", no_args_is_help=True)

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. privacy.epsilon=3.")
]


@plan_commands.command()
def show(
    app: Annotated[Path | None, typer.Argument(help="Folder of an app; without it the defaults are shown.")] = None,
    changes: Set = None,
) -> None:
    """Show every setting: its value, unit, meaning and choices. Values that differ from the default stand out."""
    plan = read_plan({**(app_config(app) if app else {}), **read_overrides(changes or [])})
    values = flatten(plan.model_dump())
    console = Console(highlight=False)
    section = ""
    for key, row in settings().items():
        table, _, _ = key.rpartition(".")
        if table != section:
            section = table
            console.print()
        value = escape(_text(values[key]))
        changed = values[key] != row.default
        console.print(
            f"[bold]{key}[/] = "
            + (f"[bold cyan]{value}[/]  [dim](default {escape(_text(row.default))})[/]" if changed else value)
            + (f"  [dim]{row.unit}[/]" if row.unit else "")
        )
        console.print(Padding(escape(row.meaning), (0, 0, 0, 4)))
        if row.choices:
            console.print(Padding(f"[dim]one of {', '.join(row.choices)}[/]", (0, 0, 0, 4)))
    console.print()
    for line in _who_reads(plan):
        console.print(line, soft_wrap=True)
    console.print(f"plan hash {plan.digest}", soft_wrap=True)


@plan_commands.command()
def check(
    app: Annotated[Path, typer.Argument(help="Folder of an app.")],
    changes: Set = None,
) -> None:
    """Check a plan, and say what it promises and costs. Exits with 1 and the remedy where something is wrong."""
    plan = read_plan({**app_config(app), **read_overrides(changes or [])})
    console = Console(highlight=False)
    console.print(f"[green]the plan is right[/]: {plan.name}, {plan.rounds} rounds")
    console.print(f"plan hash {plan.digest}", soft_wrap=True)
    for line in promise_lines(plan):
        console.print(line)


def promise_lines(plan: Plan) -> list[str]:
    """What a plan promises, in sentences with rich markup."""
    if not plan.is_private:
        return [
            "[bold red]privacy.unit is none: this plan trains WITHOUT privacy; updates may reveal records[/]",
            *_who_reads(plan),
        ]
    from federation.promise import metrics_mechanism, round_mechanism, rounds_within_budget, run_releases
    from privacy.accountant import accountant_name, epsilon, epsilon_by_rdp

    mechanism = round_mechanism(plan)
    rounds = rounds_within_budget(plan)
    released = run_releases(plan, rounds)
    total, bound = epsilon(released, plan.privacy.delta), epsilon_by_rdp(released, plan.privacy.delta)
    lines = [
        f"each site spends at most epsilon {plan.privacy.epsilon:g} at delta {plan.privacy.delta:g} "
        f"(unit: {plan.privacy.unit}; neighbouring: add or remove one; {accountant_name()})",
        f"noise multiplier {mechanism.noise_multiplier:.4g}, sample rate {mechanism.sample_rate:g}, steps a round "
        f"{mechanism.steps}: {rounds} rounds cost epsilon {total:.4g} "
        f"(at most {bound:.4g} by Rényi DP, the cross-check)",
    ]
    if plan.privacy.unit == "group":
        lines.append(
            "a group is all records that one site holds under one unit id; a step uses at most "
            f"{plan.privacy.records_per_group} of them; a group spread over several sites, or under several ids, is "
            "protected in each part alone"
        )
    if plan.privacy.unit == "client":
        lines.append(
            f"a client is a whole site: it clips each whole update to {plan.privacy.max_grad_norm:g} and adds the "
            "noise itself; hidden is whether it holds its data or none, not that it takes part; that only a share "
            "of the clients is asked counts for nothing"
        )
    if rounds < plan.rounds:
        lines.append(
            f"[yellow]the budget lasts for {rounds} of {plan.rounds} rounds: a site leaves after {rounds}; raise "
            "privacy.epsilon or privacy.noise_multiplier for more[/]"
        )
    metrics = metrics_mechanism(plan)
    if metrics is not None:
        lines.append(
            f"metrics = private: noisy sums over held-out records (noise multiplier {metrics.noise_multiplier:.4g}) "
            "are part of that cost"
        )
    if plan.statistics == "private":
        lines.append("statistics = private: one noisy release before the first round is part of that cost")
    if plan.metrics == "plain":
        lines.append(
            "[yellow]metrics = plain: exact sums over held-out records leave the sites; epsilon does not cover them[/]"
        )
    return [*lines, *_who_reads(plan)]


def _who_reads(plan: Plan) -> list[str]:
    """Who can read updates and the model."""
    settings = plan.encryption
    if not plan.is_encrypted:
        return ["[yellow]encryption.scheme = none: the server reads every update, and the model[/]"]
    if settings.simulate == "sizes":
        return [
            "[yellow]encryption.simulate = sizes: NOTHING is encrypted, the server could read every update; messages "
            "have the sizes of ciphertexts[/]"
        ]
    model = "the last model" if plan.release == "server" else "none, nor the model"
    if settings.scheme == "ckks":
        return [
            "updates leave sites encrypted (CKKS, no range); the server reads none, nor the model",
            "[yellow]decrypted CKKS sums can give the key away (Li and Micciancio 2021): sites must keep them[/]",
        ]
    how = f"updates leave sites encrypted (BFV, {settings.bits} bits a value); the server reads "
    return [how + (model if plan.release == "sites" else f"none, but gets {model}")]


def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; must not exist yet, or be empty.")],
) -> None:
    """Write a small working app: pyproject.toml with the plan, task.py, README.md. It is a Flower app too."""
    written = write_app(folder)
    console = Console()
    for path in written:
        console.print(f"wrote {escape(str(path))}", highlight=False)
    console.print(f"\ntry it:  fedseal simulate {escape(str(folder))}", highlight=False)


def _text(value: object) -> str:
    return "absent" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
