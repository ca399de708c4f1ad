"""The words that both sides say: the public ones in one place, loaded when first asked for (torch is large)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from federation.plan import Plan
    from federation.reading import read_plan
    from federation.rows import Rows
    from federation.site_info import SiteInfo
    from federation.task import Task

__all__ = ["Plan", "Rows", "SiteInfo", "Task", "read_plan"]

_HOMES = {"Plan": "plan", "Rows": "rows", "SiteInfo": "site_info", "Task": "task", "read_plan": "reading"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'federation' has no attribute {name!r}")
    return getattr(import_module(f"federation.{_HOMES[name]}"), name)
