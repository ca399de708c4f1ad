"""A ledger as people read it: tables by round, run and data set, and what a plan would still get.

Epsilon of a data set counts what overlaps it as well, at the delta of the site's budget, under add-or-remove-one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

from federation.plan import Plan
from federation.promise import budget as wish_of
from federation.promise import metrics_mechanism, permissions, round_mechanism, statistics_mechanism
from privacy.budget import WHOLE_SITE, Books, Tally
from privacy.entries import DataRegistered, Entry, Purpose, Reserved, Settled
from privacy.errors import BudgetExhausted, DataInvalid
from privacy.ledger import now
from privacy.mechanism import Mechanism

_RUN_CHARACTERS = 10
_NO_BUDGET = "no budget"


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of text."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def by_round(entries: Sequence[Entry], last: int) -> Table:
    """A row for each of the last releases; epsilon is that of the data set after it."""
    settled = {entry.reserve for entry in entries if isinstance(entry, Settled)}
    shown = set([index for index, entry in enumerate(entries) if isinstance(entry, Reserved)][-last:])
    rows = []
    for index, entry, books in _replayed(entries):
        if index in shown and isinstance(entry, Reserved):
            release = f"{entry.purpose}, {_in_words(entry.mechanism)}" + ("" if index in settled else "; not settled")
            rows.append(
                (
                    _minute(entry.time),
                    entry.run[:_RUN_CHARACTERS],
                    str(entry.round),
                    _name(books, entry.account),
                    release,
                    _spent(books, entry.account),
                )
            )
    return Table(("when (UTC)", "run", "round", "data set", "release", "epsilon"), rows)


def by_run(entries: Sequence[Entry]) -> Table:
    """A row for each run on each data set; epsilon is that run's alone."""
    books = books_of(entries)
    began: dict[tuple[str, str], str] = {}
    for entry in entries:
        if isinstance(entry, Reserved):
            began.setdefault((entry.account, entry.run), entry.time)
    rows = []
    for (account, run), tally in books.by_run.items():
        budget = books.budget(account)
        rows.append(
            (
                _minute(began[account, run]),
                run[:_RUN_CHARACTERS],
                _name(books, account),
                str(tally.releases),
                _mechanisms(tally),
                _NO_BUDGET if budget is None else f"{tally.epsilon(budget.delta):.4f}",
            )
        )
    return Table(("began (UTC)", "run", "data set", "releases", "mechanism", "epsilon"), rows)


def by_data_set(entries: Sequence[Entry]) -> Table:
    """A row for each data set: its releases and those of what overlaps it, what they cost, and what is left."""
    books = books_of(entries)
    records = {entry.account: entry.records for entry in entries if isinstance(entry, DataRegistered)}
    rows = []
    for account in sorted({*records, *books.by_account}, key=lambda each: (_name(books, each), each)):
        budget, tally = books.budget(account), books.spent(account)
        left = _NO_BUDGET
        if budget is not None:
            left = f"{max(budget.epsilon - tally.epsilon(budget.delta), 0.0):.4f} of {budget.epsilon:g}"
        rows.append(
            (
                _name(books, account),
                f"{records[account]:,}" if account in records else "",
                ", ".join(sorted(_name(books, other) for other in books.alike(account) - {account})),
                str(tally.releases),
                _spent(books, account),
                left,
            )
        )
    return Table(("data set", "records", "overlaps", "releases", "epsilon", "left"), rows)


def spending_of(entries: Sequence[Entry], account: str, delta: float) -> list[tuple[int, float]]:
    """Number and epsilon after it of each release that counts for an account."""
    alike = books_of(entries).alike(account)
    points: list[tuple[int, float]] = []
    for _, entry, books in _replayed(entries):
        if isinstance(entry, Reserved) and entry.account in alike:
            points.append((len(points) + 1, books.spent(account).epsilon(delta)))
    return points


def account_named(books: Books, name: str | None) -> str:
    """The account of a data set; of the only one on which something was spent, or that is known, if none is named.

    Raises:
        DataInvalid: there is none, or there are several.
    """
    known = {account: _name(books, account) for account in books.accounts()}
    found = [account for account, called in known.items() if name in (None, called)]
    spent_on = [account for account in found if account in books.by_account]
    if len(found) > 1 and len(spent_on) == 1:
        found = spent_on
    if len(found) == 1:
        return found[0]
    names = ", ".join(sorted(set(known.values()))) or "none"
    raise DataInvalid(f"which data set? Name one with --data; the ledger knows: {names}")


def rounds_left(books: Books, account: str, plan: Plan) -> tuple[int, str]:
    """How many rounds of a plan, as a new run, the site's budget still covers, and what stops the next one.

    Raises:
        OrderRefused: the budget allows no such plan at all.
    """
    books, wish = deepcopy(books), wish_of(plan) if plan.is_private else None
    account = WHOLE_SITE if plan.privacy.unit == "client" else account
    for number in range(plan.rounds):
        for purpose, mechanism in _releases(plan, number):
            asked = Reserved(
                time=now(),
                account=account,
                run="what-if",
                round=number,
                plan=plan.digest,
                purpose=purpose,
                mechanism=mechanism,
                witnessed="0" * 64,
            )
            try:
                books.refuse(asked, wish, permissions(plan))
            except BudgetExhausted as error:
                return number, str(error)
            books.add(asked)
    return plan.rounds, "all planned rounds are covered"


def books_of(entries: Sequence[Entry]) -> Books:
    """What entries come to."""
    books = Books()
    for entry in entries:
        books.add(entry)
    return books


def _releases(plan: Plan, finished: int) -> Iterator[tuple[Purpose, Mechanism | None]]:
    """What the round after so many finished ones releases, and before the first one the statistics."""
    if plan.statistics == "private" and not finished:
        yield "statistics", statistics_mechanism(plan, 1.0)
    yield "update", round_mechanism(plan) if plan.is_private else None
    if plan.metrics != "none":
        yield "metrics", metrics_mechanism(plan)


def _replayed(entries: Sequence[Entry]) -> Iterator[tuple[int, Entry, Books]]:
    """Each entry with its number, and what the entries up to it come to."""
    books = Books()
    for index, entry in enumerate(entries):
        books.add(entry)
        yield index, entry, books


def _name(books: Books, account: str) -> str:
    return books.names.get(account, account[:16])


def _spent(books: Books, account: str) -> str:
    budget = books.budget(account)
    return _NO_BUDGET if budget is None else f"{books.spent(account).epsilon(budget.delta):.4f}"


def _mechanisms(tally: Tally) -> str:
    parts = [f"{count} × ({_in_words(found)})" for found, count in tally.mechanisms.items()]
    if tally.unprotected:
        parts.append(f"{tally.unprotected} × ({_in_words(None)})")
    return "; ".join(parts)


def _in_words(mechanism: Mechanism | None) -> str:
    if mechanism is None:
        return "NOT PROTECTED"
    return (
        f"{mechanism.unit}, noise {mechanism.noise_multiplier:.4g}, rate {mechanism.sample_rate:g} × {mechanism.steps}"
    )


def _minute(time: str) -> str:
    return time[2:16].replace("T", " ")
