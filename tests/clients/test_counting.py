"""A site reserves a round before it reads a record, and refuses what its budget, or an earlier answer, forbids."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from federation.orders import digest_of_report, digest_of_sums
from federation.promise import round_mechanism, rounds_within_budget
from federation.rows import Rows
from federation.site_info import SiteInfo
from privacy.budget import WHOLE_SITE
from privacy.entries import Reserved, Settled
from privacy.errors import (
    BudgetExhausted,
    DataInvalid,
    OrderRefused,
    StorageFailed,
)
from privacy.identity import Signer
from privacy.keys import KeyRing
from privacy.ledger import Ledger, now
from privacy.ledger_rows import MemoryRows
from privacy.mechanism import Mechanism
from privacy.receipts import judged
from tests.client_builders import (
    PLAIN,
    PRIVATE,
    DotTask,
    GivenTask,
    Untouchable,
    dots,
    ledger_of,
    order,
    plan,
    releases,
    site,
)

TEN = dots(*[1.0] * 10)


def spent(ledger: Ledger, mechanism: Mechanism, run: str = "1", round_number: int = 1) -> None:
    """An earlier release of this price."""
    ledger.reserve(
        Reserved(
            time=now(),
            account=WHOLE_SITE,
            run=run,
            round=round_number,
            plan="a" * 64,
            purpose="update",
            mechanism=mechanism,
            witnessed="0" * 64,
        )
    )


@pytest.mark.parametrize(("number", "last"), [(1, 1), (1, 3), (3, 3)])
def test_a_replayed_round_is_refused_before_records_are_read(number: int, last: int) -> None:
    agreed, ledger = plan({**PRIVATE, "rounds": 5}), ledger_of()
    before, task = DotTask(rows=TEN), Untouchable()
    site(before, agreed, ledger=ledger).train(order(before, agreed, last))
    with pytest.raises(OrderRefused, match="answered once"):
        site(task, agreed, ledger=ledger).train(order(task, agreed, number))
    assert [release.round for release in releases(ledger)] == [last]


def test_another_run_starts_at_its_first_round() -> None:
    agreed, task = plan({**PRIVATE, "rounds": 5}), DotTask(rows=TEN)
    here = site(task, agreed)
    here.train(order(task, agreed, 3))
    here.train(order(task, agreed, 1, run="2"))
    assert [(release.run, release.round) for release in releases(here.ledger)] == [("1", 3), ("2", 1)]


def test_a_round_may_be_missed_and_later_ones_are_answered() -> None:
    agreed, task = plan({**PRIVATE, "rounds": 5}), DotTask(rows=TEN)
    here = site(task, agreed)
    here.train(order(task, agreed, 1))
    assert here.train(order(task, agreed, 4)).address.round == 4


def test_a_spent_budget_is_refused_before_records_are_read_and_nothing_is_remembered() -> None:
    agreed = plan({"rounds": 6, "privacy.epsilon": 2.0, "privacy.rounds_per_site": 2})
    task, ledger = Untouchable(), ledger_of()
    for number in (1, 2):
        spent(ledger, round_mechanism(agreed), round_number=number)
    with pytest.raises(BudgetExhausted, match=r"of the plan, its run: epsilon 2 .* in 2 releases"):
        site(task, agreed, ledger=ledger).train(order(task, agreed, 3))
    assert len(releases(ledger)) == 2


def test_the_sites_own_budget_outlives_runs_and_is_refused_before_records_are_read() -> None:
    agreed, ledger = plan(PRIVATE), ledger_of(epsilon=6.0)
    before, task = DotTask(rows=TEN), Untouchable()
    site(before, agreed, ledger=ledger).train(order(before, agreed))
    with pytest.raises(BudgetExhausted, match=r"for ever: epsilon 6 .* in 1 releases"):
        site(task, agreed, ledger=ledger).train(order(task, agreed, run="2"))
    assert [release.run for release in releases(ledger)] == ["1"]


def test_the_budget_admits_exactly_the_rounds_that_it_covers() -> None:
    agreed = plan({"rounds": 9, "privacy.epsilon": 2.0, "privacy.rounds_per_site": 3})
    task = DotTask(rows=TEN)
    here = site(task, agreed)
    for number in range(1, 1 + rounds_within_budget(agreed)):
        here.train(order(task, agreed, number))
    assert len(releases(here.ledger)) == rounds_within_budget(agreed) == 3
    with pytest.raises(BudgetExhausted):
        here.train(order(task, agreed, 4))


def test_stronger_rounds_of_the_past_count_at_their_own_price() -> None:
    agreed = plan({"rounds": 3, "privacy.epsilon": 2.0})
    task, ledger = Untouchable(), ledger_of()
    spent(ledger, Mechanism(noise_multiplier=0.5, sample_rate=1.0, steps=1, max_grad_norm=1.0))
    with pytest.raises(BudgetExhausted, match="in 1 releases"):
        site(task, agreed, ledger=ledger).train(order(task, agreed, 2))


class Noting(DotTask):
    """Notes what the site's ledger counts when its records are read."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(rows=TEN)
        self._ledger = ledger
        self.counted: list[list[Mechanism | None]] = []

    def rows(self, site: SiteInfo) -> Rows:
        self.counted.append([release.mechanism for release in releases(self._ledger)])
        return super().rows(site)


