"""Groups of records (patients, customers): their numbers, and on which side of the division a group stands whole.

Under `privacy.unit = "group"` neighbours differ in all records of one group. So a group's side is a function of the
group alone, never of how it is numbered or of who else is there: adding or removing a group moves no other group's
records. Where the rows carry marks, the marks decide, and may not cut a group in two.

In tensor comments: n records, G groups.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from federation.plan import Plan
from federation.rows import Rows, RowSource, fraction, held_out, keyed_hash, record_bytes
from privacy.errors import DataInvalid, TaskInvalid


def numbered(identities: Tensor) -> Tensor:
    """Each record's group as a number from 0 in order of first appearance: (n,) or (n, 16) uint8 -> (n,) int64."""
    values, group = _different(identities)
    records = torch.arange(len(group))
    first = torch.full((len(values),), len(group)).scatter_reduce(0, group, records, "amin")  # (G,)
    return first.argsort().argsort()[group]


def divided(rows: Rows, plan: Plan) -> Tensor:
    """Which of a site's records the plan holds out: (n,) bool; under unit group by `held_out_groups`, else by record.

    Raises:
        DataInvalid: the unit is group, and the rows name none, or marks cut one in two.
    """
    if plan.privacy.unit != "group":
        return held_out(rows, plan.data.test_share, plan.seed)
    return held_out_groups(rows, plan.data.test_share, plan.seed)


def held_out_groups(rows: Rows, test_share: float, seed: int) -> Tensor:
    """Which records stand with a group that is held out: (n,) bool.

    A group's place in [0, 1) is the sum, modulo one, of its records' own places: it depends on its records alone, not
    on their order, and a group of one record stands where the record would.

    Raises:
        DataInvalid: the rows name no groups, or marks cut one in two.
    """
    group = numbered(units_of(rows))
    if rows.held_out is not None:
        refuse_cut_groups(rows.held_out, group)
        return rows.held_out
    places = np.zeros(int(group.max()) + 1 if len(group) else 0, dtype=np.uint64)  # (G,), modulo 2**64
    hashes = np.array([keyed_hash(record, seed) for record in record_bytes(rows)], dtype=np.uint64)  # (n,)
    np.add.at(places, group.numpy(), hashes)
    sides = torch.tensor([int(place) / 2**64 < test_share for place in places], dtype=torch.bool)  # (G,)
    return sides[group]


def held_out_by_identity(identities: Tensor, test_share: float, seed: int) -> Tensor:
    """The same for groups that have a lasting identity, (n, 16) uint8: a group stays where it is as it grows."""
    values, group = _different(identities)
    sides = [fraction(value.numpy().tobytes(), seed) < test_share for value in values]
    return torch.tensor(sides, dtype=torch.bool)[group]


def units_of(rows: RowSource) -> Tensor:
    """The rows' groups, (n,) int64.

    Raises:
        DataInvalid: the rows name none.
    """
    if rows.units is None:
        raise DataInvalid(
            "the plan protects groups (privacy.unit = 'group'), but the records do not say to which group they belong: "
            "import them with `fedseal site import --unit-column`, or give Rows their units"
        )
    return rows.units


def without_units(rows: Rows) -> Rows:
    """The same records, for a loss: how groups are numbered depends on who else is there, so no loss may see it."""
    return rows if rows.units is None else Rows(fields=rows.fields, held_out=rows.held_out)


def refuse_lost_units(rows: Rows, step: str) -> None:
    """Passes what a task's `prepare` or `augment` returned, if the records still know their groups.

    Raises:
        TaskInvalid: they do not, so that nobody knows which gradients to clip together.
    """
    if rows.units is None:
        raise TaskInvalid(
            f"the task's {step} lost the groups of its records, which the plan protects (privacy.unit = 'group'): "
            "return rows.replace(...) or rows.take(...), which carry them, not new Rows"
        )


def refuse_cut_groups(marks: Tensor, group: Tensor) -> None:
    """Passes marks, (n,) bool, that hold out each group, numbered from 0, whole or not at all.

    Raises:
        DataInvalid: a group stands on both sides.
    """
    sizes = torch.bincount(group)  # (G,)
    marked = torch.bincount(group[marks], minlength=len(sizes))
    cut = int(((marked > 0) & (marked < sizes)).sum())
    if cut:
        raise DataInvalid(
            f"the marks of held-out records cut {cut} groups in two, but the plan protects groups whole: hold out all "
            "records of a group or none, or leave the division to data.test_share"
        )


def _different(identities: Tensor) -> tuple[Tensor, Tensor]:
    """The different identities, and for each record which is its own."""
    if identities.dim() == 1:
        values, group = torch.unique(identities, return_inverse=True)
    else:  # (n, 16) -> (n, 2): quicker to sort
        values, group = torch.unique(identities.view(torch.int64), dim=0, return_inverse=True)
    return values, group
