"""A simulation may keep its sites: safes as deployed ones, whose ledgers tell what the run's own figures tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from clients.data import DataSet
from federation.rows import Rows
from federation.site_info import SiteInfo
from privacy.errors import DataInvalid, KeyFileInvalid, PlanInvalid
from privacy.passphrases import nobody_to_ask
from privacy.safe import Safe
from server.records import RoundRecord
from simulations.simulate import Options, Result, simulate
from tests.client_builders import PRIVATE, GivenTask, plan, releases
from tests.privacy.vault_builders import key_file

AGREED = plan({**PRIVATE, "rounds": 3, "metrics": "plain"})
TASK = GivenTask(lambda: nn.Linear(2, 2))


def rows(seed: int) -> Rows:
    inputs = torch.randn(20, 2, generator=torch.Generator().manual_seed(seed))
    return Rows(fields={"x": inputs, "y": torch.arange(20) % 2})


SITES = [rows(seed) for seed in range(3)]


def keeping(folder: Path, workers: int = 1) -> Options:
    key = key_file(folder / "usb/key").path
    return Options(out=folder / "runs", key_file=key, keep_sites=True, workers=workers)


def facts(result: Result) -> list[RoundRecord]:
    """The rounds without what a clock says."""
    return [replace(record, seconds={}) for record in result.rounds]


def safes(result: Result) -> list[Safe]:
    assert result.folder is not None
    return [Safe.unlock(folder, nobody_to_ask) for folder in sorted((result.folder / "sites").iterdir())]


def test_kept_ledgers_tell_what_the_run_tells(tmp_path: Path) -> None:
    result = simulate(TASK, AGREED, SITES, keeping(tmp_path))
    kept = safes(result)
    assert [safe.name for safe in kept] == ["site-0", "site-1", "site-2"]
    for safe in kept:
        ledger = safe.ledger()
        account = DataSet.open(safe.vault, "records").facts.fingerprint
        assert [(each.round, each.purpose) for each in releases(ledger)] == [
            (number, purpose) for number in (1, 2, 3) for purpose in ("update", "metrics")
        ]
        assert {each.account for each in releases(ledger)} == {account}
        assert ledger.books().spent(account).epsilon(AGREED.privacy.delta) == result.rounds[-1].epsilon[safe.name]


@pytest.mark.parametrize("workers", [1, 2])
def test_keeping_the_sites_changes_nothing_of_the_run(tmp_path: Path, workers: int) -> None:
    kept = simulate(TASK, AGREED, SITES, keeping(tmp_path, workers))
    forgotten = simulate(TASK, AGREED, SITES)
    assert facts(kept) == facts(forgotten)
    assert kept.run.vector.tobytes() == forgotten.run.vector.tobytes()


def test_sites_are_kept_only_where_there_is_a_folder_and_a_key_file(tmp_path: Path) -> None:
    whole = keeping(tmp_path)
    for lacking in (replace(whole, out=None), replace(whole, key_file=None)):
        with pytest.raises(PlanInvalid, match="name both"):
            simulate(TASK, AGREED, SITES, lacking)
    assert not (tmp_path / "runs").exists()


class Broken(GivenTask):
    """Has records for one site only."""

    def rows(self, site: SiteInfo) -> Rows:
        if site.index:
            raise DataInvalid("there are no more records")
        return SITES[0]


def test_a_run_that_fails_before_it_starts_keeps_no_site(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="no more records"):
        simulate(Broken(lambda: nn.Linear(2, 2)), AGREED, 2, keeping(tmp_path))
    assert list((tmp_path / "runs").iterdir()) == []
    with pytest.raises(KeyFileInvalid):
        simulate(TASK, AGREED, SITES, replace(keeping(tmp_path), key_file=tmp_path / "none"))
    assert list((tmp_path / "runs").iterdir()) == []
