"""The report's three plots as inline SVG: figures by round, epsilon by round and site, one against the other.

Promises: a plot is a function of numbers. No text from outside enters an SVG (labels travel beside it, for the page to
escape), no id is used twice on a page, nothing is fetched, and colours are the page's CSS variables, so that one SVG is
legible in light, in dark and on paper. Matplotlib's SVG settings are global, therefore drawing holds a lock; pyplot is
never used. Sources: matplotlib "Customizing Matplotlib" (svg.*), `matplotlib.figure.Figure`.
"""

from __future__ import annotations

import io
import math
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_high
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

SITES_DRAWN = 20

_SERIES = 8  # --series-1 .. --series-8 in templates/report.css
_DASHES = ("", "1.5 2.5", "7 2 1.5 2")  # solid, dotted, dash-dot: series 9 to 24 stay distinct
_BUDGET_DASHES = "5 3"
_INK, _GRID, _STRONG = "#010101", "#020202", "#030303"
_VARIABLES = {_INK: "var(--muted)", _GRID: "var(--line)", _STRONG: "var(--ink)"} | {
    f"#0a0b{index:02x}": f"var(--series-{index})" for index in range(1, _SERIES + 1)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.id": None,
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 10.0,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linestyle": "-",
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.8,
    "path.simplify": False,
}
_DRAWING = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One entry of a legend: the CSS variable of its colour, its stroke-dasharray, and its label (untrusted text)."""

    colour: str
    dashes: str
    label: str
    band: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One plot: `view_box` and `markup` are made here, safe to inline; all else is text that the page must escape."""

    name: str
    title: str
    description: str
    view_box: str
    markup: str
    legend: tuple[Key, ...]


def figures_plot(rounds: Sequence[int], lines: Mapping[str, Sequence[float | None]]) -> Plot:
    """Figures of the model (accuracy, AUROC, ...) by round, one line each."""
    keys = tuple(_key(index, shown(name)) for index, name in enumerate(lines))

    def draw(axes: Axes) -> None:
        for key, values in zip(keys, lines.values(), strict=True):
            _line(axes, rounds, [math.nan if value is None else value for value in values], key)
        _axis_of_rounds(axes, rounds)

    described = "; ".join(f"{shown(name)} {_from_to(rounds, values)}" for name, values in lines.items())
    return _plot("figures", draw, title=_title(lines, "by round"), description=described, legend=keys)


def epsilon_plot(rounds: Sequence[int], spent: Sequence[Mapping[str, float]], budget: float) -> Plot:
    """Epsilon spent by round: a line a site up to `SITES_DRAWN` sites, then the median in its min-max band."""
    sites = sorted({site for by_site in spent for site in by_site})
    largest = max((value for by_site in spent for value in by_site.values() if math.isfinite(value)), default=0.0)
    limit = Key(colour="--ink", dashes=_BUDGET_DASHES, label=f"budget {budget:g}")
    groups = _same_lines(sites, spent) if len(sites) <= SITES_DRAWN else []
    keys = tuple(_key(index, label) for index, (label, _) in enumerate(groups)) or (
        _key(0, "median of the sites that took part"),
    )
    band = Key(colour="--series-1", dashes="", label="smallest to largest", band=True)

    def draw(axes: Axes) -> None:
        if groups:
            for key, (_, values) in zip(keys, groups, strict=True):
                _line(axes, rounds, values, key)
        else:
            _band(axes, rounds, spent, keys[0])
        axes.axhline(budget, color=_STRONG, linewidth=1.2, linestyle=_linestyle(_BUDGET_DASHES))
        axes.set_ylim(0, 1.1 * max(budget, largest))
        _axis_of_rounds(axes, rounds)
        axes.set_ylabel("ε spent")

    return _plot(
        "epsilon",
        draw,
        title="Privacy spent (ε) by round and site",
        description=f"largest epsilon of any site {largest:.3f}, budget {budget:g}, {len(sites)} sites",
        legend=(*keys, limit) if groups else (*keys, band, limit),
    )


def trade_off_plot(figure: str, points: Sequence[tuple[int, float, float]]) -> Plot:
    """A figure against the median epsilon; points are (round, median epsilon, figure)."""
    rounds = [number for number, _, _ in points]
    spent, reached = [epsilon for _, epsilon, _ in points], [value for _, _, value in points]
    grown = f"while the median epsilon grew from {spent[0]:.3f} to {spent[-1]:.3f}"

    def draw(axes: Axes) -> None:
        axes.plot(spent, reached, color=_colour(1), alpha=0.4, linewidth=1.2)
        axes.plot(spent, reached, "o", color=_colour(1), markersize=4)
        falling = len(points) > 1 and reached[1] < reached[0]
        for at, side in {0: 1 if falling else -1, len(points) - 1: 1}.items():
            axes.plot(spent[at], reached[at], "o", color=_STRONG, markersize=6)
            axes.annotate(
                f"round {rounds[at]}",
                (spent[at], reached[at]),
                xytext=(0, 12 * side),
                textcoords="offset points",
                ha="right" if at else "left",
                va="center",
                color=_STRONG,
            )
        axes.margins(x=0.08, y=0.18)
        axes.set_xlabel("median ε spent")
        axes.set_ylabel(re.sub(r"[^A-Za-z0-9 _.%-]", "?", shown(figure))[:40])

    return _plot(
        "trade-off",
        draw,
        title=_title([figure], "against ε"),
        description=f"{shown(figure)} {_from_to(rounds, reached)}, {grown}",
        legend=(Key(colour="--series-1", dashes="", label="one point a round, joined in order"),),
    )