def test_the_round_is_counted_before_records_are_read() -> None:
    agreed, ledger = plan(PRIVATE), ledger_of()
    task = Noting(ledger)
    site(task, agreed, ledger=ledger).train(order(task, agreed))
    assert task.counted == [[round_mechanism(agreed)]]


class FillingDisk(MemoryRows):
    """Rows that take no more once the disk is full."""

    full = False

    def write(self, number: int, sealed: bytes) -> None:
        if self.full:
            raise StorageFailed("no space left on device")
        super().write(number, sealed)


def test_a_ledger_that_can_not_be_written_keeps_records_unread() -> None:
    agreed, disk = plan(PRIVATE), FillingDisk()
    ledger = ledger_of(rows=disk)
    task = Noting(ledger)
    disk.full = True
    with pytest.raises(StorageFailed, match="no space"):
        site(task, agreed, ledger=ledger).train(order(task, agreed))
    assert (task.counted, releases(ledger)) == ([], [])
    disk.full = False
    site(task, agreed, ledger=ledger).train(order(task, agreed))
    assert len(task.counted) == len(releases(ledger)) == 1


def test_a_site_without_a_budget_trains_nothing() -> None:
    agreed, task = plan(PRIVATE), Untouchable()
    ledger = Ledger.create(MemoryRows(), KeyRing.throw_away("north"), Signer.create("north"))
    with pytest.raises(OrderRefused, match="no budget is set"):
        site(task, agreed, ledger=ledger).train(order(task, agreed))
    assert releases(ledger) == []


def test_a_plan_without_privacy_is_refused_where_the_budget_does_not_allow_it() -> None:
    agreed, task, ledger = plan(PLAIN), Untouchable(), ledger_of(allow=["record", "plain-metrics"])
    with pytest.raises(OrderRefused, match="does not allow 'none'"):
        site(task, agreed, ledger=ledger).train(order(task, agreed))
    assert releases(ledger) == []


def test_after_an_update_without_privacy_no_epsilon_is_left() -> None:
    plain, agreed, ledger = plan(PLAIN), plan(PRIVATE), ledger_of()
    before, task = DotTask(rows=TEN), Untouchable()
    site(before, plain, ledger=ledger).train(order(before, plain))
    with pytest.raises(BudgetExhausted, match="spent inf in 1 releases"):
        site(task, agreed, ledger=ledger).train(order(task, agreed, run="2"))


class Crashing(DotTask):
    """Fails in the middle of training."""

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        if len(batch) > 2:
            raise ZeroDivisionError
        return super().loss(model, batch)


def test_a_crash_in_training_leaves_the_round_counted() -> None:
    agreed, task = plan({**PRIVATE, "rounds": 2}), Crashing(rows=TEN)
    here = site(task, agreed)
    with pytest.raises(ZeroDivisionError):
        here.train(order(task, agreed, 1))
    assert [release.mechanism for release in releases(here.ledger)] == [round_mechanism(agreed)]
    assert not any(isinstance(entry, Settled) for entry in here.ledger.entries())


