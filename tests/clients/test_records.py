"""Sealed, streamed or the task's own: the same records train the same model, and none stays in memory after a round."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clients.data import DataSet
from clients.records import Records
from clients.sealing import seal_rows
from clients.site import MODELS, Site
from federation.plan import Plan, Scalar
from federation.rows import Rows, RowSource
from federation.site_info import SiteInfo
from federation.task import Task
from privacy import files
from privacy.errors import DataInvalid, ObjectDamaged, ObjectMissing
from privacy.keys import KeyRing
from privacy.vault import Label, Vault
from tests.client_builders import (
    PLAIN,
    PRIVATE,
    DotTask,
    GivenTask,
    Vector,
    dropping,
    ledger_of,
    order,
    plan,
    private_update,
    quiet,
    releases,
)
from tests.clients.data_builders import batches, records_a_shard, same, sealed_in, source
from tests.privacy.vault_builders import object_file, vault_in

CPU = torch.device("cpu")
WAYS = ["its own", "sealed", "streamed"]
SAMPLED: dict[str, Scalar] = {"training.sample_rate": 0.4, "training.steps": 3, "hardware.max_physical_batch": 2}
COLUMNS = 37  # of no other tensor here


def table(count: int, columns: int = 3) -> Rows:
    """Different numbers in every cell, and the record's number."""
    cells = torch.randn(count, columns, generator=torch.Generator().manual_seed(4))
    return Rows(fields={"x": cells, "id": torch.arange(count)})


@pytest.fixture
def shards_of_six(monkeypatch: pytest.MonkeyPatch) -> None:
    records_a_shard(monkeypatch, 6, 3 * 4 + 8)


def info(agreed: Plan, way: str) -> SiteInfo:
    few = 1 if way == "streamed" else 2**40
    return SiteInfo(name="north", declared_rows=10, simulation_seed=1, plan=agreed, rows_memory_bytes=few)


def records(way: str, task: Task, rows: Rows, agreed: Plan, folder: Path) -> Records:
    """A site's records in one of three ways; the sealed task is never asked for records of its own."""
    data = None if way == "its own" else seal_rows(vault_in(folder / way), source(), batches(rows, 4))
    return Records(task=task, info=info(agreed, way), data=data)


def whole(part: RowSource) -> Rows:
    return part.take(torch.arange(len(part)))


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_records_go_to_the_same_side_in_the_same_order_however_they_are_kept(
    tmp_path: Path, shards_of_six: None, way: str, seed: int, share: float
) -> None:
    agreed, rows = plan({**PLAIN, "seed": seed, "data.test_share": share}), table(20)
    own = records("its own", DotTask(rows=rows), rows, agreed, tmp_path)
    kept = records(way, DotTask(), rows, agreed, tmp_path)
    for ours, theirs in ((kept.training(CPU), own.training(CPU)), (kept.testing(CPU), own.testing(CPU))):
        assert len(ours) == len(theirs)
        assert ours.device == theirs.device == CPU
        assert same(whole(ours), whole(theirs))
    assert len(kept.training(CPU)) + len(kept.testing(CPU)) == 20


@pytest.mark.parametrize("way", WAYS)
def test_marks_of_the_rows_decide_and_do_not_reach_the_task(tmp_path: Path, shards_of_six: None, way: str) -> None:
    marked = Rows(fields=table(20).fields, held_out=torch.arange(20) % 3 == 0)
    kept = records(way, DotTask(rows=marked), marked, plan(PLAIN), tmp_path)
    assert whole(kept.testing(CPU))["id"].tolist() == list(range(0, 20, 3))
    assert whole(kept.training(CPU)).held_out is None


@pytest.mark.parametrize("way", WAYS)
def test_records_are_prepared_before_anybody_sees_them(tmp_path: Path, shards_of_six: None, way: str) -> None:
    class Doubling(DotTask):
        def prepare(self, rows: Rows) -> Rows:
            return rows.replace(x=rows["x"] * 2)

    rows, agreed = table(20), plan(PLAIN)
    plain = records("its own", DotTask(rows=rows), rows, agreed, tmp_path / "plain")
    kept = records(way, Doubling(rows=rows), rows, agreed, tmp_path)
    assert torch.equal(whole(kept.training(CPU))["x"], 2 * whole(plain.training(CPU))["x"])


