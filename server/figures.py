"""What people read of a round's pooled sums. They are what sites say: nonsense gives no figures, and ends no run."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from federation.plan import Plan
from federation.private_metrics import private_figures
from federation.task import Task
from privacy.mechanism import Mechanism
from server.metric_pool import MetricPool

_LOG = logging.getLogger(__name__)


def figures_of(pool: MetricPool, task: Task, plan: Plan, mechanism: Mechanism | None) -> Mapping[str, float]:
    """Figures by name; none where nobody reported, or nobody can read what most sites reported.

    mechanism: what the sums' noise is; None: they are exact, and the task reads them
    """
    sums = pool.result()
    if not sums:
        return {}
    try:
        return task.figures(sums) if mechanism is None else private_figures(sums, pool.sites, plan, mechanism)
    except Exception:
        _LOG.exception("the sites' metrics can't be read")
        return {}
