"""What each site's ledger shows that it has spent in this run. Facts are kept; epsilon is computed when asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from privacy.budget import Tally
from privacy.mechanism import Mechanism


@dataclass(slots=True, kw_only=True)
class Spending:
    """Mechanisms by site name, at one delta."""

    delta: float
    _tallies: dict[str, Tally] = field(default_factory=dict)

    def add(self, site: str, mechanisms: Iterable[Mechanism]) -> None:
        """Counts the mechanisms that a site's ledger reserved."""
        for mechanism in mechanisms:
            self._tallies.setdefault(site, Tally()).add(mechanism)

    def epsilon_of(self, site: str) -> float | None:
        """What the site has spent at this delta; None if its ledger never reserved a mechanism."""
        tally = self._tallies.get(site)
        return None if tally is None else tally.epsilon(self.delta)

    def by_site(self) -> dict[str, float]:
        """Epsilon of every site whose ledger reserved a mechanism."""
        return {site: tally.epsilon(self.delta) for site, tally in self._tallies.items()}
