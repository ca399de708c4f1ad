"""What a run leaves behind as values: one record a round, one a site, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from federation.layout import Layout
from federation.optimizers import ModelState
from federation.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A reply that was not added, or never came: which site, the error's name, the reason."""

    site: str
    error: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionRecord:
    """What encryption did and took in one round.

    clipped_share:   of the values of all added updates, as one site read it from the sum; None where it did not
    same_model:      sites that signed that they hold the same model after the round
    encrypt_seconds: of the slowest site, as it says; decrypt_seconds: the same, with the step to the next model
    add_seconds:     at the server, all reports together
    """

    clipped_share: float | None
    same_model: int
    encrypt_seconds: float
    add_seconds: float
    decrypt_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One round as it was.

    figures:        what the task reads from its metrics, of the model after this round
    figures_source: how they were obtained: "simulation only", "plain sums from sites" (not covered by epsilon),
                    "noisy sums from sites" (covered), "none"
    epsilon:        spent so far in this run, by site, at the plan's delta; empty without privacy
    seconds:        by phase, wall time at the server
    bytes_down, bytes_up: model vectors, updates and sums, arrays only; in the first round they include, as seconds and
                    refused do, the release of statistics before it
    seeded:         whether any site's noise came from a seed
    encryption:     None in runs in the clear, and where the round made no model
    """

    round: int
    cohort: int
    answered: tuple[str, ...]
    refused: tuple[Refused, ...]
    figures: Mapping[str, float]
    figures_source: str
    epsilon: Mapping[str, float]
    seconds: Mapping[str, float]
    bytes_down: int
    bytes_up: int
    seeded: bool
    encryption: EncryptionRecord | None = None

    def flat(self) -> dict[str, float | int | str | None]:
        """The record as one row: what pandas takes."""
        spent = sorted(self.epsilon.values())
        return {
            "round": self.round,
            "cohort": self.cohort,
            "answered": len(self.answered),
            "refused": len(self.refused),
            **self.figures,
            "epsilon_smallest": spent[0] if spent else None,
            "epsilon_median": spent[len(spent) // 2] if spent else None,
            "epsilon_largest": spent[-1] if spent else None,
            "seconds": sum(self.seconds.values()),
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
        }

    def as_json(self) -> dict[str, object]:
        """The record as `rounds.jsonl` holds it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRecord:
    """One site over the whole run; epsilon is None without privacy."""

    site: str
    rounds: int
    refusals: int
    declared_rows: int
    epsilon: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A finished run: why it ended, its rounds and sites, and the model as a vector of shape (P,) with its layout.

    vector: None where the model stayed with the sites
    """

    run: str
    plan: Plan
    ended: str
    rounds: tuple[RoundRecord, ...]
    sites: tuple[SiteRecord, ...]
    vector: NDArray[np.float32] | None
    layout: Layout

    def rows(self) -> list[dict[str, float | int | str | None]]:
        """The rounds as flat rows: `pandas.DataFrame(result.rows())`."""
        return [record.flat() for record in self.rounds]

    def tensors(self) -> dict[str, Tensor]:
        """The model's named tensors, as views of the vector; none where the model stayed with the sites."""
        return {} if self.vector is None else self.layout.named(self.vector)


class Observer:
    """Watches a run; does nothing until a method is overridden."""

    def run_started(self, run: str, plan: Plan, nodes: int) -> None:
        """Enough sites are online."""

    def statistics_gathered(self, values: tuple[float, ...]) -> None:
        """The sites' noisy statistics were added up."""

    def reply_arrived(self, round_number: int, done: int, cohort: int) -> None:
        """One more reply of this round came in."""

    def model_advanced(self, round_number: int, layout: Layout, state: ModelState) -> None:
        """A round's reports became the next model."""

    def round_finished(self, record: RoundRecord) -> None:
        """A round is over."""

    def run_finished(self, result: RunResult) -> None:
        """No round follows."""
