"""The model that a site was last sent, kept sealed in its safe: what the site's own people may use and look at."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from federation.checkpoints import Checkpoint, keep, notes_of
from federation.layout import Layout
from federation.plan import Plan
from privacy.errors import FedSealError, OrderRefused
from privacy.safe import Safe
from privacy.vault import is_name

_LOG = logging.getLogger("flwr.fedseal")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptModel:
    """A model that came to a site: of which run and round, its vector (P,), and what its `prepare` learned."""

    run: str
    round: int
    vector: NDArray[np.float32]
    statistics: tuple[float, ...]


Keep: TypeAlias = Callable[[KeptModel, Layout, Plan], None]


def keep_nothing(model: KeptModel, layout: Layout, plan: Plan) -> None:
    """For sites without a safe."""


def model_keeper(safe: Safe) -> Keep:
    """Keeps each model in the safe, the newest two rounds of the newest run.

    Where it can't be kept (another command changes the safe, the disk is full), training goes on without.
    """
    return lambda model, layout, plan: _keep(safe, model, layout, plan)


def _keep(safe: Safe, model: KeptModel, layout: Layout, plan: Plan) -> None:
    name = f"{plan.name}-{model.run}"
    notes = notes_of(plan, model.run, model.round, model.statistics)
    try:
        if not is_name(name):
            raise OrderRefused("no model can be kept under the name of this run")
        with safe.changing() as vault:
            keep(vault, name, model.round, Checkpoint(model=layout.named(model.vector), state={}, notes=notes))
            for label in vault.list("model"):
                if label.name != name:
                    vault.delete(label)
    except FedSealError as error:  # the round is paid for: it goes on
        _LOG.warning("model not kept round=%d error=%s reason=%s", model.round, type(error).__name__, error)
