"""How a run is conducted: in the clear (`server/plain_run.py`) or encrypted (`server/encrypted_run.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from federation.optimizers import ModelState
from server.desk import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A model that can be looked at, and the statistics of the sites that `prepare` reads."""

    state: ModelState
    statistics: tuple[float, ...]


class Conduct(Protocol):
    """One run's rounds, step by step."""

    def assemble(self, nodes: Sequence[int], number: int, tally: Tally) -> list[int]:
        """The nodes that can take part in a round; raises RunFailed where too few can."""

    def gather_statistics(self, nodes: Sequence[int], tally: Tally) -> None:
        """Has every site release the statistics that the task asks for; raises RunFailed where too few do."""

    def train(self, number: int, asked: Sequence[int], tally: Tally) -> None:
        """Asks these nodes to train, and adds up what they answer."""

    def advance(self, number: int, tally: Tally) -> None:
        """Makes the round's sum the next model; raises RunFailed where too few sites can."""

    def figures(self, number: int, asked: Sequence[int], tally: Tally) -> tuple[Mapping[str, float], str]:
        """What sites report of the model after the round, and how it was obtained; nothing where the plan asks none."""

    def seen(self) -> Seen | None:
        """The model after the newest round, where this process may look at it."""

    def finish(self, nodes: Sequence[int], tally: Tally) -> str:
        """Hands the last model to whoever is to have it; says what went wrong, empty where nothing did."""
