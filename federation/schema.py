"""What a task asks of a table: its columns, their kinds and public bounds. Tables are checked by it when they are read.

Bounds and categories are public: what such a measurement can be, never what the records say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["number", "integer", "category"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    kind:           number; integer (a whole number); category (one of `categories`, given to the task as its position).
                    true and false are the numbers 1 and 0
    lower, upper:   public bounds of a number, both inclusive; None: unbounded
    categories:     the texts that a category may be
    may_be_missing: whether a cell may be empty; it becomes NaN. A label is never missing, whatever stands here

    Raises:
        ValueError: categories without the kind or the other way round, bounds of a category, or lower above upper.
    """

    name: str
    kind: Kind = "number"
    lower: float | None = None
    upper: float | None = None
    categories: tuple[str, ...] = ()
    may_be_missing: bool = True

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.lower, self.upper) if bound is not None]
        if not self.name:
            raise ValueError("a column needs a name")
        if (self.kind == "category") != bool(self.categories):
            raise ValueError(f"column {self.name!r}: kind 'category' and categories go together")
        if len(set(self.categories)) != len(self.categories):
            raise ValueError(f"column {self.name!r}: a category stands there twice")
        if any(category != category.strip() for category in self.categories):
            raise ValueError(f"column {self.name!r}: a category has spaces around it, which no cell ever has")
        if self.kind == "category" and bounds:
            raise ValueError(f"column {self.name!r}: a category has no bounds")
        if any(math.isnan(bound) for bound in bounds):
            raise ValueError(f"column {self.name!r}: a bound is NaN")
        if len(bounds) == 2 and bounds[0] > bounds[1]:
            raise ValueError(f"column {self.name!r}: lower bound {self.lower} is above upper bound {self.upper}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The input columns, in the order in which the task's `x` holds them, and the label.

    columns: none for inputs that are no tables, such as images
    label:   None leaves it open: any whole number

    Raises:
        ValueError: two columns have one name.
    """

    columns: tuple[Column, ...]
    label: Column | None = None

    def __post_init__(self) -> None:
        names = [column.name for column in (*self.columns, *([self.label] if self.label else []))]
        if len(set(names)) != len(names):
            raise ValueError("a schema's columns and label need different names")
