"""Commands for whole federations on one machine: `fedseal simulate`, `fedseal scenarios`, `fedseal bench`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from federation.commands import Set, promise_lines
from federation.plan import Scalar
from federation.reading import app_config, read_overrides, read_plan
from privacy.errors import DataInvalid, PlanInvalid
from simulations.scenarios.catalogue import SCENARIOS, scenario

if TYPE_CHECKING:
    from simulations.simulate import Result

_DEFAULT_SCENARIO = "breast-cancer"
_DEFAULT_SITES_OF_AN_APP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Where:
    """What the command line says besides the plan; `Options` needs torch, which the command loads later."""

    data: Path | None
    workers: int
    out: Path
    key_file: Path | None
    keep_sites: bool
    export: bool
    quiet: bool


def simulate(
    app: Annotated[
        Path | None, typer.Argument(help="Folder of an app (see `fedseal new`); without it a scenario runs.")
    ] = None,
    changes: Set = None,
    scenario_name: Annotated[
        str | None, typer.Option("--scenario", metavar="NAME", help="A ready-made federation; `fedseal scenarios`.")
    ] = None,
    sites: Annotated[int | None, typer.Option(min=1, help="How many sites to simulate.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Planned rounds; short for --set rounds=N.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of everything, noise included: the run repeats bit for bit.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder that the task's sites read.")] = None,
    out: Annotated[Path, typer.Option(help="Folder in which the run's own folder is made.")] = Path("runs"),
    workers: Annotated[int, typer.Option(min=1, help="Sites that train at the same time, in threads.")] = 1,
    key_file: Annotated[
        Path | None,
        typer.Option(help="Keep the models openable: seal them with this key file; `fedseal key new FILE` makes one."),
    ] = None,
    keep_sites: Annotated[
        bool,
        typer.Option(
            "--keep-sites",
            help="Keep the sites' safes in the run's folder, locked by --key-file: sealed records and ledgers.",
        ),
    ] = False,
    export: Annotated[
        bool | None,
        typer.Option(
            "--export/--no-export",
            help="Write the last model in the clear as model.safetensors. Default: only without --key-file, because "
            "the key is then thrown away and nothing else would be left.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run's facts as JSON and nothing else.")] = False,
) -> None:
    """Run a private federation on this machine, through the same apps as a deployment.

    Prints a line a round (sites that answered, accuracy, epsilon spent: smallest, median, largest site), a table of
    sites, and the folder that holds run.json, rounds.jsonl, report.html and the sealed models. Sites train from sealed
    records; models are sealed too, and model.safetensors is the one file that is exported in the clear.

    The noise comes from a seed, so that runs repeat: a simulation rehearses protection, it protects nobody.
    """
    if app is not None and scenario_name is not None:
        raise PlanInvalid("name an app or a --scenario, not both")
    if app is not None:
        flat, count = app_config(app), _DEFAULT_SITES_OF_AN_APP
    else:
        chosen = scenario(scenario_name or _DEFAULT_SCENARIO)
        flat, count = {"name": chosen.name, **chosen.settings}, chosen.sites
        if chosen.needs_data and data is None:
            raise DataInvalid(f"scenario {chosen.name!r} reads its records from a folder: add --data DIR")
    _override(flat, read_overrides(changes or []), rounds, seed)
    exports = key_file is None if export is None else export
    where = _Where(
        data=data,
        workers=workers,
        out=out,
        key_file=key_file,
        keep_sites=keep_sites,
        export=exports,
        quiet=as_json,
    )
    result = _run(app, flat, sites or count, where)
    if as_json:
        assert result.folder is not None
        facts = json.loads((result.folder / "run.json").read_text(encoding="utf-8"))
        lines = (result.folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
        typer.echo(json.dumps({**facts, "folder": str(result.folder), "rounds": [json.loads(line) for line in lines]}))


def scenarios() -> None:
    """List the ready-made federations."""
    table = Table(title="fedseal simulate --scenario NAME")
    for column in ("name", "sites", "what", "data"):
        table.add_column(column)
    for found in SCENARIOS.values():
        table.add_row(found.name, str(found.sites), found.summary, "--data DIR" if found.needs_data else "built in")
    Console().print(table)


def bench(
    name: Annotated[str | None, typer.Argument(help="Which benchmark; without it they are listed.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller work, same goals, under a minute.")] = False,
    as_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the findings here too.")] = None,
) -> None:
    """Measure on this machine, and print a table with the goals that were set.

    Goals are ratios between rows of one run, or accuracies against published ones.
    """
    from simulations.benchmarks.catalogue import BENCHMARKS, benchmark

    console = Console()
    if name is None:
        for known, (summary, _) in BENCHMARKS.items():
            console.print(f"[bold]{known}[/]  {summary}", highlight=False)
        return
    findings = benchmark(name)(quick)
    findings.show(console)
    if as_json is not None:
        findings.write(as_json)


def _override(flat: dict[str, Scalar], changes: dict[str, Scalar], rounds: int | None, seed: int | None) -> None:
    flat.update(changes)
    if rounds is not None:
        flat["rounds"] = rounds
    if seed is not None:
        flat["seed"] = seed


def _run(app: Path | None, flat: dict[str, Scalar], sites: int, where: _Where) -> Result:
    plan = read_plan(flat)
    console = Console(quiet=where.quiet)
    console.print(f"[bold]{plan.name}[/]: {sites} sites, {plan.rounds} rounds, task {plan.task}", highlight=False)
    with console.status("loading PyTorch, Flower and Opacus"):
        from federation.task import load_task
        from simulations.progress import LiveProgress
        from simulations.simulate import Options
        from simulations.simulate import simulate as run_simulation

        promise = promise_lines(plan)
    for line in promise:
        console.print(line, highlight=False)
    console.print()
    progress = LiveProgress(console)
    options = Options(
        data_folder=where.data,
        workers=where.workers,
        out=where.out,
        key_file=where.key_file,
        keep_sites=where.keep_sites,
        export=where.export,
        observers=(progress,),
    )
    try:
        result = run_simulation(load_task(plan.task, app), plan, sites, options)
    finally:
        progress.close()
    if result.rounds and result.rounds[-1].figures_source == "simulation only":
        console.print("figures are exact, on the pooled held-out records of all sites: simulation only", style="dim")
    if any(record.seeded for record in result.rounds) and plan.is_private:
        console.print("noise came from the seed, so that the run repeats: a rehearsal, no protection", style="dim")
    console.print(f"written to [bold]{escape(str(result.folder))}[/]: open report.html there", highlight=False)
    _say_what_is_readable(console, result, where)
    return result


def _say_what_is_readable(console: Console, result: Result, where: _Where) -> None:
    key = "its key is gone with this process" if where.key_file is None else f"locked by {where.key_file}"
    console.print(f"models are sealed in vault/ ({escape(key)})", highlight=False)
    if result.run.plan.is_encrypted and result.run.plan.release == "sites":
        console.print("a deployed server would hold none: they are the sites' own, which a simulator sees", style="dim")
    if where.keep_sites:
        console.print("sealed records and ledgers of the sites are in sites/: fedseal ledger show", highlight=False)
    if where.export:
        console.print("exported in the clear, on purpose: [bold]model.safetensors[/]", highlight=False)
