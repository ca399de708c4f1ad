"""Default of credit-card clients (Yeh and Lien 2009, UCI) from `DIR/bank/UCI_Credit_Card.csv`: 30,000 customers.

Thirteen amounts of money are tamed by signed logarithms and scaled by public bounds; three codes are one-hot encoded.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.csv
import torch
from torch import Tensor, nn

from federation.preparation import fill_missing, one_hot, scale, signed_log
from federation.rows import Rows
from privacy.errors import DataInvalid
from simulations.pooled_task import PooledTask

# Columns by position, because the file goes round under two sets of names: X1 to X23 and Y (UCI), or words (Kaggle).
_LIMIT, _CODES, _AGE, _LATE, _AMOUNTS, _LABEL = [1], [2, 3, 4], [5], [*range(6, 12)], [*range(12, 24)], 24
_CODE_VALUES = ((1, 2), (1, 2, 3, 4), (1, 2, 3))  # sex, education, marriage
_LARGEST_LOG = 14.0


class Credit(PooledTask):
    """A small MLP; whether a customer defaults next month."""

    def pool(self, folder: Path | None) -> Rows:
        path = (folder or Path()) / "bank" / "UCI_Credit_Card.csv"
        try:
            table = pyarrow.csv.read_csv(path)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise DataInvalid(
                f"credit: {path} can't be read ({error}); name its parent folder with --data DIR"
            ) from None
        if table.num_columns != _LABEL + 1:
            raise DataInvalid(f"credit: {path} has {table.num_columns} columns, not the {_LABEL + 1} of the UCI file")
        positions = [*_LIMIT, *_AMOUNTS, *_LATE, *_AGE, *_CODES]
        cells = [torch.tensor(table.column(position).to_numpy(), dtype=torch.float32) for position in positions]
        return Rows(fields={"x": torch.stack(cells, dim=1), "y": torch.tensor(table.column(_LABEL).to_numpy())})

    def prepare(self, rows: Rows) -> Rows:
        amounts, late, age, codes = rows["x"].split([13, len(_LATE), 1, len(_CODES)], dim=1)
        logs = signed_log(fill_missing(amounts, [0.0] * 13))
        parts: list[Tensor] = [
            scale(logs, [-_LARGEST_LOG] * 13, [_LARGEST_LOG] * 13),
            scale(fill_missing(late, [0.0] * len(_LATE)), [-4.0] * len(_LATE), [4.0] * len(_LATE)),
            scale(fill_missing(age, [35.0]), [20.0], [70.0]),
            *(one_hot(codes[:, column], values) for column, values in enumerate(_CODE_VALUES)),
        ]
        return rows.replace(x=torch.cat(parts, dim=1))  # (n, 29)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(29, 16), nn.Tanh(), nn.Linear(16, 2))


task = Credit()
