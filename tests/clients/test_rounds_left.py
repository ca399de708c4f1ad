"""What a budget still covers of a plan counts all that the plan releases: statistics, updates, metrics."""

from __future__ import annotations

import pytest

from clients.spending import rounds_left
from federation.plan import Scalar
from federation.promise import rounds_within_budget, run_releases, statistics_mechanism
from privacy.accountant import epsilon
from privacy.budget import WHOLE_SITE
from privacy.entries import DataRegistered, Reserved
from privacy.errors import OrderRefused
from privacy.ledger import now
from tests.client_builders import ledger_of, plan, releases

FIXED: dict[str, Scalar] = {"rounds": 9, "privacy.epsilon": 50.0, "privacy.noise_multiplier": 2.0}
METRICS: dict[str, Scalar] = {"metrics": "private", "privacy.metrics_noise_multiplier": 2.0}
STATISTICS: dict[str, Scalar] = {"statistics": "private", "privacy.statistics_share": 0.1}
HEART = DataRegistered(time=now(), account="a" * 64, name="heart", records=8, overlaps=[])


@pytest.mark.parametrize("unit", ["record", "group", "client"])
@pytest.mark.parametrize("beside", [{}, METRICS, STATISTICS, {**METRICS, **STATISTICS}])
def test_the_rounds_left_cost_no_more_than_the_budget_and_one_more_would(unit: str, beside: dict[str, Scalar]) -> None:
    agreed = plan({**FIXED, **beside, "privacy.unit": unit})
    for rounds in (0, 3, 8):
        price = epsilon(run_releases(agreed, rounds), 1e-5) + 1e-6
        found, why = rounds_left(ledger_of(epsilon=price).books(), WHOLE_SITE, agreed)
        assert found == rounds
        assert "for ever" in why
    assert rounds_left(ledger_of().books(), WHOLE_SITE, agreed)[0] == rounds_within_budget(agreed) == 9


def test_a_budget_that_covers_no_statistics_covers_no_round() -> None:
    agreed = plan({**FIXED, **STATISTICS})
    price = epsilon([statistics_mechanism(agreed, 1.0)], 1e-5)  # type: ignore[list-item]
    assert rounds_left(ledger_of(epsilon=0.9 * price).books(), WHOLE_SITE, agreed)[0] == 0


def test_rounds_of_a_whole_client_are_asked_of_the_whole_site() -> None:
    agreed, ledger = plan({**FIXED, "privacy.unit": "client"}), ledger_of()
    ledger.register(HEART, [])
    facts = run_releases(agreed, 1)[0]
    spent = {"time": now(), "account": WHOLE_SITE, "run": "0", "plan": agreed.digest, "purpose": "update"}
    ledger.reserve(Reserved(**spent, round=1, mechanism=facts, witnessed="0" * 64))  # type: ignore[arg-type]
    ledger.set_budget(ledger.books().budgets[None].model_copy(update={"epsilon": epsilon([facts] * 3, 1e-5)}))
    assert rounds_left(ledger.books(), HEART.account, agreed)[0] == 2


def test_metrics_that_a_budget_does_not_allow_are_no_rounds_at_all() -> None:
    agreed = plan({**FIXED, "metrics": "plain"})
    with pytest.raises(OrderRefused, match="does not allow 'plain-metrics'"):
        rounds_left(ledger_of(allow=["record"]).books(), WHOLE_SITE, agreed)


def test_asking_spends_nothing() -> None:
    agreed, ledger = plan({**FIXED, **METRICS}), ledger_of()
    assert [rounds_left(ledger.books(), WHOLE_SITE, agreed)[0] for _ in range(2)] == [9, 9]
    assert releases(ledger) == []
