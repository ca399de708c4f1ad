"""What every benchmark shares: named rows, goals that are ratios between rows of one run, a table and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from federation.machine import machine, versions

Figure = float | int | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A number to reach: `reach` reads like "<= 1.5" or ">= 15"."""

    value: float
    reach: str

    @property
    def met(self) -> bool:
        """Whether the value reaches what was set."""
        sign, _, bound = self.reach.partition(" ")
        return self.value <= float(bound) if sign == "<=" else self.value >= float(bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What one benchmark measured. Each row has a name and figures with their unit in the key."""

    benchmark: str
    rows: Sequence[Mapping[str, Figure]]
    goals: Mapping[str, Goal]

    def as_json(self) -> dict[str, object]:
        """The findings as the JSON file holds them (DESIGN section 6)."""
        return {
            "benchmark": self.benchmark,
            "machine": machine(),
            "versions": versions(),
            "rows": [dict(row) for row in self.rows],
            "goals": {
                name: {"value": goal.value, "reach": goal.reach, "met": goal.met} for name, goal in self.goals.items()
            },
        }

    def write(self, path: Path) -> None:
        """Writes the JSON file."""
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")

    def show(self, console: Console) -> None:
        """Prints the rows, the goals and the machine."""
        table = Table(title=f"fedseal bench {self.benchmark}")
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        for column in columns:
            table.add_column(column, justify="left" if column == "name" else "right")
        for row in self.rows:
            table.add_row(*(_cell(row.get(column)) for column in columns))
        console.print(table)
        for name, goal in self.goals.items():
            word = "[green]met[/]" if goal.met else "[red]not met[/]"
            console.print(f"{name}: {goal.value:.3g} (reach {goal.reach}) {word}")
        installed = ", ".join(f"{name} {version}" for name, version in versions().items())
        console.print(
            f"{machine()['processor']}, {machine()['cores']} cores; {installed}", style="dim", highlight=False
        )


def _cell(value: Figure) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
