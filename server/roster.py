"""The sites of a run as the server knows them: names, declared rows, answers, refusals, and what they spent."""

from __future__ import annotations

import re
from collections import Counter

from federation.orders import Refusal, Report
from federation.plan import Plan
from privacy.errors import BudgetExhausted
from server.admission import Admitted
from server.records import Refused, SiteRecord
from server.spending import Spending

_LONGEST_TEXT = 2000
_OUR_NAMES = re.compile(r"node \d+\)?\s*$")  # what a site must not call itself, because the server calls others so


class Roster:
    """Remembers over all rounds what sites said of themselves; the first word counts."""

    def __init__(self, plan: Plan) -> None:
        self.spending = Spending(delta=plan.privacy.delta)
        self.out_of_budget: set[int] = set()
        self._aggregation = plan.aggregation
        self._names: dict[int, str] = {}
        self._taken: set[str] = set()
        self._declared: dict[int, int] = {}
        self._rounds: Counter[int] = Counter()
        self._refusals: Counter[int] = Counter()

    def enrolled(self, node: int, name: str, declared_rows: int) -> None:
        """Takes down a member of an encrypted run."""
        self._called(node, name)
        self._declared.setdefault(node, declared_rows)

    def took_part(self, node: int, admitted: Admitted[Report], declared_rows: int) -> tuple[str, float]:
        """Counts an admitted report and what its site's ledger shows; returns the site's name and the weight."""
        name = self.spent(node, admitted)
        self._rounds[node] += 1
        declared = self._declared.setdefault(node, declared_rows)
        if self._aggregation.weights == "uniform":
            return name, 1.0
        return name, float(min(max(declared, 1), self._aggregation.weight_cap))

    def spent(self, node: int, admitted: Admitted[Report]) -> str:
        """Counts what a site's ledger shows; returns the site's name."""
        name = self._called(node, admitted.report.site)
        self.spending.add(name, (found.mechanism for found in admitted.reserved if found.mechanism is not None))
        return name

    def refused(self, node: int, refusal: Refusal) -> Refused:
        """Counts a site's no; a site whose budget is spent is not asked again."""
        if refusal.error == BudgetExhausted.__name__:
            self.out_of_budget.add(node)
        self._called(node, refusal.site)
        return self.failed(node, refusal.error, refusal.reason)

    def failed(self, node: int, error: str, reason: str) -> Refused:
        """Counts a reply that was not admitted, or did not come."""
        self._refusals[node] += 1
        return Refused(site=self._known_as(node), error=_plain(error), reason=_plain(reason))

    def site_records(self) -> tuple[SiteRecord, ...]:
        """One record for each site heard of, by name."""
        nodes = sorted({*self._names, *self._refusals}, key=self._known_as)
        return tuple(
            SiteRecord(
                site=self._known_as(node),
                rounds=self._rounds[node],
                refusals=self._refusals[node],
                declared_rows=self._declared.get(node, 0),
                epsilon=self.spending.epsilon_of(self._known_as(node)),
            )
            for node in nodes
        )

    def _called(self, node: int, wished: str) -> str:
        """The node's name for the run; two nodes never share one."""
        if node not in self._names:
            wished = _plain(wished)
            free = wished and wished not in self._taken and not _OUR_NAMES.search(wished)
            self._names[node] = wished if free else f"{wished} (node {node})".strip()
            self._taken.add(self._names[node])
        return self._names[node]

    def _known_as(self, node: int) -> str:
        return self._names.get(node, f"node {node}")


def _plain(text: str) -> str:
    """A site's text on one line of bounded length, so that it can't forge lines of a log."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)[:_LONGEST_TEXT]
