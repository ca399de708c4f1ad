"""One site: it checks the order, reserves the price, trains, and answers. `Site.train` is the whole promise.

`train`, `evaluate` and `release_statistics` answer in the clear, and the site keeps only its ledger between rounds. In
an encrypted run `clients/encrypted_site.py` has the same releases made, and wraps them as ciphertexts.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clients.account import Account, Reservation
from clients.data import DataSet
from clients.declaration import declared_units
from clients.kept_model import Keep, KeptModel, keep_nothing
from clients.model_check import refuse_dependent_answers, refuse_dependent_losses, refuse_model
from clients.plain_wrap import PlainSums, PlainUpdate
from clients.records import Records
from clients.training import Protection, Settings, refuse_mixing_layers, train_privately, train_without_privacy
from clients.whole_update import train_as_one
from clients.wrap import Price, Released, Wrapped, WrapSums, WrapUpdate
from federation import statistics
from federation.contradictions import refuse_loose_delta
from federation.evaluation import metric_sums
from federation.layout import Layout
from federation.orders import Order, SumsReport, TrainReport
from federation.plan import Plan
from federation.plan_settings import HardwareSettings
from federation.private_metrics import noised, noisy_sums
from federation.promise import metrics_mechanism, round_mechanism, statistics_mechanism
from federation.rows import Rows, RowSource
from federation.seeding import first_model
from federation.site_info import SiteInfo
from federation.task import Task, informed
from federation.unit_sums import UnitSum
from privacy.errors import OrderRefused
from privacy.ledger import Ledger
from privacy.mechanism import Mechanism
from privacy.noise import RandomStream


class Models(threading.local):
    """One model a thread for the task last used there, so that thousands of sites share a few models."""

    def __init__(self) -> None:
        self._made_for: tuple[Task, int, HardwareSettings] | None = None
        self._model: nn.Module | None = None
        self._checked: set[str] = set()

    def of(self, task: Task, plan: Plan) -> nn.Module:
        """The thread's model of this task: what travels as last loaded, the rest as the plan's seed drew it."""
        wanted = (task, plan.seed, plan.hardware)
        if self._model is None or self._made_for != wanted:
            self._made_for, self._model, self._checked = wanted, first_model(task, plan.seed), set()
        return self._model

    def check_training_once(self, task: Task, rows: Rows, hardware: HardwareSettings) -> None:
        """Tries on made-up records that the model's losses and gradients are each record's own, once for each model.

        Raises:
            TaskInvalid, ModelUnsupported: they are not.
        """
        assert self._model is not None
        if "training" not in self._checked:
            refuse_dependent_losses(task, self._model, rows)
            refuse_mixing_layers(task, self._model, rows, hardware)
            self._checked.add("training")

    def check_metrics_once(self, task: Task, rows: Rows) -> None:
        """Tries on made-up records that what private metrics sum is each record's own, once for each model.

        Raises:
            TaskInvalid: it is not.
        """
        assert self._model is not None
        if "metrics" not in self._checked:
            refuse_dependent_answers(task, self._model.eval(), rows)
            self._checked.add("metrics")

    def forget(self) -> None:
        """Lets go of the model; the next one is made afresh."""
        self._made_for = self._model = None


MODELS = Models()
_VALUES_AT_ONCE = 1 << 22  # 32 MiB of float64


@dataclass(slots=True, kw_only=True)
class Site:
    """A site of one run: what it trains, who it is, and the run's plan.

    ledger: the site's, in which every release is reserved
    data: its sealed records; None where the task reads its own
    keep: is handed each order's model before it is trained further
    """

    task: Task
    info: SiteInfo
    plan: Plan
    ledger: Ledger
    data: DataSet | None = None
    keep: Keep = keep_nothing
    _records: Records = field(init=False)

    def __post_init__(self) -> None:
        self._records = Records(task=self.task, info=self.info, data=self.data)

    @property
    def name(self) -> str:
        """What people call it."""
        return self.info.name

    def train(self, order: Order) -> TrainReport:
        """The update of one round, in the clear. Raises as `make_update`."""
        return self.make_update(order, PlainUpdate(order=order, info=self.info))

    def evaluate(self, order: Order) -> SumsReport:
        """Metric sums of the order's model, in the clear. Raises as `make_metrics`."""
        return self.make_metrics(order, PlainSums(order=order, info=self.info, purpose="metrics"))

    def release_statistics(self, order: Order) -> SumsReport:
        """The noisy sums that the task asks for, in the clear. Raises as `make_statistics`."""
        return self.make_statistics(order, PlainSums(order=order, info=self.info, purpose="statistics"))

    def make_update(self, order: Order, wrap: WrapUpdate[Released]) -> Released:
        """Trains one round; its price is durable before a record is read.

        Raises:
            OrderRefused: the order is for another plan, its round was answered before, or the site does not allow it.
            BudgetExhausted: the round would pass the site's budget or the plan's.
            ModelUnsupported, TaskInvalid, DataInvalid: the task can't be trained here.
            LedgerCorrupt, LedgerRolledBack, StorageFailed, StorageBusy, KeyRefused: the ledger can't be relied on.
        """
        self._refuse(order, range(1, self.plan.rounds + 1))
        self._learn(order)
        model = self._model(order)
        mechanism = self._mechanism(model)
        account = self._account()
        reservation = account.reserve(order, self.plan, "update", mechanism)
        address = order.address
        kept = KeptModel(run=address.run, round=address.round, vector=order.vector, statistics=order.statistics)
        self.keep(kept, Layout.of(model), self.plan)
        try:
            update = self._trained(model, order, mechanism) - order.vector  # (P,)
        except Exception:
            MODELS.forget()  # the model may hold what only a finished round may keep
            raise
        return _settled(account, reservation, wrap(update, self._price(mechanism)))

    def make_metrics(self, order: Order, wrap: WrapSums[Released]) -> Released:
        """Metric sums of the order's model over the site's held-out records: noisy or exact, as the plan says.

        Raises:
            OrderRefused: the order is for another plan, the plan reports no metrics, or the site's budget does not
                allow exact ones.
            TaskInvalid: one record could move what private metrics say of another.
            BudgetExhausted: noisy ones would pass the site's budget or the plan's.
            LedgerCorrupt and others: as `train`.
        """
        self._refuse(order, range(1, self.plan.rounds + 1))
        if self.plan.metrics == "none":
            raise OrderRefused("the plan says metrics = 'none': this site reports no metrics")
        mechanism = metrics_mechanism(self.plan)
        self._learn(order)
        self._refuse_loose_delta(mechanism)
        account = self._account()
        reservation = account.reserve(order, self.plan, "metrics", mechanism)
        task, test, model = self._records.task, self._records.testing(self._device()), self._model(order)
        if mechanism is None:
            sums = metric_sums(task, model.eval(), test)
        else:
            if mechanism.unit != "client":
                MODELS.check_metrics_once(task, _one(test))
            stream = self.stream("metrics", order.address.round)
            sums = noisy_sums(task, model.eval(), test, self.plan, mechanism, stream)
        return _settled(account, reservation, wrap(sums, self._price(mechanism)))

    def make_statistics(self, order: Order, wrap: WrapSums[Released]) -> Released:
        """The noisy sums that the task asks for of the site's training records, before the first round.

        Raises:
            OrderRefused: the order is for another plan, or plan and task do not both ask for statistics.
            TaskInvalid: the records have not the columns that the task asks for, or it asks for too many values.
            BudgetExhausted, LedgerCorrupt and others: as `train`.
        """
        self._refuse(order, range(1))
        wanted = self.task.statistics
        mechanism = statistics_mechanism(self.plan, statistics.bound(wanted)) if wanted else None
        if mechanism is None:
            raise OrderRefused("statistics are released only where the plan and the task both ask for them")
        width = statistics.width(wanted)
        self._refuse_loose_delta(mechanism)
        account = self._account()
        reservation = account.reserve(order, self.plan, "statistics", mechanism)
        rows = self._records.raw(torch.device("cpu"))
        total = UnitSum(mechanism.unit, width)
        for positions in torch.arange(len(rows)).split(max(1, _VALUES_AT_ONCE // width)):
            batch = rows.take(positions)
            total.add(statistics.vectors(wanted, batch), batch.units)
        noisy = noised(total.result(), mechanism, self.stream("statistics", 0))
        return _settled(account, reservation, wrap({"statistics": noisy}, self._price(mechanism)))

    def refuse_plan(self) -> None:
        """Passes the plan if the newest budget allows what the server would read. Raises as `Account.refuse`."""
        self._account().refuse(self.plan)

    def _price(self, mechanism: Mechanism | None) -> Price:
        return Price(mechanism=mechanism, seeded=self.info.simulation_seed is not None)

    def _learn(self, order: Order) -> None:
        """From now on records are prepared by what the order's statistics say."""
        if (self.plan.statistics == "private") != bool(order.statistics):
            raise OrderRefused("the order has statistics that the plan does not ask for, or lacks those that it does")
        self._records.task = informed(self.task, order.statistics)

    def _refuse(self, order: Order, rounds: range) -> None:
        address = order.address
        self.info.refuse_other_plan(self.plan)
        if address.plan != self.plan.digest:
            raise OrderRefused(
                f"the order is under plan {address.plan[:12]}…, the run's settings are plan {self.plan.digest[:12]}…"
            )
        if address.round not in rounds:
            raise OrderRefused(f"round {address.round} is outside the plan's {self.plan.rounds} rounds")

    def _account(self) -> Account:
        """The account of the records from which the coming round reads, and no others."""
        data = self._records.look_again()
        self._records.refuse_missing_units()
        return Account(ledger=self.ledger, data=data)

    def _model(self, order: Order) -> nn.Module:
        model = MODELS.of(self.task, self.plan).to(self._device())
        Layout.of(model).load(model, order.vector)
        return model

    def _mechanism(self, model: nn.Module) -> Mechanism | None:
        if not self.plan.is_private:
            return None
        refuse_model(model, self.plan.privacy.unit)
        mechanism = round_mechanism(self.plan)
        self._refuse_loose_delta(mechanism)
        return mechanism

    def _refuse_loose_delta(self, mechanism: Mechanism | None) -> None:
        if mechanism is not None and mechanism.unit != "client":
            refuse_loose_delta(self.plan, declared_units(self.info, self.plan))

    def _trained(self, model: nn.Module, order: Order, mechanism: Mechanism | None) -> NDArray[np.float32]:
        task, rows = self._records.task, self._records.training(self._device())
        settings = Settings(
            training=self.plan.training, hardware=self.plan.hardware, stream=self.stream("round", order.address.round)
        )
        if mechanism is None:
            return train_without_privacy(task, model, rows, settings)
        if mechanism.unit == "client":
            return train_as_one(task, model, rows, mechanism, settings)
        MODELS.check_training_once(task, _one(rows), self.plan.hardware)
        protection = Protection(
            mechanism=mechanism,
            denominator=self.plan.training.sample_rate * declared_units(self.info, self.plan),
            records_per_group=self.plan.privacy.records_per_group,
        )
        return train_privately(task, model, rows, protection, settings)

    def stream(self, what: str, round_number: int) -> RandomStream:
        """The site's randomness for one purpose of one round: from the system, or in simulations from the seed."""
        seed = self.info.simulation_seed
        if seed is None:
            return RandomStream.from_system()
        return RandomStream.from_seed(seed, "site", self.info.index, what, round_number)

    def _device(self) -> torch.device:
        wanted = self.plan.hardware.device
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(wanted)


def _settled(account: Account, reservation: Reservation, wrapped: Wrapped[Released]) -> Released:
    """What leaves, once the ledger holds its digest."""
    return wrapped.with_receipt(account.settle(reservation, wrapped.digest))


def _one(rows: RowSource) -> Rows:
    """A record, or none where there is none: to see what records are shaped like."""
    return rows.take(torch.arange(min(1, len(rows))))
