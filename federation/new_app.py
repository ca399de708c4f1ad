"""Writes a small working app, from the templates beside this file."""

from __future__ import annotations

import re
from pathlib import Path

from privacy.errors import PlanInvalid

_TEMPLATES = Path(__file__).parent / "templates"


def write_app(folder: Path) -> list[Path]:
    """Writes pyproject.toml, task.py and README.md into a new or empty folder; returns what was written.

    Raises:
        PlanInvalid: the folder holds something already; nothing was changed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PlanInvalid(f"{folder} is there already and not empty: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    name = _project_name(folder.resolve().name)
    written = []
    for template in sorted(_TEMPLATES.glob("*.txt")):
        path = folder / template.stem
        path.write_text(template.read_text(encoding="utf-8").replace("@NAME@", name), encoding="utf-8")
        written.append(path)
    return written


def _project_name(folder: str) -> str:
    """What Flower takes as a project name: a letter, then letters, digits and hyphens, 32 at most."""
    plain = re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-")
    return (plain if plain[:1].isalpha() else f"app-{plain}")[:32].strip("-")
