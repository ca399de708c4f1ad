"""A site keeps the model that it was sent, sealed, the newest two rounds of the newest run; training never waits."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from clients.budgets import read_budget
from clients.kept_model import model_keeper
from clients.site import Site
from federation.checkpoints import newest, opened
from federation.model_files import read_model
from federation.orders import Order
from federation.plan import Plan
from federation.site_info import SiteInfo
from privacy import files
from privacy.errors import ObjectDamaged, OrderRefused
from privacy.safe import Safe
from privacy.vault import Label
from tests.client_builders import GENEROUS, PLAIN, GivenTask, ledger_of, order, plan, tables
from tests.clients.data_builders import again, on_disk, patients, same, sealed
from tests.privacy.disk_builders import never, nth, recorded
from tests.privacy.vault_builders import key_file, nobody, safe_in

TASK = GivenTask(lambda: nn.Linear(6, 3), tables())
AGREED = plan({**PLAIN, "name": "hearts", "seed": 3, "rounds": 9})


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What the site's log warns of; Flower's logger does not hand its lines on."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.levelname} {record.getMessage()}")

    listener = Listener(logging.WARNING)
    logger = logging.getLogger("flwr.fedseal")
    logger.addHandler(listener)
    yield lines
    logger.removeHandler(listener)


def a_site(safe: Safe | None, agreed: Plan = AGREED) -> Site:
    """A site that keeps models and its ledger in this safe; None: its ledger in memory, and no model."""
    info = SiteInfo(name="north", declared_rows=5, simulation_seed=1, plan=agreed)
    if safe is None:
        return Site(task=TASK, info=info, plan=agreed, ledger=ledger_of())
    ledger = safe.ledger()
    if ledger.books().budget("site") is None:
        ledger.set_budget(read_budget(GENEROUS))
    return Site(task=TASK, info=info, plan=agreed, ledger=ledger, keep=model_keeper(safe))


def wish(round_number: int, run: str = "17", agreed: Plan = AGREED) -> Order:
    """An order whose model holds only the round's number."""
    honest = order(TASK, agreed, round_number)
    vector = np.full_like(honest.vector, round_number)
    return replace(honest, address=replace(honest.address, run=run), vector=vector)


def kept(safe: Safe) -> list[tuple[str, int]]:
    return [(label.name, label.version) for label in again(safe).vault.list("model")]


def test_the_orders_model_is_kept_and_not_the_trained_one(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    report = a_site(safe).train(wish(2))
    assert report.update.any()
    fresh = again(safe)
    found = opened(fresh.vault, newest(fresh.vault))
    assert found.model["weight"].tolist() == [[2.0] * 6] * 3
    assert found.model["bias"].tolist() == [2.0] * 3
    assert dict(found.state) == {}
    assert (found.notes["run"], found.notes["round"], found.notes["name"]) == ("17", "2", "hearts")


def test_a_kept_model_builds_the_tasks_model(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    a_site(safe).train(wish(2))
    built = read_model(safe.folder, nobody).module(TASK)
    assert isinstance(built, nn.Linear)
    assert built.bias.tolist() == [2.0, 2.0, 2.0]


def test_keeping_a_model_changes_nothing_of_the_update(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    updates = [a_site(each).train(wish(1)).update.tobytes() for each in (safe, None)]
    assert updates[0] == updates[1]


def test_the_newest_two_rounds_are_kept(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    here = a_site(safe)
    for number in (1, 2, 5):
        here.train(wish(number))
    assert kept(safe) == [("hearts-17", 2), ("hearts-17", 5)]


def test_a_newer_run_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    for number in (1, 2):
        a_site(safe).train(wish(number))
    other = plan({**PLAIN, "name": "lungs"})
    a_site(safe, other).train(wish(1, run="3", agreed=other))
    assert kept(safe) == [("lungs-3", 1)]


def test_data_sets_and_the_identity_are_left_alone(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    data = sealed(safe, patients(5))
    for run in ("17", "18"):
        a_site(safe).train(wish(1, run))
    assert same(data.read(), patients(5))
    assert again(safe).identity().public() == safe.public_identity()


def test_while_another_command_changes_the_safe_training_goes_on_and_says_so(
    tmp_path: Path, warnings: list[str]
) -> None:
    safe = safe_in(tmp_path / "north", "north")
    here = a_site(safe)
    here.train(wish(1))
    with files.locked(safe.folder):
        assert here.train(wish(2)).update.any()
        assert kept(safe) == [("hearts-17", 1)]
    assert len(warnings) == 1
    assert warnings[0].startswith("WARNING model not kept round=2 error=StorageBusy reason=")
    here.train(wish(3))
    assert kept(safe) == [("hearts-17", 1), ("hearts-17", 3)]
    assert len(warnings) == 1


def test_a_full_disk_does_not_stop_training(
    tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    safe = safe_in(tmp_path / "north", "north")
    tape = recorded(monkeypatch)
    tape.failing = nth("write", 0, errno.ENOSPC)
    assert a_site(safe).train(wish(1)).update.any()
    tape.failing = never
    assert kept(safe) == []
    assert [line.split(" reason=")[0] for line in warnings] == ["WARNING model not kept round=1 error=StorageFailed"]


def test_training_goes_on_after_the_sites_lock_was_changed(tmp_path: Path, warnings: list[str]) -> None:
    safe = safe_in(tmp_path / "north", "north")
    here = a_site(safe)
    here.data = sealed(safe, TASK.rows(here.info))
    again(safe).lock_with(key_file(tmp_path / "keys/new.key"), nobody)
    assert here.train(wish(1)).update.any()
    assert [line.split(" reason=")[0] for line in warnings] == ["WARNING model not kept round=1 error=LockChanged"]


def test_a_refused_order_is_not_kept(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    safe.ledger().set_budget(read_budget({**GENEROUS, "allow": ["record"]}))
    with pytest.raises(OrderRefused, match="does not allow 'none'"):
        a_site(safe).train(wish(1))
    assert kept(safe) == []
    safe.ledger().set_budget(read_budget(GENEROUS))
    a_site(safe).train(wish(3))
    with pytest.raises(OrderRefused, match="answered once"):
        a_site(safe).train(wish(2))
    assert kept(safe) == [("hearts-17", 3)]


def test_no_weight_is_on_the_disk_in_the_clear(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    vector = np.arange(21, dtype=np.float32) * 1.25
    a_site(safe).train(replace(wish(1), vector=vector))
    lying = on_disk(safe.folder)
    assert any("model." in name for name in lying)
    assert not any(vector[3:5].tobytes() in held for held in lying.values())


def test_a_model_opens_under_its_own_run_and_round_only(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    for number in (1, 2):
        a_site(safe).train(wish(number))
    older, newer = (safe.vault.folder / f"model.hearts-17.{number}" for number in (1, 2))
    newer.write_bytes(older.read_bytes())
    with pytest.raises(ObjectDamaged, match="model/hearts-17/2"):
        opened(again(safe).vault, Label("model", "hearts-17", 2))


@pytest.mark.parametrize("run", ["17/../x", "A", "1" * 100])
def test_the_model_of_a_run_with_an_odd_name_is_not_kept_and_the_round_goes_on(
    tmp_path: Path, warnings: list[str], run: str
) -> None:
    safe = safe_in(tmp_path / "north")
    a_site(safe).train(wish(1, run))
    assert kept(safe) == []
    assert "no model can be kept under the name of this run" in warnings[0]
