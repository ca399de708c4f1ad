"""Epsilon of a data set, release by release, against its budget: PNG or SVG, by the file's name."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from privacy import files
from privacy.errors import DataInvalid

_FORMATS = (".png", ".svg")


def draw_spending(path: Path, name: str, spent: Sequence[tuple[int, float]], budget: tuple[float, float]) -> None:
    """Draws steps of (release, epsilon after it) below the budget's line.

    spent:  epsilon is infinite once something left without privacy
    budget: epsilon and delta

    Raises:
        DataInvalid: the file's name ends in neither .png nor .svg.
        StorageFailed: the disk refused.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if path.suffix not in _FORMATS:
        raise DataInvalid(f"{path}: a plot's name ends in {' or '.join(_FORMATS)}")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    bounded = [(release, value) for release, value in spent if math.isfinite(value)]
    axes.step(*zip((0, 0.0), *bounded, strict=True), where="post", label="spent", color="#1f5fa8")
    if len(bounded) < len(spent):
        axes.axvline(spent[len(bounded)][0], color="#b3261e", label="from here on no epsilon holds")
    axes.axhline(budget[0], linestyle="--", color="#b3261e", label=f"budget {budget[0]:g}")
    axes.set(
        title=f"What was spent on data set {name!r}",
        xlabel="release",
        ylabel=f"epsilon at delta {budget[1]:g} (add or remove one)",
        ylim=(0, max(budget[0], *(value for _, value in bounded), 0.0) * 1.1),
        xlim=(0, max((release for release, _ in spent), default=1) + 1),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best")
    axes.grid(alpha=0.3)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=150)
    files.replace(path, content.getvalue())