def test_streamed_records_are_taken_a_batch_at_a_time(tmp_path: Path, shards_of_six: None) -> None:
    seen: list[int] = []

    class Counting(DotTask):
        def prepare(self, rows: Rows) -> Rows:
            seen.append(len(rows))
            return rows

    agreed = plan({**PLAIN, **SAMPLED})
    trained(site("streamed", Counting(3), table(20), agreed, tmp_path))
    assert max(seen) == 2


def test_one_damaged_shard_spoils_only_the_batches_that_touch_it(tmp_path: Path, shards_of_six: None) -> None:
    marked = Rows(fields=table(20).fields, held_out=torch.zeros(20, dtype=torch.bool))
    kept = records("streamed", DotTask(), marked, plan(PLAIN), tmp_path)
    training = kept.training(CPU)
    assert kept.data is not None
    path = object_file(kept.data.vault, kept.data.vault.list("rows")[1])
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)
    assert kept.data.facts.shards[0] == 5
    assert training.take(torch.tensor([0, 4, 19]))["id"].tolist() == [0, 4, 19]
    with pytest.raises(ObjectDamaged):
        training.take(torch.tensor([0, 5]))


def site(way: str, task: Task, rows: Rows, agreed: Plan, folder: Path) -> Site:
    kept = records(way, task, rows, agreed, folder)
    return Site(task=task, info=kept.info, plan=agreed, ledger=ledger_of(), data=kept.data)


def trained(here: Site) -> Vector:
    update = here.train(order(here.task, here.plan)).update
    assert np.isfinite(update).all()
    return update


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("changes", [{}, SAMPLED], ids=["full batches", "sampled batches"])
@pytest.mark.parametrize("privacy", [PRIVATE, PLAIN], ids=["private", "without privacy"])
def test_the_same_records_train_the_same_update_to_the_last_bit(
    tmp_path: Path, shards_of_six: None, way: str, changes: dict[str, Scalar], privacy: dict[str, Scalar]
) -> None:
    rows, agreed = table(20), plan({**privacy, **changes})
    own = trained(site("its own", DotTask(3, rows), rows, agreed, tmp_path))
    kept = trained(site(way, DotTask(3), rows, agreed, tmp_path))
    assert kept.tobytes() == own.tobytes()
    assert own.any()


@pytest.mark.parametrize("way", WAYS[1:])
def test_another_record_trains_another_update(tmp_path: Path, shards_of_six: None, way: str) -> None:
    rows, agreed = table(20), plan({**PRIVATE, **SAMPLED})
    own = trained(site("its own", DotTask(3, rows), rows, agreed, tmp_path))
    other = rows.replace(x=rows["x"] + 1)
    assert trained(site(way, DotTask(3), other, agreed, tmp_path)).tobytes() != own.tobytes()


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("privacy", [PRIVATE, PLAIN], ids=["private", "without privacy"])
def test_a_model_that_draws_randomness_and_a_task_that_augments_train_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, privacy: dict[str, Scalar]
) -> None:
    class Augmenting(GivenTask):
        def augment(self, batch: Rows, generator: torch.Generator) -> Rows:
            return batch.replace(x=batch["x"] + torch.rand(batch["x"].shape, generator=generator))

    records_a_shard(monkeypatch, 6, 6 * 4 + 8)
    rows = Rows(fields={"x": table(20, 6)["x"], "y": torch.arange(20) % 3})
    agreed = plan({**privacy, **SAMPLED})
    own = trained(site("its own", Augmenting(dropping, rows), rows, agreed, tmp_path))
    assert trained(site(way, Augmenting(dropping), rows, agreed, tmp_path)).tobytes() == own.tobytes()


@pytest.mark.parametrize("way", WAYS[1:])
def test_the_same_records_give_the_same_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    records_a_shard(monkeypatch, 6, 2 * 4 + 8)
    rows = Rows(fields={"x": table(20, 2)["x"], "y": torch.arange(20) % 2})
    agreed = plan({**PLAIN, "metrics": "plain", "data.test_share": 0.5})
    own, kept = (
        site(each, GivenTask(lambda: nn.Linear(2, 2, bias=False), rows), rows, agreed, tmp_path)
        for each in ("its own", way)
    )
    ours, theirs = (here.evaluate(order(here.task, agreed)).sums for here in (kept, own))
    assert float(ours["count"]) > 3
    assert {name: tensor.tolist() for name, tensor in ours.items()} == {
        name: tensor.tolist() for name, tensor in theirs.items()
    }


