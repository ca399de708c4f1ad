"""Default of credit-card clients (Yeh and Lien 2009, UCI) from `DIR/bank/UCI_Credit_Card.csv`: 30,000 customers.

Twenty amounts and counts are tamed by signed logarithms and scaled by public bounds; three codes are one-hot encoded.
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

_LABEL = "default.payment.next.month"
_CODES = {"SEX": (1, 2), "EDUCATION": (1, 2, 3, 4), "MARRIAGE": (1, 2, 3)}
_LATE = tuple(f"PAY_{month}" for month in (0, 2, 3, 4, 5, 6))
_AMOUNTS = ("LIMIT_BAL", *(f"{kind}_AMT{month}" for kind in ("BILL", "PAY") for month in range(1, 7)))
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
        columns = (*_AMOUNTS, *_LATE, "AGE", *_CODES)
        cells = [torch.tensor(table[name].to_numpy(), dtype=torch.float32) for name in columns]
        return Rows(fields={"x": torch.stack(cells, dim=1), "y": torch.tensor(table[_LABEL].to_numpy())})

    def prepare(self, rows: Rows) -> Rows:
        amounts, late, age, codes = rows["x"].split([len(_AMOUNTS), len(_LATE), 1, len(_CODES)], dim=1)
        logs = signed_log(fill_missing(amounts, [0.0] * len(_AMOUNTS)))
        parts: list[Tensor] = [
            scale(logs, [-_LARGEST_LOG] * len(_AMOUNTS), [_LARGEST_LOG] * len(_AMOUNTS)),
            scale(fill_missing(late, [0.0] * len(_LATE)), [-4.0] * len(_LATE), [4.0] * len(_LATE)),
            scale(fill_missing(age, [35.0]), [20.0], [70.0]),
            *(one_hot(codes[:, column], values) for column, values in enumerate(_CODES.values())),
        ]
        return rows.replace(x=torch.cat(parts, dim=1))  # (n, 29)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(29, 16), nn.Tanh(), nn.Linear(16, 2))


task = Credit()
