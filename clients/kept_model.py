"""The model that a site was last sent, kept sealed in its safe: what the site's own people may use and look at."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from federation.checkpoints import Checkpoint, keep, notes_of
from federation.layout import Layout
from federation.orders import Order
from federation.plan import Plan
from privacy.errors import StorageBusy
from privacy.safe import Safe

_LOG = logging.getLogger("flwr.fedseal")

Keep: TypeAlias = Callable[[Order, Layout, Plan], None]


def keep_nothing(order: Order, layout: Layout, plan: Plan) -> None:
    """For sites without a safe."""


def model_keeper(safe: Safe | None) -> Keep:
    """Keeps each order's model in the safe, the newest two rounds of the newest run.

    While another command changes the safe, a round's model is not kept: training does not wait for it.
    """
    if safe is None:
        return keep_nothing
    return lambda order, layout, plan: _keep(safe, order, layout, plan)


def _keep(safe: Safe, order: Order, layout: Layout, plan: Plan) -> None:
    name = f"{plan.name}-{order.address.run}"
    notes = notes_of(plan, order.address.run, order.address.round)
    try:
        with safe.changing() as vault:
            keep(vault, name, order.address.round, Checkpoint(model=layout.named(order.vector), state={}, notes=notes))
            for label in vault.list("model"):
                if label.name != name:
                    vault.delete(label)
    except StorageBusy:
        _LOG.warning("model not kept round=%d reason=the safe is being changed by another command", order.address.round)
