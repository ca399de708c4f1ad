"""From text to a Plan: Flower's flat run config, TOML, an app's folder, `--set` of the command line.

Every refusal names the setting, says what is wrong, and offers the nearest right name or value.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from federation.contradictions import refuse_contradictions
from federation.plan import Plan, Scalar, flatten
from federation.plan_settings import Settings
from privacy.errors import PlanInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of `fedseal plan show`."""

    key: str
    default: Scalar | None
    unit: str
    meaning: str
    choices: tuple[str, ...]


def settings() -> dict[str, Setting]:
    """Every setting by its dotted key, in the order of the plan."""
    return {row.key: row for row in _settings(Plan, "")}


def read_plan(flat: Mapping[str, Scalar]) -> Plan:
    """A plan from dotted keys; what is not given has its default.

    Raises:
        PlanInvalid: a key is unknown, a value wrong, or two settings contradict each other.
    """
    known = settings()
    for key in flat:
        if key not in known:
            raise PlanInvalid(f"plan: there is no setting {key!r}{_nearest(key, list(known))}")
    tree: dict[str, object] = {}
    for key, value in flat.items():
        table, _, name = key.rpartition(".")
        target = tree.setdefault(table, {}) if table else tree
        assert isinstance(target, dict)
        target[name] = value
    try:
        plan = Plan.model_validate(tree)
    except ValidationError as error:
        raise PlanInvalid("\n".join(_sentence(problem, known) for problem in error.errors())) from None
    refuse_contradictions(plan)
    return plan


def app_config(folder: Path) -> dict[str, Scalar]:
    """The settings that an app's pyproject.toml gives, as dotted keys, unchecked.

    Raises:
        PlanInvalid: there is no such file or table, or it is not TOML.
    """
    path = folder / "pyproject.toml"
    if not path.is_file():
        raise PlanInvalid(f"{folder} is no app: it has no pyproject.toml; `fedseal new DIR` writes one to start from")
    try:
        config: object = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanInvalid(f"{path} is not valid TOML: {error}") from None
    for name in ("tool", "flwr", "app", "config"):
        config = config.get(name) if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping):
        raise PlanInvalid(f"{path} has no table [tool.flwr.app.config], which holds the plan")
    return flatten(config)


def read_overrides(assignments: list[str]) -> dict[str, Scalar]:
    """`privacy.epsilon=3` and its like, as dotted keys; values are TOML, or bare text where a setting is one.

    Raises:
        PlanInvalid: an assignment has no equals sign.
    """
    flat: dict[str, Scalar] = {}
    known = settings()
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise PlanInvalid(f"--set {assignment!r}: write KEY=VALUE, for example --set privacy.epsilon=3")
        row = known.get(key.strip())
        bare = row is not None and isinstance(row.default, str) and not text.startswith(('"', "'"))
        flat[key.strip()] = text if bare else _value(text)
    return flat


def _value(text: str) -> Scalar:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, bool | int | float | str) else text


def _settings(table: type[Settings], prefix: str) -> Iterator[Setting]:
    for name, field in table.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from _settings(field.annotation, f"{prefix}{name}.")
        else:
            extra = field.json_schema_extra
            yield Setting(
                key=prefix + name,
                default=field.default,
                unit=str(extra.get("unit", "")) if isinstance(extra, dict) else "",
                meaning=field.description or "",
                choices=_choices(field),
            )


def _choices(field: FieldInfo) -> tuple[str, ...]:
    return tuple(map(str, get_args(field.annotation))) if get_origin(field.annotation) is Literal else ()


def _sentence(problem: ErrorDetails, known: Mapping[str, Setting]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    given = problem["input"]
    row = known.get(key)
    if row is not None and row.choices:
        return (
            f"plan: {key} is {given!r}, but must be one of {', '.join(row.choices)}"
            f"{_nearest(str(given), list(row.choices))} ({row.meaning})"
        )
    wish = problem["msg"].removeprefix("Input ").replace("should", "must")
    return f"plan: {key} is {given!r}, but {wish}" + (f" ({row.meaning})" if row else "")


def _nearest(word: str, words: list[str]) -> str:
    by_end: dict[str, list[str]] = {}
    for candidate in words:
        by_end.setdefault(candidate.rpartition(".")[2], []).append(candidate)
    end = word.rpartition(".")[2]
    close = by_end.get(end) or get_close_matches(word, words, n=1, cutoff=0.6)
    if not close:
        close = [by_end[near][0] for near in get_close_matches(end, list(by_end), n=1, cutoff=0.6)]
    names = " or ".join(repr(name) for name in close)
    return f"; did you mean {names}?" if close else "; `fedseal plan show` lists them all"
