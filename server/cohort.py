"""Who is asked in a round. Drawn from the plan's public seed: no privacy amplification is claimed for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from federation.plan import Plan


def cohort(plan: Plan, round_number: int, online: Sequence[int]) -> list[int]:
    """The nodes asked in this round, in ascending order: the plan's share of those online, at least the quorum.

    The same for the same plan, round and set of nodes.
    """
    nodes = sorted(online)
    wanted = cohort_size(plan, len(nodes))
    if wanted >= len(nodes):
        return nodes
    rng = np.random.default_rng([plan.seed, round_number])
    return sorted(nodes[position] for position in rng.choice(len(nodes), size=wanted, replace=False))


def cohort_size(plan: Plan, online: int) -> int:
    """How many of the nodes online the plan wants asked in a round; it may be more than there are."""
    return max(round(plan.cohort.share * online), plan.cohort.quorum)
