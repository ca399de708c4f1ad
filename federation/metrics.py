"""Metrics as sums that add over records and sites, and the figures that people read from the sums.

In tensor comments: n records, C classes, K score bins.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

_BINS = 2048
_LARGEST_LOGIT = 16.0


def classification_sums(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Count, correct and loss of (n, C) logits against (n,) class indices; for two classes also score histograms.

    The histograms count positives and negatives in equal bins of the logit difference, so that the AUROC of pooled
    records can be read from sums without anybody's scores. A score that is NaN (a diverged model) counts as undecided.
    """
    logits = logits.detach().double().cpu()
    targets = targets.cpu()
    sums = {
        "count": torch.tensor(float(len(targets)), dtype=torch.float64),
        "correct": (logits.argmax(dim=1) == targets).sum().double(),
        "loss": functional.cross_entropy(logits, targets, reduction="sum"),
    }
    if logits.shape[1] == 2:
        score = (logits[:, 1] - logits[:, 0]).nan_to_num().clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)  # (n,)
        position = ((score + _LARGEST_LOGIT) / (2 * _LARGEST_LOGIT) * (_BINS - 1)).round().long()  # (n,)
        sums["positives"] = torch.bincount(position[targets == 1], minlength=_BINS).double()  # (K,)
        sums["negatives"] = torch.bincount(position[targets == 0], minlength=_BINS).double()  # (K,)
    return sums


def classification_figures(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Accuracy in [0, 1], AUROC in [0, 1] where there are two classes, and mean cross-entropy in nats."""
    count = max(float(sums["count"]), 1.0)
    figures = {"accuracy": float(sums["correct"]) / count}
    if "positives" in sums:
        figures["auroc"] = binned_auroc(sums["positives"], sums["negatives"])
    return {**figures, "loss": float(sums["loss"]) / count}


def binned_auroc(positives: Tensor, negatives: Tensor) -> float:
    """Area under the ROC curve from score histograms, each of shape (K,), pairs within a bin counted half.

    The Mann-Whitney form: P(score of a positive > score of a negative) + P(equal) / 2. NaN where a class is empty.
    """
    pairs = float(positives.sum() * negatives.sum())
    below = torch.cumsum(negatives, dim=0) - negatives  # (K,)
    return float((positives * (below + negatives / 2)).sum()) / pairs if pairs else float("nan")
