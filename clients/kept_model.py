"""The model that a site was last sent, kept sealed in its safe: what the site's own people may use and look at."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from federation.checkpoints import Checkpoint, keep, notes_of
from federation.layout import Layout
from federation.orders import Order
from federation.plan import Plan
from privacy.errors import FedSealError, OrderRefused
from privacy.safe import Safe
from privacy.vault import is_name

_LOG = logging.getLogger("flwr.fedseal")

Keep: TypeAlias = Callable[[Order, Layout, Plan], None]


def keep_nothing(order: Order, layout: Layout, plan: Plan) -> None:
    """For sites without a safe."""


def model_keeper(safe: Safe) -> Keep:
    """Keeps each order's model in the safe, the newest two rounds of the newest run.

    Where it can't be kept (another command changes the safe, the disk is full), training goes on without.
    """
    return lambda order, layout, plan: _keep(safe, order, layout, plan)


def _keep(safe: Safe, order: Order, layout: Layout, plan: Plan) -> None:
    name = f"{plan.name}-{order.address.run}"
    notes = notes_of(plan, order.address.run, order.address.round, order.statistics)
    try:
        if not is_name(name):
            raise OrderRefused("no model can be kept under the name of this run")
        with safe.changing() as vault:
            keep(vault, name, order.address.round, Checkpoint(model=layout.named(order.vector), state={}, notes=notes))
            for label in vault.list("model"):
                if label.name != name:
                    vault.delete(label)
    except FedSealError as error:  # the round is paid for: it goes on
        _LOG.warning("model not kept round=%d error=%s reason=%s", order.address.round, type(error).__name__, error)
