"""The pages hold code that runs and links that lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").rglob("*.md"))]


def _output(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readmes_example_runs_as_it_stands_and_keeps_its_budget(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (_ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(code.splitlines()) <= 20
    lines = _output(code, tmp_path).splitlines()
    assert [line.split()[0] for line in lines[:10]] == [str(number) for number in range(1, 11)]
    assert float(lines[9].split()[1].rstrip("%")) / 100 > 0.6
    assert 1.9 < float(lines[9].split()[2]) <= 2.0


def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    printed = _output((_ROOT / "docs" / "tutorial.py").read_text(), tmp_path)
    assert "ended: all planned rounds are done" in printed
    assert "site-0: 25 rounds, epsilon 4.00 of 4" in printed


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text()
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    named = re.findall(r"`((?:docs|privacy|federation|clients|server|simulations|tests)/[\w./-]+\.\w+)`", text)
    missing = [name for name in linked if not (page.parent / name).exists()]
    missing += [name for name in named if not (_ROOT / name).exists()]
    assert not missing


def test_every_setting_in_a_page_is_a_setting() -> None:
    from federation.reading import settings

    text = "\n".join(page.read_text() for page in _PAGES)
    tables = {key.partition(".")[0] for key in settings() if "." in key}
    named = re.findall(rf"`((?:{'|'.join(tables)})\.[a-z_0-9]+)[` =]", text)
    assert named
    assert set(named) <= settings().keys() | {"privacy.py"}