class Choosy(DotTask):
    """Keeps records with an even number only, in training and in testing."""

    def prepare(self, rows: Rows) -> Rows:
        return rows.take(rows["id"] % 2 == 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("privacy", [PRIVATE, PLAIN], ids=["private", "without privacy"])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_records_that_prepare_drops_are_never_trained_on(
    tmp_path: Path, shards_of_six: None, way: str, privacy: dict[str, Scalar], batch: int
) -> None:
    rows = table(20)
    agreed = plan({**privacy, **SAMPLED, "hardware.max_physical_batch": batch})
    task = Choosy(3, rows)
    trained(site(way, task, rows, agreed, tmp_path))
    numbers = {number for seen in task.batches for number in seen}
    made_up = {0, 1} if privacy is PRIVATE else set()
    assert numbers - made_up
    assert all(number % 2 == 0 for number in numbers - made_up)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_below_the_noise_dropped_records_leave_no_trace(tmp_path: Path, shards_of_six: None, batch: int) -> None:
    rows, task = table(20), Choosy(3)
    settings = quiet(max_physical_batch=batch)
    parts = [records(way, Choosy(3, rows), rows, plan(PRIVATE), tmp_path).training(CPU) for way in WAYS]
    assert len({len(part) for part in parts}) == 2  # what is streamed counts the records before they are prepared
    own, *kept = (private_update(task, part, settings=settings) for part in parts)  # type: ignore[arg-type]
    for update in kept:
        assert np.allclose(update, own, rtol=1e-5)


def holding() -> list[object]:
    """What in this process holds records of the wide table: tensors, and opened shards."""
    gc.collect()
    record = table(40, COLUMNS)["x"][7].numpy().tobytes()
    found: list[object] = []
    for each in gc.get_objects():
        if issubclass(type(each), Tensor) and each.shape[1:] == (COLUMNS,) and len(each) > 3:
            found.append(each)
        elif type(each) is memoryview:
            with suppress(ValueError):  # a view that was released
                if record in each.tobytes():
                    found.append(each)
    return found


class Watched(DotTask):
    """Notes in the midst of a round whether records are in memory."""

    seen = 0

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        if len(batch) > 3:  # the site's own: of made-up records there are three at most
            self.seen = self.seen or len(holding())
        return super().loss(model, batch)


class Failing(Watched):
    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        losses = super().loss(model, batch)
        if self.seen:
            raise ZeroDivisionError
        return losses


def wide_site(way: str, make: Callable[..., Watched], privacy: dict[str, Scalar], folder: Path) -> Site:
    rows = table(40, COLUMNS)
    return site(way, make(COLUMNS, rows if way == "its own" else None), rows, plan(privacy), folder)


@pytest.mark.parametrize("way", ["sealed", "streamed"])
@pytest.mark.parametrize("privacy", [PRIVATE, PLAIN], ids=["private", "without privacy"])
def test_no_record_stays_in_memory_after_a_round(tmp_path: Path, way: str, privacy: dict[str, Scalar]) -> None:
    here = wide_site(way, Watched, {**privacy, "metrics": "plain"}, tmp_path)
    trained(here)
    assert holding() == []
    assert isinstance(here.task, Watched)
    assert here.task.seen > 0


@pytest.mark.parametrize("way", ["sealed", "streamed"])
@pytest.mark.parametrize("privacy", [PRIVATE, PLAIN], ids=["private", "without privacy"])
def test_no_record_stays_in_memory_after_a_round_that_failed(
    tmp_path: Path, way: str, privacy: dict[str, Scalar]
) -> None:
    here = wide_site(way, Failing, privacy, tmp_path)
    with pytest.raises(ZeroDivisionError):
        trained(here)
    assert holding() == []
    assert isinstance(here.task, Watched)
    assert here.task.seen > 0


def test_a_record_that_stayed_in_memory_would_be_found_by_these_tests(tmp_path: Path) -> None:
    here = wide_site("sealed", Watched, PRIVATE, tmp_path)
    assert holding() == []
    assert here.data is not None
    shard = here.data.vault.open(here.data.vault.list("rows")[0])
    assert holding() == [shard]
    part = Records(task=here.task, info=here.info, data=here.data).training(CPU)
    assert len(holding()) == 2
    del shard, part
    own = wide_site("its own", Watched, PRIVATE, tmp_path)
    trained(own)
    assert len(holding()) == 1  # a task that reads its own records has them kept for the next round
    MODELS.forget()


def test_a_sealed_task_is_never_asked_for_records(tmp_path: Path) -> None:
    class Forbidding(DotTask):
        def rows(self, site: SiteInfo) -> Rows:
            raise AssertionError("the site has a sealed data set")

    trained(site("sealed", Forbidding(3), table(20), plan(PRIVATE), tmp_path))


@pytest.mark.parametrize("way", ["sealed", "streamed"])
def test_a_shard_that_is_gone_is_told_when_the_round_asks_for_it(tmp_path: Path, way: str) -> None:
    here = site(way, DotTask(3), table(20), plan(PRIVATE), tmp_path)
    assert here.data is not None
    object_file(here.data.vault, here.data.vault.list("rows")[0]).unlink()
    with pytest.raises(ObjectMissing):
        trained(here)


def test_memory_decides_where_the_site_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 4 * 20 * (3 * 4 + 8)  # a quarter of it is what the data set takes

    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory)
    rows, agreed = table(20), plan(PLAIN)
    data = sealed_in(vault_in(tmp_path), rows)
    silent = SiteInfo(name="north", plan=agreed)
    assert isinstance(Records(task=DotTask(3), info=silent, data=data).training(CPU), Rows)
    Memory.available -= 4
    streamed = Records(task=DotTask(3), info=silent, data=data).training(CPU)
    assert not isinstance(streamed, Rows)
    assert same(whole(streamed), whole(Records(task=DotTask(3), info=info(agreed, "sealed"), data=data).training(CPU)))


