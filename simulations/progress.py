"""What a person sees while a simulation runs: a moving bar, one line a round, a table of sites at the end."""

from __future__ import annotations

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from federation.plan import Plan
from server.records import Observer, RoundRecord, RunResult

_MOST_SITES_SHOWN = 30


class LiveProgress(Observer):
    """Draws a run on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("round {task.fields[round]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("sites"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._bar = self._progress.add_task("replies", round=1, total=None)
        self._plan = Plan()

    def run_started(self, run: str, plan: Plan, nodes: int) -> None:
        self._plan = plan
        self._progress.start()

    def reply_arrived(self, round_number: int, done: int, cohort: int) -> None:
        self._progress.update(self._bar, completed=done, total=cohort, round=f"{round_number} of {self._plan.rounds}")

    def round_finished(self, record: RoundRecord) -> None:
        if record.round == 1:
            self._console.print(_header(record), style="bold", highlight=False)
        self._console.print(_line(record), highlight=False)
        for refused in record.refused[:3]:
            self._console.print(f"        [yellow]{escape(refused.site)}: {escape(refused.reason)}[/]", highlight=False)
        if len(record.refused) > 3:
            self._console.print(
                f"        [yellow]and {len(record.refused) - 3} more without a report[/]", highlight=False
            )
        self._progress.reset(self._bar, round=f"{record.round + 1} of {self._plan.rounds}", total=None)

    def run_finished(self, result: RunResult) -> None:
        self.close()
        self._console.print()
        self._console.print(site_table(result))
        self._console.print(f"ended: {result.ended}", highlight=False)
        for line in encryption_lines(result):
            self._console.print(line, highlight=False)

    def close(self) -> None:
        """Takes the bar away."""
        self._progress.stop()


def site_table(result: RunResult) -> Table:
    """One row a site, those that spent most first."""
    table = Table(title="Sites, epsilon as their ledgers prove it")
    for column in ("site", "declared rows", "rounds", "refusals", "epsilon spent", "of budget"):
        table.add_column(column, justify="left" if column == "site" else "right")
    budget = result.plan.privacy.epsilon
    ordered = sorted(result.sites, key=lambda site: -(site.epsilon or 0.0))
    for site in ordered[:_MOST_SITES_SHOWN]:
        spent = ("none", "") if site.epsilon is None else (f"{site.epsilon:.3f}", f"{site.epsilon / budget:.0%}")
        table.add_row(escape(site.site), str(site.declared_rows), str(site.rounds), str(site.refusals), *spent)
    if len(ordered) > _MOST_SITES_SHOWN:
        table.caption = f"and {len(ordered) - _MOST_SITES_SHOWN} more sites"
    return table


def encryption_lines(result: RunResult) -> list[str]:
    """What encryption did, in words; nothing in a run in the clear."""
    found = [record.encryption for record in result.rounds if record.encryption is not None]
    if not found:
        return []
    up, down = (sum(sizes) for sizes in zip(*((each.bytes_up, each.bytes_down) for each in result.rounds), strict=True))
    rehearsed = result.plan.encryption.simulate == "sizes"
    clipped = max(each.clipped_share or 0.0 for each in found)
    what = "messages of the size of ciphertexts, [bold red]NOT encrypted[/]" if rehearsed else "ciphertexts"
    return [
        f"{what}: {decimal(up)} up, {decimal(down)} down; at most {clipped:.2%} of values clipped; "
        f"after each round {min(each.same_model for each in found)} sites or more signed one model",
    ]


def _header(record: RoundRecord) -> str:
    spent = ("ε min", "ε med", "ε max") if record.epsilon else ("ε",)
    columns = "".join(f"{name:>10}" for name in record.figures) + "".join(f"{name:>8}" for name in spent)
    return f"{'round':>5}{'sites':>10}{columns}{'seconds':>9}"


def _line(record: RoundRecord) -> str:
    row = record.flat()
    keys = ("epsilon_smallest", "epsilon_median", "epsilon_largest")
    spent = "".join(f"{row[key]:>8.3f}" for key in keys) if record.epsilon else "[bold red]    none[/]"
    figures = "".join(f"{_figure(name, value):>10}" for name, value in record.figures.items())
    sites = f"{len(record.answered)}/{record.cohort}"
    return f"{record.round:>5}{sites:>10}{figures}{spent}{row['seconds']:>9.2f}"


def _figure(name: str, value: float) -> str:
    return f"{value:.1%}" if name == "accuracy" else f"{value:.3f}"
