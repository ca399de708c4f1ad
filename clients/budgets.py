"""A site's budget as people write it and read it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from privacy.entries import BudgetSet
from privacy.errors import DataInvalid
from privacy.ledger import now

PRIVATE_UNITS = ["record", "group", "client"]
AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        help="record, group, client, none, plain-metrics, plain-updates, server-release; may be repeated, and replaces "
        "what was allowed. Else the first three."
    ),
]


def read_budget(asked: Mapping[str, object]) -> BudgetSet:
    """The budget of these settings: epsilon, delta; account, per_run, per_round, allow where they are there.

    Raises:
        DataInvalid: a value can't be a budget.
    """
    absent = {"account": None, "per_run": None, "per_round": None, "allow": PRIVATE_UNITS}
    try:
        return BudgetSet.model_validate({**absent, **asked, "time": now()})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise DataInvalid(f"budget: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def budget_table(path: Path) -> dict[str, object]:
    """The settings of a policy file's table [budget]: epsilon, delta, per_run, per_round, allow.

    Raises:
        DataInvalid: the file can't be read, or has no such table.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))["budget"]
    except OSError as error:
        raise DataInvalid(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataInvalid(f"{path} is no TOML: {error}") from None
    except KeyError:
        table = None
    if not isinstance(table, dict):
        raise DataInvalid(f"{path} has no table [budget] with epsilon and delta")
    return {name: float(value) if type(value) is int else value for name, value in table.items()}


def in_words(budget: BudgetSet) -> str:
    """What may be spent, in one line."""
    bounds = [f"epsilon {budget.epsilon:g} at delta {budget.delta:g} for ever"]
    bounds += [f"{budget.per_run:g} a run"] if budget.per_run is not None else []
    bounds += [f"{budget.per_round:g} a release"] if budget.per_round is not None else []
    return f"{', '.join(bounds)}; allowed: {', '.join(budget.allow) or 'nothing'}"