def test_a_round_that_failed_may_be_asked_again_and_is_counted_again() -> None:
    agreed, ledger = plan({"rounds": 4, "privacy.epsilon": 2.0, "privacy.rounds_per_site": 2}), ledger_of()
    failing, task = Crashing(rows=TEN), DotTask(rows=TEN)
    with pytest.raises(ZeroDivisionError):
        site(failing, agreed, ledger=ledger).train(order(failing, agreed, 1))
    here = site(task, agreed, ledger=ledger)
    here.train(order(task, agreed, 1))
    assert [release.round for release in releases(ledger)] == [1, 1]
    with pytest.raises(OrderRefused, match="answered once"):
        here.train(order(task, agreed, 1))
    with pytest.raises(BudgetExhausted):  # the failed round took the second of two
        here.train(order(task, agreed, 2))


def test_a_round_before_one_that_failed_is_refused() -> None:
    agreed, ledger = plan({**PRIVATE, "rounds": 4}), ledger_of()
    failing, task = Crashing(rows=TEN), Untouchable()
    with pytest.raises(ZeroDivisionError):
        site(failing, agreed, ledger=ledger).train(order(failing, agreed, 3))
    with pytest.raises(OrderRefused, match="answered once"):
        site(task, agreed, ledger=ledger).train(order(task, agreed, 2))


def test_the_ledger_settles_exactly_what_left_the_site() -> None:
    agreed, task = plan(PRIVATE), DotTask(rows=TEN)
    here = site(task, agreed)
    report = here.train(order(task, agreed))
    *_, reserve, settled = here.ledger.entries()
    assert isinstance(settled, Settled)
    assert here.ledger.entries()[settled.reserve] == reserve
    assert settled.report == digest_of_report(report.address, "north", report.update).hex()
    _, shown = judged(report.receipt, None)
    assert list(shown.values()) == [reserve, settled]


MEASURED = {**PRIVATE, "rounds": 2, "metrics": "plain"}


TWO_WAY = GivenTask(
    lambda: nn.Linear(2, 2, bias=False),
    Rows(fields={"x": torch.eye(2), "y": torch.tensor([0, 1])}, held_out=torch.tensor([True, False])),
)


def test_plain_metrics_that_leave_are_noted_and_cost_no_epsilon() -> None:
    agreed = plan(MEASURED)
    here = site(TWO_WAY, agreed)
    report = here.evaluate(order(TWO_WAY, agreed))
    (release,) = releases(here.ledger)
    assert (release.run, release.round, release.purpose, release.mechanism) == ("1", 1, "metrics", None)
    settled = here.ledger.entries()[-1]
    assert isinstance(settled, Settled)
    assert settled.report == digest_of_sums(report.address, "north", report.sums).hex()
    assert here.ledger.books().spent(WHOLE_SITE).epsilon(1e-5) == 0.0


def test_plain_metrics_are_noted_before_records_are_read() -> None:
    agreed, ledger = plan(MEASURED), ledger_of()
    task = Noting(ledger)
    with pytest.raises(DataInvalid, match="no field 'y'"):
        site(task, agreed, ledger=ledger).evaluate(order(task, agreed))
    assert task.counted == [[None]]


def test_plain_metrics_are_refused_where_the_budget_does_not_allow_them() -> None:
    agreed, task, ledger = plan(MEASURED), Untouchable(), ledger_of(allow=["record", "none"])
    with pytest.raises(OrderRefused, match="does not allow 'plain-metrics'"):
        site(task, agreed, ledger=ledger).evaluate(order(task, agreed))
    assert releases(ledger) == []


def test_a_model_is_measured_once_a_round_beside_its_training() -> None:
    agreed = plan(MEASURED)
    here = site(TWO_WAY, agreed)
    for number in (1, 2):
        here.train(order(TWO_WAY, agreed, number))
        here.evaluate(order(TWO_WAY, agreed, number))
    for number in (1, 2):
        with pytest.raises(OrderRefused, match="answered once"):
            here.evaluate(order(TWO_WAY, agreed, number))
    assert [(each.round, each.purpose) for each in releases(here.ledger)] == [
        (1, "update"),
        (1, "metrics"),
        (2, "update"),
        (2, "metrics"),
    ]
