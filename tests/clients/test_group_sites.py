"""A site under unit group: its records know their groups however they are kept, and what lacks them is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clients.data import DataSet
from clients.records import Records
from clients.sealing import seal_rows
from clients.site import Site
from federation.plan import Plan, Scalar
from federation.promise import round_mechanism
from federation.rows import Rows, RowSource
from federation.site_info import SiteInfo
from federation.task import Task
from privacy.accountant import epsilon
from privacy.errors import BudgetExhausted, DataInvalid, ObjectDamaged, OrderRefused, PlanInvalid, TaskInvalid
from privacy.mechanism import Mechanism
from tests.client_builders import PRIVATE, DotTask, Vector, ledger_of, order, plan, releases
from tests.clients.data_builders import again, batches, records_a_shard, sealed, source
from tests.privacy.vault_builders import safe_in, vault_in

CPU = torch.device("cpu")
WAYS = ["its own", "sealed", "streamed"]
GROUPS: dict[str, Scalar] = {**PRIVATE, "privacy.unit": "group", "privacy.records_per_group": 2}
SAMPLED: dict[str, Scalar] = {"training.sample_rate": 0.6, "training.steps": 4, "hardware.max_physical_batch": 3}
OWNERS = [number * number % 7 for number in range(24)]  # four groups, of 4, 7, 7 and 6 records


def table(held_out: torch.Tensor | None = None) -> Rows:
    cells = torch.randn(24, 3, generator=torch.Generator().manual_seed(4))
    return Rows(fields={"x": cells, "id": torch.arange(24)}, held_out=held_out, units=torch.tensor(OWNERS))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    records_a_shard(monkeypatch, 5, 3 * 4 + 8 + 16)


def kept(way: str, rows: Rows, folder: Path, with_units: bool = True) -> DataSet | None:
    if way == "its own":
        return None
    units = [f"patient {owner}" for owner in OWNERS] if with_units else None
    return seal_rows(vault_in(folder / way), source(unit="patient" if units else None), batches(rows, 4, units))


def site(way: str, task: Task, rows: Rows, agreed: Plan, folder: Path) -> Site:
    few = 1 if way == "streamed" else 2**40
    info = SiteInfo(name="north", declared_units=4, simulation_seed=1, plan=agreed, rows_memory_bytes=few)
    return Site(task=task, info=info, plan=agreed, ledger=ledger_of(), data=kept(way, rows, folder))


def parts(here: Site) -> tuple[RowSource, RowSource]:
    records = Records(task=here.task, info=here.info, data=here.data)
    return records.training(CPU), records.testing(CPU)


def whole(part: RowSource) -> Rows:
    return part.take(torch.arange(len(part)))


def trained(here: Site) -> Vector:
    """The update of a first round, whatever the site has answered before."""
    return replace(here, ledger=ledger_of()).train(order(here.task, here.plan)).update


MARKS = torch.tensor([owner == 2 for owner in OWNERS])


@pytest.mark.parametrize("way", WAYS)
def test_records_know_their_groups_however_they_are_kept(tmp_path: Path, small_shards: None, way: str) -> None:
    rows, agreed = table(MARKS), plan(GROUPS)
    for part in parts(site(way, DotTask(3, rows), rows, agreed, tmp_path)):
        assert part.units is not None
        taken = part.take(torch.tensor([len(part) - 1, 0, 3, 3]))
        assert taken.units is not None
        assert part.units[[-1, 0, 3, 3]].tolist() == taken.units.tolist()
        owners = [OWNERS[number] for number in whole(part)["id"].tolist()]
        assert len(set(zip(owners, part.units.tolist(), strict=True))) == len(set(owners)) == len(part.units.unique())


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("changes", [{}, SAMPLED], ids=["full batches", "sampled batches"])
def test_the_same_groups_train_the_same_update_to_the_last_bit(
    tmp_path: Path, small_shards: None, way: str, changes: dict[str, Scalar]
) -> None:
    rows, agreed = table(MARKS), plan({**GROUPS, **changes})
    own = trained(site("its own", DotTask(3, rows), rows, agreed, tmp_path))
    assert trained(site(way, DotTask(3), rows, agreed, tmp_path)).tobytes() == own.tobytes()
    assert own.any()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(6))
def test_no_group_stands_on_both_sides(tmp_path: Path, small_shards: None, way: str, seed: int) -> None:
    rows, agreed = table(), plan({**GROUPS, "data.test_share": 0.5, "seed": seed})
    train, test = parts(site(way, DotTask(3, rows), rows, agreed, tmp_path))
    sides = [{OWNERS[number] for number in whole(part)["id"].tolist()} for part in (train, test)]
    assert len(train) + len(test) == 24
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("seed", range(6))
def test_sealed_and_streamed_groups_stand_on_the_same_sides(tmp_path: Path, small_shards: None, seed: int) -> None:
    agreed = plan({**GROUPS, "data.test_share": 0.5, "seed": seed})
    here = site("sealed", DotTask(3), table(), agreed, tmp_path)
    there = replace(here, info=replace(here.info, rows_memory_bytes=1))
    for one, other in zip(parts(here), parts(there), strict=True):
        assert whole(one)["id"].tolist() == whole(other)["id"].tolist()


@pytest.mark.parametrize("way", WAYS)
def test_marks_that_cut_a_group_are_refused(tmp_path: Path, small_shards: None, way: str) -> None:
    rows = table(torch.arange(24) == 0)
    with pytest.raises(DataInvalid, match="cut 1 groups in two"):
        trained(site(way, DotTask(3, rows), rows, plan(GROUPS), tmp_path))


def test_records_sealed_without_units_are_refused_before_the_round_is_counted(tmp_path: Path) -> None:
    here = site("sealed", DotTask(3), table(), plan(GROUPS), tmp_path)
    here = replace(here, data=kept("sealed", table(), tmp_path / "bare", with_units=False))
    with pytest.raises(DataInvalid, match=r"'heart' was imported without units: .* --unit-column"):
        here.train(order(here.task, here.plan))
    assert releases(here.ledger) == []


def test_rows_without_units_are_refused(tmp_path: Path) -> None:
    rows = Rows(fields=table().fields)
    with pytest.raises(DataInvalid, match="or give Rows their units"):
        trained(site("its own", DotTask(3, rows), rows, plan(GROUPS), tmp_path))


class Forgetting(DotTask):
    def prepare(self, rows: Rows) -> Rows:
        return Rows(fields=rows.fields)


@pytest.mark.parametrize("way", WAYS)
def test_a_preparation_that_loses_the_groups_is_refused(tmp_path: Path, small_shards: None, way: str) -> None:
    rows = table(MARKS)
    with pytest.raises(TaskInvalid, match="prepare lost the groups"):
        trained(site(way, Forgetting(3, rows), rows, plan(GROUPS), tmp_path))


class Choosy(DotTask):
    """Keeps records with an even number only."""

    def prepare(self, rows: Rows) -> Rows:
        return rows.take(rows["id"] % 2 == 0)


@pytest.mark.parametrize("way", WAYS)
def test_records_that_prepare_drops_leave_the_others_in_their_groups(
    tmp_path: Path, small_shards: None, way: str
) -> None:
    rows = table(MARKS)
    part, _ = parts(site(way, Choosy(3, rows), rows, plan(GROUPS), tmp_path))
    left = whole(part)
    assert left.units is not None
    pairs = set(zip([OWNERS[number] for number in left["id"].tolist()], left.units.tolist(), strict=True))
    assert len(pairs) == len({owner for owner, _ in pairs}) == len({unit for _, unit in pairs})


def test_under_unit_record_groups_play_no_part(tmp_path: Path, small_shards: None) -> None:
    agreed = plan({**PRIVATE, "data.rows_per_site": 20})
    bare = Rows(fields=table().fields)
    own = trained(site("its own", DotTask(3, bare), bare, agreed, tmp_path))
    for way in WAYS:
        here = site(way, DotTask(3, table()), table(), agreed, tmp_path / "again")
        assert all(part.units is None for part in parts(here))
        assert trained(here).tobytes() == own.tobytes()


def test_groups_are_divided_by_and_not_records(tmp_path: Path) -> None:
    agreed, rows = plan({**GROUPS, "data.units_per_site": 16}), table(MARKS)
    here = site("its own", DotTask(3, rows), rows, agreed, tmp_path)
    at_four = trained(here)
    undeclared = trained(replace(here, info=replace(here.info, declared_units=None, declared_rows=1)))
    assert (4 * undeclared).tolist() == pytest.approx(at_four.tolist(), rel=1e-5)


def test_a_site_that_declares_no_groups_is_refused_even_if_it_declares_rows(tmp_path: Path) -> None:
    here = site("its own", DotTask(3, table()), table(), plan(GROUPS), tmp_path)
    here = replace(here, info=replace(here.info, declared_units=None, declared_rows=100))
    with pytest.raises(OrderRefused, match=r"no number of groups .* data.units_per_site .* or declared-units"):
        trained(here)


def test_a_delta_that_would_let_a_whole_group_out_is_refused(tmp_path: Path) -> None:
    agreed = plan({**GROUPS, "privacy.delta": 0.05})
    here = site("its own", DotTask(3, table()), table(), agreed, tmp_path)
    with pytest.raises(PlanInvalid, match=r"a site holds about 20 groups: .* publish a whole group"):
        trained(replace(here, info=replace(here.info, declared_units=20)))


def test_the_round_is_priced_for_groups_and_the_budget_holds(tmp_path: Path) -> None:
    agreed = plan({"privacy.unit": "group", "rounds": 3, "privacy.epsilon": 2.0, "privacy.rounds_per_site": 2})
    here = site("its own", DotTask(3, table()), table(), agreed, tmp_path)
    report = here.train(order(here.task, agreed))
    assert report.mechanism == round_mechanism(agreed)
    assert report.mechanism is not None
    assert report.mechanism.unit == "group"
    assert epsilon([report.mechanism] * 2, agreed.privacy.delta) <= 2.0
    here.train(order(here.task, agreed, 2))
    with pytest.raises(BudgetExhausted):
        here.train(order(here.task, agreed, 3))


def test_a_site_without_groups_sends_noise(tmp_path: Path) -> None:
    rows = table(torch.ones(24, dtype=torch.bool))
    for way in WAYS:
        assert trained(site(way, DotTask(3, rows), rows, plan(GROUPS), tmp_path)).all()


def test_unit_hashes_are_read_alone_and_not_from_a_data_set_that_took_its_place(
    tmp_path: Path, small_shards: None
) -> None:
    safe = safe_in(tmp_path / "north", "north")
    names = [f"patient {owner}" for owner in OWNERS]
    data = sealed(safe, table(), units=names)
    hashes = data.unit_hashes()
    assert hashes is not None
    assert hashes.shape == (24, 16)
    assert len(hashes.unique(dim=0)) == len(set(OWNERS))
    assert data.marks() is None
    assert sealed(safe, table(MARKS), "lung").marks().tolist() == MARKS.tolist()  # type: ignore[union-attr]
    assert DataSet.open(again(safe).vault, "lung").unit_hashes() is None
    with safe.changing() as vault:
        vault.shred("data/heart")
    sealed(safe, table(), units=names)
    with pytest.raises(ObjectDamaged, match="was replaced"):
        data.unit_hashes()


def test_record_and_group_have_no_common_epsilon() -> None:
    facts = {"noise_multiplier": 1.0, "sample_rate": 1.0, "steps": 1, "max_grad_norm": 1.0}
    with pytest.raises(Exception, match="hide different units"):
        epsilon([Mechanism(**facts, unit=unit) for unit in ("record", "group")], 1e-5)  # type: ignore[arg-type]