def shown(figure: str) -> str:
    """A figure's name as people write it."""
    return "AUROC" if figure == "auroc" else figure


def _title(figures: Iterable[str], rest: str) -> str:
    title = " and ".join(shown(figure) for figure in figures)
    return f"{title[:1].upper()}{title[1:]} {rest}"


def _same_lines(sites: Sequence[str], spent: Sequence[Mapping[str, float]]) -> list[tuple[str, list[float]]]:
    """Sites whose epsilon ran alike share a line; its label names them."""
    together: dict[tuple[float, ...], list[str]] = {}
    for site in sites:
        together.setdefault(tuple(by_site.get(site, -1.0) for by_site in spent), []).append(site)
    named = []
    for values, members in together.items():
        everyone = len(members) == len(sites) > 1
        more = f" and {len(members) - 3} more" if len(members) > 3 else ""
        label = f"all {len(sites)} sites, alike" if everyone else ", ".join(members[:3]) + more
        named.append((label, [math.nan if value < 0 else value for value in values]))
    return named


def _band(axes: Axes, rounds: Sequence[int], spent: Sequence[Mapping[str, float]], key: Key) -> None:
    drawn = [(at, sorted(by_site.values())) for at, by_site in zip(rounds, spent, strict=True) if by_site]
    at = [number for number, _ in drawn]
    axes.fill_between(
        at, [v[0] for _, v in drawn], [v[-1] for _, v in drawn], color=_colour(1), alpha=0.22, linewidth=0
    )
    _line(axes, at, [median_high(values) for _, values in drawn], key)


def _axis_of_rounds(axes: Axes, rounds: Sequence[int]) -> None:
    axes.set_xlim(left=min(rounds) - 0.5, right=max(rounds) + 0.5)
    axes.set_xlabel("round")


def _line(axes: Axes, rounds: Sequence[int], values: Sequence[float], key: Key) -> None:
    marked = len(rounds) == 1 or (len(rounds) <= 40 and not key.dashes)
    axes.plot(
        rounds,
        values,
        color=_hex(key.colour),
        linestyle=_linestyle(key.dashes),
        marker="o" if marked else "",
        markersize=3.2,
    )


def _plot(name: str, draw: Callable[[Axes], None], *, title: str, description: str, legend: tuple[Key, ...]) -> Plot:
    with _DRAWING, matplotlib.rc_context(_STYLE | {"svg.hashsalt": f"fedseal-{name}"}):
        figure = Figure(figsize=(4.7, 3.3), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=name != "trade-off"))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        axes.spines["left"].set_visible(False)
        draw(axes)
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    view_box, markup = _inline(drawing.getvalue(), f"plot-{name}")
    return Plot(name=name, title=title, description=description, view_box=view_box, markup=markup, legend=legend)


def _inline(document: str, prefix: str) -> tuple[str, str]:
    """The viewBox and the content of matplotlib's <svg>, with ids of its own and the page's colours."""
    box = re.search(r'viewBox="([0-9. ]+)"', document)
    if box is None:
        raise RuntimeError("matplotlib wrote an SVG without a viewBox")
    inner = document[document.index(">", box.end()) + 1 : document.rindex("</svg>")]
    inner = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", inner, flags=re.DOTALL)
    inner = inner.replace('id="', f'id="{prefix}-').replace("url(#", f"url(#{prefix}-")
    inner = inner.replace('xlink:href="#', f'href="#{prefix}-')
    for colour, variable in _VARIABLES.items():
        inner = inner.replace(colour, variable)
    return box[1], inner


def _key(index: int, label: str) -> Key:
    return Key(colour=f"--series-{index % _SERIES + 1}", dashes=_DASHES[index // _SERIES % len(_DASHES)], label=label)


def _colour(series: int) -> str:
    return _hex(f"--series-{series}")


def _hex(variable: str) -> str:
    return next(colour for colour, name in _VARIABLES.items() if name == f"var({variable})")


def _linestyle(dashes: str) -> str | tuple[int, tuple[float, ...]]:
    return (0, tuple(float(part) for part in dashes.split())) if dashes else "-"


def _from_to(rounds: Sequence[int], values: Sequence[float | None]) -> str:
    known = [(at, value) for at, value in zip(rounds, values, strict=True) if value is not None]
    if not known:
        return "unknown"
    (first, start), (last, end) = known[0], known[-1]
    return f"went from {start:.3g} in round {first} to {end:.3g} in round {last}"
