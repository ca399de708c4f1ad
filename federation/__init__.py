"""The words that both sides say: the public ones in one place."""

from federation.plan import Plan
from federation.rows import Rows
from federation.site_info import SiteInfo
from federation.task import Task

__all__ = ["Plan", "Rows", "SiteInfo", "Task"]
