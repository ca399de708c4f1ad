"""The account of a whole site: what counts for every data set, and for which every data set's spending counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from clients.data import DataSet
from clients.site import Site
from federation.plan import Plan, Scalar
from federation.promise import round_mechanism
from federation.site_info import SiteInfo
from privacy.accountant import epsilon
from privacy.budget import WHOLE_SITE
from privacy.errors import BudgetExhausted, OrderRefused
from privacy.ledger import Ledger
from tests.client_builders import PLAIN, PRIVATE, GivenTask, ledger_of, order, plan, releases
from tests.clients.data_builders import patients, sealed
from tests.privacy.vault_builders import safe_in

TASK = GivenTask(lambda: nn.Linear(2, 3))
CLIENT: dict[str, Scalar] = {**PRIVATE, "privacy.unit": "client"}
DELTA = 1e-5


@pytest.fixture
def hearts_and_lungs(tmp_path: Path) -> tuple[DataSet, DataSet]:
    """Two data sets of one site that share nobody."""
    safe = safe_in(tmp_path / "north", "north")
    return sealed(safe, patients(8), "heart"), sealed(safe, patients(8, first=100), "lung")


def trained(data: DataSet | None, ledger: Ledger, agreed: Plan, run: str) -> None:
    info = SiteInfo(name="north", declared_rows=8, simulation_seed=1, plan=agreed)
    here = Site(task=TASK, info=info, plan=agreed, ledger=ledger, data=data)
    here.train(order(TASK, agreed, run=run))


def test_two_data_sets_of_one_site_add_up_where_the_whole_site_is_the_unit(
    hearts_and_lungs: tuple[DataSet, DataSet],
) -> None:
    heart, lung = hearts_and_lungs
    agreed, ledger = plan(CLIENT), ledger_of()
    trained(heart, ledger, agreed, "1")
    trained(lung, ledger, agreed, "2")
    twice = epsilon([round_mechanism(agreed)] * 2, DELTA)
    assert [release.account for release in releases(ledger)] == [WHOLE_SITE] * 2
    for account in (WHOLE_SITE, heart.facts.fingerprint, lung.facts.fingerprint):
        assert ledger.books().spent(account).epsilon(DELTA) == twice


def test_a_whole_sites_second_data_set_can_not_pass_its_budget(hearts_and_lungs: tuple[DataSet, DataSet]) -> None:
    heart, lung = hearts_and_lungs
    agreed = plan(CLIENT)
    once = epsilon([round_mechanism(agreed)], DELTA)
    ledger = ledger_of(epsilon=1.5 * once)
    trained(heart, ledger, agreed, "1")
    with pytest.raises(BudgetExhausted, match=r"for ever: .* in 1 releases"):
        trained(lung, ledger, agreed, "2")


def test_data_sets_that_share_nobody_stay_apart_where_a_record_is_the_unit(
    hearts_and_lungs: tuple[DataSet, DataSet],
) -> None:
    heart, lung = hearts_and_lungs
    agreed, ledger = plan({**PRIVATE, "privacy.delta": 1e-3}), ledger_of()
    trained(heart, ledger, agreed, "1")
    trained(lung, ledger, agreed, "2")
    once = epsilon([round_mechanism(agreed)], DELTA)
    for data in (heart, lung):
        assert ledger.books().spent(data.facts.fingerprint).epsilon(DELTA) == once


def test_an_update_without_privacy_is_its_data_sets_own(hearts_and_lungs: tuple[DataSet, DataSet]) -> None:
    heart, lung = hearts_and_lungs
    ledger = ledger_of()
    trained(heart, ledger, plan(PLAIN), "1")
    with pytest.raises(BudgetExhausted, match="spent inf"):
        trained(lung, ledger, plan(CLIENT), "2")  # the whole site holds the hearts, too
    trained(lung, ledger, plan(PRIVATE), "3")


def test_records_that_were_never_sealed_are_any_of_the_site() -> None:
    ledger, agreed = ledger_of(), plan(PRIVATE)
    here = GivenTask(TASK.model, patients(8))
    info = SiteInfo(name="north", declared_rows=8, simulation_seed=1, plan=agreed)
    Site(task=here, info=info, plan=agreed, ledger=ledger).train(order(here, agreed))
    assert [release.account for release in releases(ledger)] == [WHOLE_SITE]
    assert ledger.books().names[WHOLE_SITE] == "the whole site"


def test_a_whole_site_and_its_records_have_no_common_epsilon(hearts_and_lungs: tuple[DataSet, DataSet]) -> None:
    heart, lung = hearts_and_lungs
    ledger = ledger_of()
    trained(heart, ledger, plan(CLIENT), "1")
    with pytest.raises(OrderRefused, match="counts in units of client"):
        trained(lung, ledger, plan(PRIVATE), "2")
