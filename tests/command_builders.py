"""The command `fedseal` run in this process, as its `main` runs it, and an app whose task checks tables by a schema."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

import fedseal

# The modules of apps stay loaded when a test ends: each has a name that nothing else has.
HEARTS = '''"""Age in whole years, sex, and a pressure that may be missing: alive or dead."""

from federation.preparation import drop_missing
from federation.schema import Column, Schema
from federation.task import Task
from torch import nn


class Hearts(Task):
    schema = Schema(
        columns=(
            Column(name="age", kind="integer", lower=0, upper=120, may_be_missing=False),
            Column(name="sex", kind="category", categories=("f", "m")),
            Column(name="pressure", lower=0),
        ),
        label=Column(name="outcome", kind="category", categories=("alive", "dead")),
    )

    def prepare(self, rows):
        return drop_missing(rows)

    def model(self):
        return nn.Linear(3, 2)

    def rows(self, site):
        raise NotImplementedError


task = Hearts()
'''


@dataclass(frozen=True, slots=True)
class Said:
    """What a command left: its exit status, and its two outputs."""

    status: int
    out: str
    err: str


def fedseal_says(*arguments: str | Path) -> Said:
    """Runs the command at a wide terminal where nobody types."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["fedseal", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.StringIO())
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(sys, "path_importer_cache", {})  # it would find the app of an earlier current folder
        patch.setenv("COLUMNS", "300")
        with pytest.raises(SystemExit) as left:
            fedseal.main()
    return Said(int(left.value.code or 0), out.getvalue(), err.getvalue())


def done(*arguments: str | Path) -> str:
    """What a command says that succeeds."""
    said = fedseal_says(*arguments)
    assert said.status == 0, said.err
    assert said.err == "", said.err
    return said.out


def refused(*arguments: str | Path) -> str:
    """What a command says that refuses: nothing on its output, exit status 1."""
    said = fedseal_says(*arguments)
    assert said.status == 1, said.out + said.err
    assert said.out == "", said.out
    assert said.err.startswith("fedseal: "), said.err
    return said.err.removeprefix("fedseal: ")


def app_in(folder: Path, module: str = "hearts_of_an_app", task: str = HEARTS) -> Path:
    """An app in `folder/app` whose task is `module:task`."""
    app = folder / "app"
    app.mkdir()
    (app / f"{module}.py").write_text(task)
    (app / "pyproject.toml").write_text(f'[tool.flwr.app.config]\ntask = "{module}:task"\n')
    return app
