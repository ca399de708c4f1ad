"""Statistics before the first round: whether plan and task want them, and whether what the sites sent can be used."""

from __future__ import annotations

from collections.abc import Sequence

from federation.plan import Plan
from federation.statistics import Statistic, width
from federation.task import Task
from privacy.errors import RunFailed
from server.metric_pool import MetricPool
from server.records import Refused

_REASONS_SHOWN = 3


def wanted_statistics(task: Task, plan: Plan) -> tuple[Statistic, ...]:
    """What every site is asked for; empty where nothing is.

    Raises:
        RunFailed: plan and task do not agree.
    """
    if bool(task.statistics) != (plan.statistics == "private"):
        raise RunFailed(
            "the task asks for statistics of the sites' records, but the plan says statistics = 'none': set it to "
            "'private', or take them out of the task"
            if task.statistics
            else "the plan says statistics = 'private', but the task asks for none: set it to 'none'"
        )
    return task.statistics


def summed_statistics(
    pool: MetricPool, wanted: Sequence[Statistic], quorum: int, refused: Sequence[Refused]
) -> tuple[float, ...]:
    """The sum of the sites' noisy vectors.

    Raises:
        RunFailed: fewer sites than the quorum released them, or what they sent is no such sum.
    """
    sums = pool.result().get("statistics")
    if pool.sites < quorum or sums is None or sums.shape != (width(wanted),):
        reasons = "; ".join(f"{each.site}: {each.reason}" for each in refused[:_REASONS_SHOWN])
        raise RunFailed(
            f"{pool.sites} sites released their statistics, but the plan's quorum is {quorum}, or what most of them "
            f"sent is not what the task asks for. {reasons}"
        )
    if not sums.isfinite().all():
        raise RunFailed("the sum of the sites' statistics is beyond every number: a site sends nonsense")
    return tuple(sums.tolist())
