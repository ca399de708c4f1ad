"""What was spent, by whom, and whether a release may still be made: a ledger's entries, interpreted.

Budgets belong to data sets (accounts), not to runs. Two data sets that share a unit are composed in the worst case:
what is spent on either counts for both, because that unit may be in both. Records that were never sealed may be any,
and a client is the site itself: their releases are booked on the whole site, which counts for every data set, and for
which every data set counts.
The site's budget and the plan's wish are both held: the stricter wins. Nothing is stored here; every figure comes from
the accountant.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from privacy.accountant import Budget, epsilon
from privacy.entries import BudgetSet, DataRegistered, Entry, Permission, Reserved
from privacy.errors import BudgetExhausted, OrderRefused
from privacy.mechanism import Mechanism

WHOLE_SITE = "site"


@dataclass(slots=True)
class Tally:
    """Releases, equal mechanisms counted together; `unprotected` counts updates that left without privacy."""

    mechanisms: Counter[Mechanism] = field(default_factory=Counter)
    unprotected: int = 0

    def add(self, mechanism: Mechanism | None) -> None:
        """Counts one more release."""
        if mechanism is None:
            self.unprotected += 1
        else:
            self.mechanisms[mechanism] += 1

    @property
    def releases(self) -> int:
        """How many were counted."""
        return self.unprotected + self.mechanisms.total()

    @property
    def units(self) -> set[str]:
        """The units of privacy of its mechanisms."""
        return {mechanism.unit for mechanism in self.mechanisms}

    def epsilon(self, delta: float, *more: Mechanism) -> float:
        """What all of it costs at `delta`, with `more` on top; infinite once something left without privacy."""
        if self.unprotected:
            return math.inf
        counted = self.mechanisms + Counter(more)
        return epsilon([replace(found, steps=found.steps * count) for found, count in counted.items()], delta)

    @staticmethod
    def union(parts: Iterable[Tally]) -> Tally:
        """All releases of the parts."""
        whole = Tally()
        for part in parts:
            whole.mechanisms.update(part.mechanisms)
            whole.unprotected += part.unprotected
        return whole


@dataclass(slots=True)
class Books:
    """What a ledger's entries come to: spending by account and run, overlaps, names and budgets."""

    by_account: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    by_run: defaultdict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    budgets: dict[str | None, BudgetSet] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=lambda: {WHOLE_SITE: "the whole site"})
    _overlaps: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, entry: Entry) -> None:
        """Takes one more entry into account."""
        match entry:
            case Reserved(purpose="metrics", mechanism=None):
                pass  # exact metrics: no epsilon speaks of them, and every report says so
            case Reserved():
                self.by_account[entry.account].add(entry.mechanism)
                self.by_run[entry.account, entry.run].add(entry.mechanism)
            case DataRegistered():
                self.names[entry.account] = entry.name
                for other in entry.overlaps:
                    self._overlaps[entry.account].add(other)
                    self._overlaps[other].add(entry.account)
            case BudgetSet():
                self.budgets[entry.account] = entry
            case _:
                pass

    def alike(self, account: str) -> set[str]:
        """The accounts whose spending counts for this one, itself among them."""
        if account == WHOLE_SITE:
            return {WHOLE_SITE, *self.accounts()}
        others = self._overlaps.get(account, set())
        return {account, *others, WHOLE_SITE} if WHOLE_SITE in self.by_account else {account, *others}

    def accounts(self) -> list[str]:
        """Every data set that is known, and the whole site where something was spent on it."""
        return sorted({account for account in self.names if account != WHOLE_SITE} | set(self.by_account))

    def knows(self, data: DataRegistered) -> bool:
        """Whether nothing that this entry says is new."""
        return self.names.get(data.account) == data.name and set(data.overlaps) <= self._overlaps.get(
            data.account, set()
        )

    def spent(self, account: str) -> Tally:
        """All that was released of the units of an account."""
        return Tally.union(self.by_account[each] for each in sorted(self.alike(account)) if each in self.by_account)

    def spent_in(self, account: str, run: str) -> Tally:
        """What one run released of them."""
        return Tally.union(self.by_run[each, run] for each in sorted(self.alike(account)) if (each, run) in self.by_run)

    def budget(self, account: str) -> BudgetSet | None:
        """What may be spent on an account."""
        return self.budgets.get(account) or self.budgets.get(None)

    def refuse(self, asked: Reserved, wish: Budget | None, permissions: Collection[Permission] = ()) -> None:
        """Passes a release that the site's budgets and the plan's wish still cover.

        wish: the plan's budget of one run; None: the plan states none
        permissions: what every budget must allow besides the unit of privacy

        Raises:
            OrderRefused: no budget is set, or what is asked is not allowed, or can't be priced with what was spent.
            BudgetExhausted: with what was spent, asked and left.
        """
        alike = self._held_to(asked.account)
        for account in alike:
            self._refuse_kind(asked, account)
        self.refuse_ways(asked.account, permissions)
        if asked.mechanism is None:
            return
        for account in alike:
            self._refuse_beyond(asked, asked.mechanism, account)
        if wish is not None:
            in_run = self.spent_in(asked.account, asked.run)
            self._hold(self._called(asked.account), "the plan, its run", in_run, asked.mechanism, wish)

    def refuse_ways(self, account: str, permissions: Collection[Permission]) -> None:
        """Passes what the server would read of an account, if every budget that holds for it allows it.

        Raises:
            OrderRefused: no budget is set, or one does not allow it.
        """
        for each in self._held_to(account):
            budget = self.budget(each)
            for permission in permissions:
                if budget is not None and permission not in budget.allow:
                    raise OrderRefused(
                        f"the plan {_WAYS[permission]}, but this site's budget does not allow {permission!r}, only "
                        f"{', '.join(budget.allow)}; its engineer may allow it as well with `fedseal ledger budget set "
                        "--allow`, or the plan be changed"
                    )

    def _held_to(self, account: str) -> list[str]:
        """The accounts whose budgets hold for this one, itself first: a unit of it may be in any of the others.

        Raises:
            OrderRefused: no budget is set.
        """
        if self.budget(account) is None:
            name = self._called(account)
            raise OrderRefused(
                *_told(
                    name,
                    f"no budget is set for data set {name!r}: `fedseal ledger budget set --epsilon E --delta D` at the "
                    "site",
                )
            )
        return sorted(self.alike(account), key=lambda each: (each != account, each))

    def _refuse_kind(self, asked: Reserved, account: str) -> None:
        kind = asked.mechanism.unit if asked.mechanism else "plain-metrics" if asked.purpose == "metrics" else "none"
        budget, name = self.budget(account), self._called(account)
        if budget is not None and kind not in budget.allow:
            raise OrderRefused(
                *_told(
                    name,
                    f"this site's budget does not allow {kind!r} for data set {name!r}, only "
                    f"{', '.join(budget.allow)}; its engineer may allow it with `fedseal ledger budget set --allow`",
                )
            )
        others = self.spent(account).units - {kind}
        if asked.mechanism is not None and others:
            raise OrderRefused(
                *_told(
                    name,
                    f"the account of data set {name!r} counts in units of {', '.join(sorted(others))}: a release in "
                    f"units of {kind} has no common epsilon with it; ask for a plan with that privacy.unit",
                )
            )

    def _refuse_beyond(self, asked: Reserved, mechanism: Mechanism, account: str) -> None:
        budget, name = self.budget(account), self._called(account)
        if budget is None:
            return
        bounds = (
            ("for ever", self.spent(account), budget.epsilon),
            ("a run", self.spent_in(account, asked.run), budget.per_run),
            ("a release", Tally(), budget.per_round),
        )
        for how_long, spent, limit in bounds:
            if limit is not None:
                bound = Budget(epsilon=limit, delta=budget.delta)
                self._hold(name, f"data set {name!r}, {how_long}", spent, mechanism, bound)

    def _called(self, account: str) -> str:
        return self.names.get(account, account[:16])

    @staticmethod
    def _hold(name: str, whose: str, spent: Tally, asked: Mechanism, bound: Budget) -> None:
        limit, delta = bound.epsilon, bound.delta
        after = spent.epsilon(delta, asked)
        if not after <= limit:  # what is no number is refused as well
            before = spent.epsilon(delta)
            raise BudgetExhausted(
                *_told(
                    name,
                    f"budget of {whose}: epsilon {limit:g} at delta {delta:g}; spent {before:.4f} in {spent.releases} "
                    f"releases, left {max(limit - before, 0):.4f}, and this release would make it {after:.4f}",
                )
            )


_WAYS: dict[Permission, str] = {
    "plain-updates": "sends updates that the server can read",
    "server-release": "gives the server the model (release = 'server')",
}


def _told(name: str, message: str) -> tuple[str, str]:
    """A message, and what the server gets to read of it: how a site calls its data sets is its own affair."""
    return message, message.replace(f"data set {name!r}", "the site's data set")
