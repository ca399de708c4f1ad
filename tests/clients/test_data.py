"""A sealed data set reads as what was sealed, whole or by position; what is damaged, missing or unknown is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from clients import sealing
from clients.data import DataSet, Facts, data_sets, facts_label, rows_label
from clients.sealing import seal_rows
from federation.rows import Rows
from privacy.errors import DataInvalid, FedSealError, KeyringDamaged, ObjectDamaged, ObjectMissing
from privacy.safe import Safe
from privacy.vault import Vault
from tests.clients.data_builders import (
    NOW,
    again,
    batches,
    names,
    patients,
    records_a_shard,
    same,
    sealed,
    sealed_in,
    source,
)
from tests.privacy.vault_builders import flipped, object_file, safe_in, vault_in, writable

TYPES = [torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
SHARDS = [1, 2, 3, 7, 8, 100]  # records in a shard, of seven


def positions(*chosen: int) -> torch.Tensor:
    return torch.tensor(chosen, dtype=torch.int64)


@st.composite
def anything(draw: st.DrawFn) -> Rows:
    """One to nine records with one to three fields of any type and shape, marked as held out or not."""
    count = draw(st.integers(1, 9))
    fields = {}
    for name in draw(
        st.lists(st.sampled_from(["x", "y", "image", "held-out", "unit", "field/x"]), min_size=1, max_size=3)
    ):
        shape = (count, *draw(st.sampled_from([(), (1,), (3,), (2, 2), (0,)])))
        dtype = draw(st.sampled_from([*TYPES, torch.bool]))
        numbers = torch.arange(torch.Size(shape).numel()) + draw(st.integers(0, 99))
        fields[name] = (numbers % (2 if dtype == torch.bool else 100)).to(dtype).reshape(shape)
    marks = draw(st.one_of(st.none(), st.lists(st.booleans(), min_size=count, max_size=count)))
    return Rows(fields=fields, held_out=None if marks is None else torch.tensor(marks))


@given(anything(), st.integers(1, 4), st.integers(1, 200), st.data())
@settings(deadline=None, max_examples=150)
def test_whatever_was_sealed_is_read_and_taken_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, batch: int, shard_bytes: int, draw: st.DataObject
) -> None:
    chosen = draw.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "SHARD_BYTES", shard_bytes)
        vault = vault_in(tmp_path_factory.mktemp("vault"))
        data = seal_rows(vault, source(), batches(rows, batch))
    assert len(data) == len(rows)
    assert same(data.read(), rows)
    assert same(data.take(positions(*chosen)), rows.take(positions(*chosen)))


@pytest.mark.parametrize("records", SHARDS)
def test_a_data_set_of_any_number_of_shards_reads_as_it_was_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    rows = patients(7)
    records_a_shard(monkeypatch, records, 16)
    data = sealed_in(vault_in(tmp_path), rows)
    assert data.facts.shards == tuple(min(records, 7 - first) for first in range(0, 7, records))
    assert data.facts.plain_bytes == 7 * 16
    assert same(data.read(), rows)
    assert [len(shard) for shard in data.shards()] == list(data.facts.shards)


@pytest.mark.parametrize("records", SHARDS)
@pytest.mark.parametrize(
    "chosen",
    [[], [0], [6], [6, 0, 3], [2, 2, 2], [0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0], [5, 0, 5, 6, 0]],
    ids=str,
)
def test_records_are_taken_in_the_order_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: int, chosen: list[int]
) -> None:
    rows = Rows(fields=patients(7).fields, held_out=torch.arange(7) % 2 == 0)
    records_a_shard(monkeypatch, records, 17)
    taken = sealed_in(vault_in(tmp_path), rows).take(positions(*chosen))
    assert same(taken, rows.take(positions(*chosen)))
    assert taken["x"].tolist() == [[2.0 * each, 2.0 * each + 1] for each in chosen]


def test_any_choice_from_a_larger_data_set_is_what_reading_and_choosing_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = torch.arange(60 * 500, dtype=torch.float32).reshape(60, 500)  # 2000 bytes a record, 8 records a chunk
    rows = Rows(fields={"x": wide, "y": torch.arange(60)})
    records_a_shard(monkeypatch, 25, 2008)
    data = sealed_in(vault_in(tmp_path), rows)
    whole = data.read()
    generator = torch.Generator().manual_seed(1)
    for count in (1, 2, 10, 59, 200):
        chosen = torch.randint(0, 60, (count,), generator=generator)
        assert same(data.take(chosen), whole.take(chosen))
    assert same(data.take(torch.randperm(60, generator=generator).sort().values), rows)


@pytest.mark.parametrize("outside", [-1, 7, 2**40, -(2**40)])
def test_a_position_outside_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: int) -> None:
    records_a_shard(monkeypatch, 3, 16)
    data = sealed_in(vault_in(tmp_path), patients(7))
    for chosen in (positions(outside), positions(0, outside, 1)):
        with pytest.raises(IndexError, match="'heart' has no such record"):
            data.take(chosen)
    with pytest.raises(IndexError):
        data[outside]


def test_units_are_not_among_the_fields(tmp_path: Path) -> None:
    data = sealed_in(vault_in(tmp_path), patients(4), units=names(4))
    assert set(data.read().fields) == set(data.take(positions(1, 2)).fields) == {"x", "y"}
    assert same(data.read(), patients(4))


def test_torch_may_walk_through_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records_a_shard(monkeypatch, 3, 16)
    data = sealed_in(vault_in(tmp_path), patients(7))
    assert [item["x"].tolist() for item in data] == patients(7)["x"].tolist()  # type: ignore[attr-defined]
    assert data[4]["y"].item() == 1
    assert [item["y"].item() for item in data.__getitems__([6, 0])] == [0, 0]
    assert data.__getitems__([]) == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10])
def test_torchs_loader_batches_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    records_a_shard(monkeypatch, 3, 16)
    data = sealed_in(vault_in(tmp_path), patients(7))
    loaded = list(DataLoader(data, batch_size=size, num_workers=0))
    assert torch.cat([batch["x"] for batch in loaded]).tolist() == patients(7)["x"].tolist()
    assert [len(batch["y"]) for batch in loaded] == [min(size, 7 - first) for first in range(0, 7, size)]


def test_torchs_loader_shuffles_records_and_keeps_their_fields_together(tmp_path: Path) -> None:
    data = sealed_in(vault_in(tmp_path), patients(7))
    (batch,) = DataLoader(data, batch_size=7, shuffle=True, generator=torch.Generator().manual_seed(1))
    order = (batch["x"][:, 0] / 2).long()
    assert order.tolist() != list(range(7))
    assert sorted(order.tolist()) == list(range(7))
    assert torch.equal(batch["y"], order % 3)


@pytest.mark.parametrize("name", ["lungs", "Heart", "../heart", "", "heart\n", "a" * 101])
def test_an_unknown_name_is_refused_and_the_known_ones_are_told(tmp_path: Path, name: str) -> None:
    vault = vault_in(tmp_path)
    with pytest.raises(DataInvalid, match="there is: none"):
        DataSet.open(vault, name)
    for known in ("lung", "heart"):
        sealed_in(vault, patients(2), known)
    with pytest.raises(DataInvalid, match="there is: heart, lung"):
        DataSet.open(vault, name)


def test_facts_say_what_was_sealed_without_opening_a_record(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    made = sealed(safe, patients(6), units=names(6)).facts
    object_file(safe.vault, rows_label("heart", 0)).unlink()
    found = DataSet.open(again(safe).vault, "heart")
    assert found.facts == made
    assert (found.facts.records, len(found), found.facts.units, found.facts.skipped) == (6, 6, 3, 0)
    assert (found.facts.columns, found.facts.label, found.facts.unit) == (("x",), "y", "patient")
    assert found.facts.imported == NOW


def test_a_site_lists_its_data_sets_and_what_they_take_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = vault_in(tmp_path)
    assert data_sets(vault) == []
    records_a_shard(monkeypatch, 3, 16)
    for name in ("lung", "heart"):
        sealed_in(vault, patients(7), name)
    listed = data_sets(vault)
    assert [each.name for each in listed] == ["heart", "lung"]
    for each in listed:
        files = [path for path in tmp_path.iterdir() if f".{each.name}." in path.name]
        assert len(files) == 4
        assert each.sealed_bytes == sum(path.stat().st_size for path in files)
        assert (each.facts, each.problem) == (DataSet.open(vault, each.name).facts, "")


@pytest.mark.parametrize("damage", ["no facts", "no shard", "killed while shredding"])
def test_one_data_set_that_does_not_open_hides_no_other(tmp_path: Path, damage: str) -> None:
    vault = vault_in(tmp_path)
    for name in ("heart", "lung"):
        sealed_in(vault, patients(7), name)
    match damage:
        case "no facts":
            object_file(vault, facts_label("heart")).write_bytes(b"")
        case "no shard":
            object_file(vault, rows_label("heart", 0)).unlink()
        case _:
            vault.keyring.retire(vault.keyring.living("data/heart"))
    heart, lung = data_sets(vault)
    assert lung.facts == DataSet.open(vault, "lung").facts
    assert heart.name == "heart"
    assert (heart.facts is None) == bool(heart.problem) == (damage != "no shard")


def readings(data: DataSet) -> list[Callable[[], object]]:
    return [data.read, lambda: list(data.shards()), lambda: data.take(torch.arange(len(data))), lambda: data[0]]


def one_of_three_shards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[DataSet, Path]:
    records_a_shard(monkeypatch, 3, 16)
    data = sealed_in(vault_in(folder), patients(7))
    return data, object_file(data.vault, rows_label("heart", 0))


def test_no_byte_of_a_shard_can_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, path = one_of_three_shards(tmp_path, monkeypatch)
    with writable(path) as handle:
        for position in range(path.stat().st_size):
            with flipped(handle, position):
                for read in readings(data):
                    with pytest.raises((ObjectDamaged, KeyringDamaged)):
                        read()
    assert same(data.read(), patients(7))


def test_a_missing_shard_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, path = one_of_three_shards(tmp_path, monkeypatch)
    path.unlink()
    for read in readings(data):
        with pytest.raises(ObjectMissing, match="rows/heart/0"):
            read()
    assert same(data.take(positions(3, 6)), patients(7).take(positions(3, 6)))


def test_shards_can_not_trade_places_not_with_another_data_set_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, path = one_of_three_shards(tmp_path, monkeypatch)
    sealed_in(data.vault, patients(7), "lung")
    for other in (rows_label("heart", 1), rows_label("lung", 0)):
        path.write_bytes(object_file(data.vault, other).read_bytes())
        for read in readings(data):
            with pytest.raises(ObjectDamaged):
                read()


def test_facts_of_another_data_set_do_not_open_under_this_name(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    for name in ("heart", "lung"):
        sealed_in(vault, patients(2), name)
    object_file(vault, facts_label("heart")).write_bytes(object_file(vault, facts_label("lung")).read_bytes())
    with pytest.raises(ObjectDamaged):
        DataSet.open(vault, "heart")


def test_facts_of_another_version_are_refused(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    facts = sealed_in(vault, patients(2)).facts
    later = facts.model_copy(update={"format": 2}).model_dump_json()
    for text in (later, facts.model_dump_json().replace("{", '{"later":1,', 1), "{}", "no facts"):
        vault.seal(facts_label("heart"), [text.encode()])
        with pytest.raises(DataInvalid, match="another version of FedSeal"):
            DataSet.open(vault, "heart")


def test_taking_opens_only_the_chunks_that_hold_the_records(tmp_path: Path) -> None:
    wide = torch.arange(30 * 1024, dtype=torch.float32).reshape(30, 1024)  # 4096 bytes a record, 4 records a chunk
    data = sealed_in(vault_in(tmp_path), Rows(fields={"x": wide}))
    path = object_file(data.vault, rows_label("heart", 0))
    with writable(path) as handle, flipped(handle, 12 + 56 + 3 * (16384 + 16) + 5):  # in the fourth chunk
        assert torch.equal(data.take(positions(0, 5, 29))["x"], wide[[0, 5, 29]])
        with pytest.raises(ObjectDamaged):
            data.take(positions(13))
        with pytest.raises(ObjectDamaged):
            data.read()


def test_records_that_were_read_survive_the_shredding_of_their_file(tmp_path: Path) -> None:
    data = sealed_in(vault_in(tmp_path), patients(3))
    rows = data.read()
    data.vault.shred("data/heart")
    assert same(rows, patients(3))
    for read in readings(data):
        with pytest.raises(FedSealError):
            read()


def test_a_data_set_opens_in_another_process_and_after_resealing(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    sealed(safe, patients(5), units=names(5))
    list(safe.reseal())
    fresh: Safe = again(safe)
    data = DataSet.open(fresh.vault, "heart")
    assert same(data.read(), patients(5))
    assert same(data.take(positions(4, 1)), patients(5).take(positions(4, 1)))


def test_a_reader_goes_on_while_the_objects_are_sealed_anew(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    reader = DataSet.open(sealed(again(safe), patients(5)).vault, "heart")
    held: Vault = reader.vault
    for _ in again(safe).reseal():
        assert same(reader.read(), patients(5))
        assert same(reader.take(positions(1)), patients(5).take(positions(1)))
    assert same(DataSet.open(held, "heart").read(), patients(5))


@pytest.mark.parametrize("count", [1, 3, 4, 6, 8, 20])
def test_a_data_set_of_another_size_that_took_its_place_is_not_read_with_the_old_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    records_a_shard(monkeypatch, 3, 16)
    data = sealed_in(vault_in(tmp_path), patients(7))
    data.vault.shred("data/heart")
    sealed_in(data.vault, patients(count))
    with pytest.raises((ObjectDamaged, ObjectMissing)):
        data.read()
    with pytest.raises((ObjectDamaged, ObjectMissing)):
        list(data.shards())
    assert same(DataSet.open(data.vault, "heart").read(), patients(count))


def test_facts_are_values(tmp_path: Path) -> None:
    facts = sealed_in(vault_in(tmp_path), patients(3)).facts
    assert facts.records == 3
    assert Facts.model_validate_json(facts.model_dump_json()) == facts


def numbered(count: int, first: int) -> Rows:
    return Rows(fields={"x": torch.ones(count, 3), "id": torch.arange(first, first + count)})


@pytest.mark.parametrize("count", [20, 19, 7, 40])
@pytest.mark.parametrize("way", ["by range", "whole"])
def test_a_data_set_that_is_replaced_while_it_is_read_gives_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, way: str
) -> None:
    records_a_shard(monkeypatch, 6, 20)
    data = sealed_in(vault_in(tmp_path), numbered(20, 0))
    data.vault.shred("data/heart")
    sealed_in(data.vault, numbered(count, 1000))
    with pytest.raises((ObjectDamaged, ObjectMissing)):
        data.take(torch.arange(20)) if way == "by range" else data.read()
