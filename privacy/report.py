"""`report.html` of a run folder: one page for the researcher, the hospital's engineer and the auditor.

Reads what a run wrote (`run.json`, `rounds.jsonl`) and nothing else. The page is self-contained: no script, no request,
and a content security policy that forbids both. Site names, reasons and figure names come from outside: they are
escaped by the template and never reach a plot. Epsilon is shown rounded up. The page says in red when nobody was
protected, and beside the figures what epsilon does not cover. It must never promise more than the run's facts say.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from pathlib import Path
from statistics import median_high

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from privacy.plots import Plot, epsilon_plot, figures_plot, shown, trade_off_plot
from privacy.run_facts import PlanFacts, RefusedFacts, RoundFacts, SiteFacts, read_rounds, read_run

SITES_SHOWN, ROUNDS_SHOWN, REFUSALS_SHOWN = 100, 200, 50

_PLOTTED = ("accuracy", "auroc")
_REASON_CHARACTERS = 300
_ROUNDING = 1 + 1e-9  # two accountants' last digit is no overspending


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusals:
    """Refusals of one error whose reasons differ in numbers only."""

    error: str
    example: str
    alike: bool
    count: int
    sites: list[str]
    rounds: list[int]


def write_report(folder: Path) -> Path:
    """Writes `folder/report.html` from the folder's `run.json` and `rounds.jsonl`; returns its path.

    Raises:
        DataInvalid: a file is missing, or does not hold a run.
    """
    run, rounds = read_run(folder / "run.json"), read_rounds(folder / "rounds.jsonl")
    plan = PlanFacts.model_validate(run.plan)
    headline = _headline(rounds)
    private = plan.privacy.unit != "none"
    sites = _priced(run.sites if run.sites is not None else _sites_so_far(rounds), private)
    many = len(sites) > SITES_SHOWN
    refusals = _grouped(rounds)
    page = _environment().get_template("report.html.jinja")
    text = page.render(
        run=run,
        plan=plan,
        private=private,
        seeded=any(record.seeded for record in rounds) or run.seeds.get("simulation") is not None,
        useful=sum(len(record.answered) >= plan.cohort.quorum for record in rounds),
        rounds=rounds,
        rounds_shown=rounds[-ROUNDS_SHOWN:],
        last=rounds[-1] if rounds else None,
        sources=sorted({record.figures_source for record in rounds}),
        figures=list(dict.fromkeys(name for record in rounds for name in record.figures)),
        headline=headline,
        plots=list(_plots(plan, rounds, headline)),
        largest=max((site.epsilon for site in sites if site.epsilon is not None), default=None),
        overspent=[site.site for site in sites if (site.epsilon or 0) > plan.privacy.epsilon * _ROUNDING],
        sites=sites,
        sites_shown=sorted(sites, key=lambda site: -(site.epsilon or 0))[:SITES_SHOWN] if many else sites,
        refusals=refusals,
        refusals_shown=refusals[:REFUSALS_SHOWN],
    )
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def _headline(rounds: Sequence[RoundFacts]) -> str | None:
    names = [name for record in rounds for name in record.figures]
    return next((name for wanted in (*_PLOTTED, *names) for name in names if name.lower() == wanted.lower()), None)


def _plots(plan: PlanFacts, rounds: Sequence[RoundFacts], headline: str | None) -> Iterator[Plot]:
    numbers = [record.round for record in rounds]
    if headline is not None:
        names = list(dict.fromkeys(name for record in rounds for name in record.figures))
        drawn = [name for name in names if name.lower() in _PLOTTED] or [headline]
        yield figures_plot(numbers, {name: [record.figures.get(name) for record in rounds] for name in drawn})
    if not any(record.epsilon for record in rounds):
        return
    yield epsilon_plot(numbers, [record.spent for record in rounds], plan.privacy.epsilon)
    points = [
        (record.round, spent, value)
        for record in rounds
        if headline is not None and record.spent and (value := record.figures.get(headline)) is not None
        if math.isfinite(spent := median_high(record.spent.values()))
    ]
    if headline is not None and points:
        yield trade_off_plot(headline, points)


def _sites_so_far(rounds: Sequence[RoundFacts]) -> list[SiteFacts]:
    """The sites of a run that did not finish, from its rounds; what they declared was not written yet."""
    spent = rounds[-1].spent if rounds else {}
    joined = Counter(site for record in rounds for site in record.answered)
    refused = Counter(refusal.site for record in rounds for refusal in record.refused)
    return [
        SiteFacts(site=site, rounds=joined[site], refusals=refused[site], declared_rows=0, epsilon=spent.get(site))
        for site in sorted({*joined, *refused, *spent})
    ]


def _priced(sites: Sequence[SiteFacts], private: bool) -> list[SiteFacts]:
    """A site that took part in private rounds and has no epsilon had one that JSON can't hold: infinity."""
    unbounded = {"epsilon": math.inf}
    return [
        site.model_copy(update=unbounded) if private and site.rounds and site.epsilon is None else site
        for site in sites
    ]


def _grouped(rounds: Sequence[RoundFacts]) -> list[_Refusals]:
    """Refusals, the most frequent first; reasons that differ in numbers only count as one."""
    groups: dict[tuple[str, str], list[tuple[int, RefusedFacts]]] = {}
    for record in rounds:
        for refused in record.refused:
            reason = refused.reason[:_REASON_CHARACTERS]
            groups.setdefault((refused.error, re.sub(r"\d+", "#", reason)), []).append((record.round, refused))
    return sorted(
        (
            _Refusals(
                error=error,
                example=members[0][1].reason[:_REASON_CHARACTERS],
                alike=len({refused.reason for _, refused in members}) == 1,
                count=len(members),
                sites=sorted({refused.site for _, refused in members}),
                rounds=sorted({number for number, _ in members}),
            )
            for (error, _), members in groups.items()
        ),
        key=lambda group: -group.count,
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"epsilon": _epsilon, "shown": shown}
    return environment


def _epsilon(value: float | None) -> str:
    """Three decimals, rounded up: what is shown is never below what was computed."""
    if value is None:
        return "—"
    if not math.isfinite(value):
        return "∞"
    return f"{Decimal(repr(value)).quantize(Decimal('0.001'), ROUND_CEILING)}"
