"""What each site's admitted reports say it has spent. Facts are kept; epsilon is computed when asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from privacy.accountant import epsilon
from privacy.mechanism import Mechanism


@dataclass(slots=True, kw_only=True)
class Spending:
    """Mechanisms by site name, equal ones counted together."""

    delta: float
    _releases: dict[str, Counter[Mechanism]] = field(default_factory=dict)

    def add(self, site: str, mechanism: Mechanism | None) -> None:
        """Counts one more round of a site; None (no privacy) counts nothing."""
        if mechanism is not None:
            self._releases.setdefault(site, Counter())[mechanism] += 1

    def epsilon_of(self, site: str) -> float | None:
        """What the site has spent at this delta; None if it never reported a mechanism."""
        releases = self._releases.get(site)
        return None if releases is None else epsilon(_merged(releases), self.delta)

    def by_site(self) -> dict[str, float]:
        """Epsilon of every site that reported a mechanism."""
        return {site: epsilon(_merged(releases), self.delta) for site, releases in self._releases.items()}


def _merged(releases: Counter[Mechanism]) -> list[Mechanism]:
    return [replace(mechanism, steps=mechanism.steps * count) for mechanism, count in releases.items()]
