"""Tasks that ask for private metrics and statistics, the sites that release them, and the orders that they answer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from clients.site import Site
from federation.orders import Order, SumsReport, digest_of_sums
from federation.plan import Plan, Scalar
from federation.rows import Rows
from federation.site_info import SiteInfo
from federation.statistics import Moments
from privacy.entries import Settled
from privacy.errors import DataInvalid
from privacy.ledger import Ledger
from privacy.receipts import judged
from tests.client_builders import PRIVATE, Build, GivenTask, order, plan, releases, site

ROOMY: dict[str, Scalar] = {**PRIVATE, "rounds": 2, "data.rows_per_site": 10}
MEASURED: dict[str, Scalar] = {**ROOMY, "metrics": "private"}
SURVEYED: dict[str, Scalar] = {**ROOMY, "statistics": "private"}
HALF = torch.tensor([True, False] * 5)
TEN = Rows(fields={"x": torch.arange(20.0).reshape(10, 2), "y": torch.arange(10) % 2}, held_out=HALF)
AGES = Moments(field="x", lower=(0.0, 0.0), upper=(20.0, 20.0))
UNITS = ["record", "group", "client"]


class Surveying(GivenTask):
    """A task that asks for statistics; notes what the ledger counts when records are read, and what was learned."""

    statistics = (AGES,)

    def __init__(self, ledger: Ledger, rows: Rows | None = TEN, build: Build = lambda: nn.Linear(2, 2)) -> None:
        super().__init__(build, rows)
        self.counted: list[list[tuple[str, object]]] = []
        self.prepared_by: list[list[float]] = []
        self._ledger = ledger

    def rows(self, site: SiteInfo) -> Rows:
        self.counted.append([(release.purpose, release.mechanism) for release in releases(self._ledger)])
        if self._given is None:
            raise DataInvalid("the table is gone")
        return super().rows(site)

    def prepare(self, rows: Rows) -> Rows:
        assert self.learned is not None
        self.prepared_by.append(self.learned.mean("x").tolist())
        return rows.replace(x=(rows["x"] - self.learned.mean("x")) / self.learned.deviation("x"))


class Measuring(Surveying):
    """The same without statistics."""

    statistics = ()

    def prepare(self, rows: Rows) -> Rows:
        return rows


def here(task: GivenTask, agreed: Plan, ledger: Ledger) -> Site:
    if agreed.privacy.unit == "group" and task._given is not None:
        task._given = replace(task._given, units=torch.arange(10))
    return site(task, agreed, ledger=ledger)


def survey(task: GivenTask, agreed: Plan, run: str = "1") -> Order:
    """The order to release statistics."""
    return order(task, agreed, 0, run)


def informing(task: GivenTask, agreed: Plan, *values: float, number: int = 1) -> Order:
    return replace(order(task, agreed, number), statistics=values)


def of_unit(settings: dict[str, Scalar], unit: str) -> Plan:
    groups = {"data.units_per_site": 10} if unit == "group" else {}
    return plan({**settings, "privacy.unit": unit, **groups})


def settled(report: SumsReport, ledger: Ledger) -> None:
    """The receipt of the report proves its own reserve and settlement."""
    *_, reserve, last = ledger.entries()
    assert isinstance(last, Settled)
    assert ledger.entries()[last.reserve] == reserve
    assert last.report == report.digest.hex() == digest_of_sums(report.address, "north", report.sums).hex()
    _, shown = judged(report.receipt, None)
    assert list(shown.values())[-2:] == [reserve, last]