@pytest.mark.parametrize("way", ["sealed", "streamed"])
def test_a_site_all_of_whose_records_are_held_out_sends_noise_or_refuses(tmp_path: Path, way: str) -> None:
    marked = Rows(fields=table(5).fields, held_out=torch.ones(5, dtype=torch.bool))
    assert trained(site(way, DotTask(3), marked, plan(PRIVATE), tmp_path / "private")).all()
    with pytest.raises(DataInvalid, match="no training records"):
        trained(site(way, DotTask(3), marked, plan(PLAIN), tmp_path / "plain"))


class Counting(Vault):
    """Counts how often a shard is opened whole."""

    opened = 0

    def open(self, label: Label) -> memoryview:
        self.opened += label.kind == "rows"
        return super().open(label)


def test_a_data_set_is_divided_once_for_all_rounds(tmp_path: Path, shards_of_six: None) -> None:
    vault = Counting(tmp_path, KeyRing.throw_away("own"), files.writing)
    kept = Records(task=DotTask(3), info=info(plan(PLAIN), "streamed"), data=sealed_in(vault, table(20)))
    first, second = kept.training(CPU), kept.training(CPU)
    kept.testing(CPU)
    assert vault.opened == 4
    assert same(whole(first), whole(second))


def replaced(data: DataSet, rows: Rows) -> None:
    """Another process shreds the data set and imports these records under its name."""
    data.vault.shred("data/heart")
    sealed_in(data.vault, rows)


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_data_set_that_was_imported_anew_is_divided_anew(tmp_path: Path, shards_of_six: None, way: str) -> None:
    old, new = (
        Rows(fields=table(20).fields, held_out=torch.arange(20) % 2 == side) for side in (0, 1)
    )  # the same records; those that were trained on are now held out
    kept = records(way, DotTask(3), old, plan(PLAIN), tmp_path)
    assert whole(kept.training(CPU))["id"].tolist() == list(range(1, 20, 2))
    assert kept.data is not None
    replaced(kept.data, new)
    kept.look_again()
    assert whole(kept.training(CPU))["id"].tolist() == list(range(0, 20, 2))
    assert whole(kept.testing(CPU))["id"].tolist() == list(range(1, 20, 2))


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("count", [3, 6, 7, 19, 21, 40])
def test_a_data_set_that_was_imported_anew_may_be_smaller_or_larger(
    tmp_path: Path, shards_of_six: None, way: str, count: int
) -> None:
    kept = records(way, DotTask(3), table(20), plan(PLAIN), tmp_path)
    kept.training(CPU)
    assert kept.data is not None
    replaced(kept.data, table(count))
    kept.look_again()
    numbers = whole(kept.training(CPU))["id"].tolist() + whole(kept.testing(CPU))["id"].tolist()
    assert sorted(numbers) == list(range(count))


