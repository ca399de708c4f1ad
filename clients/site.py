"""One site: it checks the order, counts the price, trains, and answers. `Site.train` is the whole promise.

Between rounds a site keeps only its history (`federation.messages.History`), which its caller stores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clients.data import DataSet
from clients.declaration import declared_rows, declared_units
from clients.kept_model import Keep, keep_nothing
from clients.model_check import refuse_dependent_losses, refuse_model
from clients.records import Records
from clients.training import Protection, Settings, refuse_mixing_layers, train_privately, train_without_privacy
from clients.whole_update import train_as_one
from federation.contradictions import refuse_loose_delta
from federation.evaluation import metric_sums
from federation.layout import Layout
from federation.orders import EvaluateReport, History, Order, TrainReport
from federation.plan import HardwareSettings, Plan
from federation.promise import refuse_beyond_budget, round_mechanism
from federation.rows import Rows
from federation.seeding import first_model
from federation.site_info import SiteInfo
from federation.task import Task
from privacy.errors import OrderRefused
from privacy.mechanism import Mechanism
from privacy.noise import RandomStream


class Models(threading.local):
    """One model a thread for the task last used there, so that thousands of sites share a few models."""

    def __init__(self) -> None:
        self._made_for: tuple[Task, int, HardwareSettings] | None = None
        self._model: nn.Module | None = None
        self._checked = False

    def of(self, task: Task, plan: Plan) -> nn.Module:
        """The thread's model of this task: what travels as last loaded, the rest as the plan's seed drew it."""
        wanted = (task, plan.seed, plan.hardware)
        if self._model is None or self._made_for != wanted:
            self._made_for, self._model, self._checked = wanted, first_model(task, plan.seed), False
        return self._model

    def check_once(self, task: Task, rows: Rows, hardware: HardwareSettings) -> None:
        """Tries on made-up records that the model's losses and gradients are each record's own, once for each model.

        Raises:
            TaskInvalid, ModelUnsupported: they are not.
        """
        assert self._model is not None
        if not self._checked:
            refuse_dependent_losses(task, self._model, rows)
            refuse_mixing_layers(task, self._model, rows, hardware)
            self._checked = True

    def forget(self) -> None:
        """Lets go of the model; the next one is made afresh."""
        self._made_for = self._model = None


MODELS = Models()


@dataclass(slots=True, kw_only=True)
class Site:
    """A site of one run: what it trains, who it is, and the run's plan.

    data: its sealed records; None where the task reads its own
    keep: is handed each order's model before it is trained further
    """

    task: Task
    info: SiteInfo
    plan: Plan
    data: DataSet | None = None
    keep: Keep = keep_nothing
    _records: Records = field(init=False)

    def __post_init__(self) -> None:
        self._records = Records(task=self.task, info=self.info, data=self.data)

    def train(self, order: Order, history: History, remember: Callable[[History], None]) -> TrainReport:
        """Trains one round; calls `remember` with the new history before a record is read.

        Raises:
            OrderRefused: the order is for another plan, or its round was taken up before.
            BudgetExhausted: the round would pass the plan's budget.
            ModelUnsupported, TaskInvalid, DataInvalid: the task can't be trained here.
        """
        self._refuse(order, history)
        model = self._model(order)
        mechanism = self._priced(model, history)
        remember(after(history, order.address.round, mechanism))
        self.keep(order, Layout.of(model), self.plan)
        try:
            update = self._trained(model, order, mechanism) - order.vector  # (P,)
        except Exception:
            MODELS.forget()  # the model may hold what only a finished round may keep
            raise
        return TrainReport(
            address=order.address,
            site=self.info.name,
            update=update,
            mechanism=mechanism,
            declared_rows=declared_rows(self.info, self.plan),
            seeded=self.info.simulation_seed is not None,
        )

    def evaluate(self, order: Order) -> EvaluateReport:
        """Plain metric sums of the order's model over the site's held-out records.

        Raises:
            OrderRefused: the order is for another plan, or the plan does not report plain metrics.
        """
        self._refuse(order, None)
        if self.plan.metrics != "plain":
            raise OrderRefused("the plan says metrics = 'none': this site reports no metrics")
        test = self._records.testing(self._device())
        sums = metric_sums(self.task, self._model(order).eval(), test)
        return EvaluateReport(address=order.address, site=self.info.name, sums=sums)

    def _refuse(self, order: Order, history: History | None) -> None:
        address = order.address
        if self.info.agreed_plan is not None and self.info.agreed_plan != self.plan.digest:
            raise OrderRefused(
                f"this site's engineer agreed to plan {self.info.agreed_plan[:12]}… only, the run's plan is "
                f"{self.plan.digest[:12]}…; `fedseal plan check` prints a plan's hash"
            )
        if address.plan != self.plan.digest:
            raise OrderRefused(
                f"the order is under plan {address.plan[:12]}…, the run's settings are plan {self.plan.digest[:12]}…"
            )
        if not 1 <= address.round <= self.plan.rounds:
            raise OrderRefused(f"round {address.round} is outside the plan's {self.plan.rounds} rounds")
        if history is not None and address.round <= history.last_round:
            raise OrderRefused(f"round {address.round} was taken up before: an order is answered once")

    def _model(self, order: Order) -> nn.Module:
        model = MODELS.of(self.task, self.plan).to(self._device())
        Layout.of(model).load(model, order.vector)
        return model

    def _priced(self, model: nn.Module, history: History) -> Mechanism | None:
        if not self.plan.is_private:
            return None
        refuse_model(model, self.plan.privacy.unit)
        mechanism = round_mechanism(self.plan)
        refuse_beyond_budget(self.plan, history.mechanisms, mechanism)
        if mechanism.unit != "client":
            refuse_loose_delta(self.plan, declared_units(self.info, self.plan))
        self._records.refuse_missing_units()
        return mechanism

    def _trained(self, model: nn.Module, order: Order, mechanism: Mechanism | None) -> NDArray[np.float32]:
        rows = self._records.training(self._device())
        settings = Settings(
            training=self.plan.training, hardware=self.plan.hardware, stream=self._stream(order.address.round)
        )
        if mechanism is None:
            return train_without_privacy(self.task, model, rows, settings)
        if mechanism.unit == "client":
            return train_as_one(self.task, model, rows, mechanism, settings)
        MODELS.check_once(self.task, rows.take(torch.arange(min(1, len(rows)))), self.plan.hardware)
        protection = Protection(
            mechanism=mechanism,
            denominator=self.plan.training.sample_rate * declared_units(self.info, self.plan),
            records_per_group=self.plan.privacy.records_per_group,
        )
        return train_privately(self.task, model, rows, protection, settings)

    def _stream(self, round_number: int) -> RandomStream:
        seed = self.info.simulation_seed
        if seed is None:
            return RandomStream.from_system()
        return RandomStream.from_seed(seed, "site", self.info.index, "round", round_number)

    def _device(self) -> torch.device:
        wanted = self.plan.hardware.device
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(wanted)


def after(history: History, round_number: int, mechanism: Mechanism | None) -> History:
    """The history once this round is taken up."""
    added = () if mechanism is None else (mechanism,)
    return History(last_round=round_number, mechanisms=(*history.mechanisms, *added))
