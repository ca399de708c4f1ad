"""Ready pieces for `Task.prepare` and `Task.augment`: each record on its own, or public constants. Nothing is learned.

Shapes: n records, d columns, images (n, channels, height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from federation.rows import Rows, record_bytes
from privacy.errors import DataInvalid


def drop_missing(rows: Rows) -> Rows:
    """Without the records that hold NaN or infinity in a floating-point field."""
    complete = torch.ones(len(rows), dtype=torch.bool)  # (n,)
    for tensor in rows.fields.values():
        if tensor.is_floating_point():
            complete &= tensor.reshape(len(rows), math.prod(tensor.shape[1:])).isfinite().all(dim=1)
    return rows.take(complete)


def fill_missing(table: Tensor, values: Sequence[float]) -> Tensor:
    """An (n, d) table whose NaN and infinite cells hold the public constants `values`, one for each column."""
    constants = _one_for_each_column(table, values, "fill values")
    return torch.where(table.isfinite(), table, constants)


def drop_duplicates(rows: Rows) -> Rows:
    """Each record once: of records equal in every field the first stays.

    Adding or removing one record changes the result by at most one record, so sensitivity stays one. Where rows know
    their groups, two groups may hold the same record: a group's records never depend on another group's.
    """
    seen: set[tuple[int, bytes]] = set()
    keep = []
    groups = [0] * len(rows) if rows.units is None else rows.units.tolist()
    for position, found in enumerate(zip(groups, record_bytes(rows), strict=True)):
        if found not in seen:
            seen.add(found)
            keep.append(position)
    return rows.take(torch.tensor(keep, dtype=torch.long))


def scale(table: Tensor, lower: Sequence[float], upper: Sequence[float]) -> Tensor:
    """An (n, d) table mapped from public bounds to [-1, 1] column by column; values beyond the bounds are clipped."""
    low = _one_for_each_column(table, lower, "lower bounds")
    high = _one_for_each_column(table, upper, "upper bounds")
    return ((table - low) / (high - low) * 2 - 1).clamp(-1, 1)


def one_hot(codes: Tensor, values: Sequence[float]) -> Tensor:
    """A column of codes, shape (n,), as (n, len(values)) indicators of a public list; an unlisted code gives zeros."""
    return (codes[:, None] == torch.tensor(values, dtype=codes.dtype)[None, :]).float()


def signed_log(table: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): tames amounts of money and counts."""
    return table.sign() * table.abs().log1p()


def pixels(images: Tensor, largest: float) -> Tensor:
    """Pixel values from [0, largest] to float32 [-1, 1]."""
    return images.float() / largest * 2 - 1


def bound_norm(inputs: Tensor, bound: float) -> Tensor:
    """Inputs of shape (n, ...) scaled down, each on its own, to an L2 norm of at most `bound`."""
    norms = inputs.flatten(1).norm(dim=1).reshape(-1, *[1] * (inputs.dim() - 1))  # (n, 1, ...)
    bounded: Tensor = inputs * (bound / norms.clamp(min=bound))
    return bounded


def random_shift(images: Tensor, most_pixels: int, generator: torch.Generator) -> Tensor:
    """Each image moved by up to `most_pixels` up or down and left or right; the border is filled with its edge."""
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (most_pixels,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * most_pixels + 1, (2, count), generator=generator).to(images.device)
    y = torch.arange(height, device=images.device)[None, :] + down[:, None]  # (n, height)
    x = torch.arange(width, device=images.device)[None, :] + right[:, None]  # (n, width)
    record = torch.arange(count, device=images.device)[:, None, None]
    return padded[record, :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def _one_for_each_column(table: Tensor, values: Sequence[float], what: str) -> Tensor:
    if len(values) != table.shape[1]:
        raise DataInvalid(f"{len(values)} {what} for a table of {table.shape[1]} columns: give one for each column")
    return torch.tensor(values, dtype=table.dtype)