def test_a_data_set_that_is_gone_is_told(tmp_path: Path) -> None:
    kept = records("sealed", DotTask(3), table(20), plan(PLAIN), tmp_path)
    kept.training(CPU)
    assert kept.data is not None
    kept.data.vault.shred("data/heart")
    with pytest.raises(DataInvalid, match="there is no data set 'heart'"):
        kept.look_again()


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_data_set_that_is_replaced_after_its_round_was_counted_is_not_read(
    tmp_path: Path, shards_of_six: None, way: str
) -> None:
    kept = records(way, DotTask(3), table(20), plan(PLAIN), tmp_path)
    counted = kept.look_again()
    assert counted is not None
    replaced(counted, table(20))
    with pytest.raises(ObjectDamaged):
        whole(kept.training(CPU))


def test_a_round_is_counted_for_the_data_set_that_it_reads(tmp_path: Path) -> None:
    here = site("sealed", DotTask(3), table(20), plan({**PRIVATE, "rounds": 2}), tmp_path)
    here.train(order(here.task, here.plan, 1))
    assert here.data is not None
    replaced(here.data, table(21))
    here.train(order(here.task, here.plan, 2))
    first, second = (release.account for release in releases(here.ledger))
    assert first == here.data.facts.fingerprint
    assert second == DataSet.open(here.data.vault, "heart").facts.fingerprint != first


class Positive(DotTask):
    """Keeps positive records only."""

    def prepare(self, rows: Rows) -> Rows:
        return rows.take(rows["x"][:, 0] > 0)


def of_numbers(way: str, numbers: list[float], folder: Path, **changes: Scalar) -> Site:
    column = Rows(fields={"x": torch.tensor(numbers)[:, None]}, held_out=torch.zeros(len(numbers), dtype=torch.bool))
    return site(way, Positive(rows=column), column, plan({**PLAIN, **changes}), folder)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch", [1, 3, 1024])
def test_a_record_that_prepare_drops_does_not_shorten_the_step_without_privacy(
    tmp_path: Path, way: str, batch: int
) -> None:
    here = of_numbers(way, [2.0, -1.0, 4.0, -1.0, -1.0], tmp_path, **{"hardware.max_physical_batch": batch})
    assert trained(here).tolist() == pytest.approx([-0.3])  # the learning rate, 0.1, times the mean of 2 and 4


@pytest.mark.parametrize("way", WAYS)
def test_a_step_whose_batch_is_dropped_whole_changes_nothing(tmp_path: Path, way: str) -> None:
    rate = {"training.sample_rate": 0.2, "training.steps": 5}  # five steps of one record each: a whole epoch
    here = of_numbers(way, [2.0, -1.0, -1.0, -1.0, -1.0], tmp_path, **rate)
    steps = 5 if way != "streamed" else 1  # in memory one record is left, which is the batch of every step
    assert trained(here).tolist() == pytest.approx([-0.2 * steps])


def test_a_step_whose_batch_is_dropped_whole_takes_no_penalty_either(tmp_path: Path) -> None:
    changes = {"training.sample_rate": 0.2, "training.steps": 5, "training.l2": 0.5}
    here = of_numbers("streamed", [2.0, -1.0, -1.0, -1.0, -1.0], tmp_path, **changes)
    (start,) = order(here.task, here.plan).vector
    assert trained(here).tolist() == pytest.approx([-0.1 * (2 + 0.5 * start)])


@pytest.mark.parametrize("way", WAYS)
def test_a_site_all_of_whose_records_are_dropped_refuses_to_train_without_privacy(tmp_path: Path, way: str) -> None:
    with pytest.raises(DataInvalid, match="no training records, or preparing drops them all"):
        trained(of_numbers(way, [-1.0, -1.0], tmp_path))
