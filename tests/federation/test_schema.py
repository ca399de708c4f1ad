"""A schema that contradicts itself is a programmer's mistake."""

from __future__ import annotations

from typing import Any

import pytest

from federation.schema import Column, Schema
from federation.task import Task


@pytest.mark.parametrize(
    ("told", "column"),
    [
        ("needs a name", {"name": ""}),
        ("go together", {"name": "sex", "kind": "category"}),
        ("go together", {"name": "sex", "categories": ("f", "m")}),
        ("go together", {"name": "sex", "kind": "integer", "categories": ("f", "m")}),
        ("stands there twice", {"name": "sex", "kind": "category", "categories": ("f", "f")}),
        ("spaces around it", {"name": "sex", "kind": "category", "categories": ("f ",)}),
        ("has no bounds", {"name": "sex", "kind": "category", "categories": ("f",), "lower": 0}),
        ("lower bound 2 is above upper bound 1", {"name": "age", "lower": 2, "upper": 1}),
        ("a bound is NaN", {"name": "age", "upper": float("nan")}),
    ],
)
def test_a_column_that_contradicts_itself_is_refused(told: str, column: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=told):
        Column(**column)


def test_a_column_may_have_one_value_one_bound_or_none() -> None:
    assert Column(name="age", lower=1, upper=1).lower == 1
    assert Column(name="age", lower=1).upper is None
    assert Column(name="age") == Column(name="age", kind="number", may_be_missing=True)


def test_two_columns_of_one_name_are_refused_the_label_among_them() -> None:
    with pytest.raises(ValueError, match="different names"):
        Schema(columns=(Column(name="age"), Column(name="age")))
    with pytest.raises(ValueError, match="different names"):
        Schema(columns=(Column(name="age"),), label=Column(name="age"))
    assert Schema(columns=()).label is None


def test_a_task_has_no_schema_unless_it_says_so() -> None:
    assert Task.schema is None
