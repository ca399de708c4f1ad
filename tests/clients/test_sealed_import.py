"""Records become a sealed data set whole or not at all: crashes, full disks, bad sources; nothing readable is left."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.data import DataSet
from clients.sealing import remove_remains, seal_rows
from federation.rows import Rows
from federation.tensors import views
from privacy.errors import DataInvalid, FedSealError, StorageFailed
from privacy.safe import Safe
from privacy.vault import Label, Vault
from simulations.sealed_sites import sealed_site, throw_away_authority, throw_away_safes
from tests.client_builders import PRIVATE, plan
from tests.clients.data_builders import (
    Batch,
    again,
    batches,
    names,
    objects,
    on_disk,
    patients,
    records_a_shard,
    same,
    sealed,
    sealed_in,
    source,
)
from tests.privacy.disk_builders import Act, never, recorded
from tests.privacy.vault_builders import every_death, safe_in, vault_in

SEVEN = patients(7)
OWNERS = names(7)
CHANGES = ("write", "fsync", "replace")


def fingerprint(vault: Vault, rows: Rows, units: list[str] | None = None, size: int = 100) -> str:
    """The fingerprint of these records, imported and shredded again."""
    data = seal_rows(vault, source("trial", "patient" if units else None), batches(rows, size, units))
    vault.shred("data/trial")
    return data.facts.fingerprint


def reordered(rows: Rows, units: list[str], order: list[int]) -> tuple[Rows, list[str]]:
    return rows.take(torch.tensor(order)), [units[position] for position in order]


def clean(safe: Safe, name: str = "heart") -> bool:
    """Whether neither an object nor a key of the data set is left, for this process and for the next."""
    return all(
        objects(each.vault, name) == [] and f"data/{name}" not in each.vault.keyring.scopes()
        for each in (safe, again(safe))
    )


def test_the_facts_count_records_units_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records_a_shard(monkeypatch, 3, 32)  # 8 bytes of x, 8 of y, 16 of the unit
    facts = sealed_in(vault_in(tmp_path), SEVEN, units=OWNERS).facts
    assert (facts.records, facts.units, facts.shards, facts.plain_bytes) == (7, 4, (3, 3, 1), 7 * 32)
    assert (facts.name, facts.columns, facts.label, facts.unit, facts.skipped) == ("heart", ("x",), "y", "patient", 0)
    assert len(facts.fingerprint) == 64


def test_without_a_unit_column_each_record_is_its_own_unit(tmp_path: Path) -> None:
    facts = sealed_in(vault_in(tmp_path), SEVEN).facts
    assert (facts.unit, facts.units) == (None, None)


def test_skipped_records_are_counted_when_the_source_is_used_up(tmp_path: Path) -> None:
    skipped = []

    def skipping() -> Iterator[Batch]:
        for batch in batches(SEVEN, 3):
            yield batch
            skipped.append("a bad cell")

    data = seal_rows(vault_in(tmp_path), source(), skipping(), lambda: len(skipped))
    assert data.facts.skipped == 3


def test_no_record_unit_or_column_is_anywhere_on_the_disk(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    marked = torch.arange(1000, 1000 + 200, dtype=torch.float64).reshape(100, 2) * 1.25
    rows = Rows(fields={"blood_pressure": marked})
    owners = [f"Erika Mustermann {number}" for number in range(100)]
    sealed(safe, rows, units=owners)
    lying = b"".join(on_disk(safe.folder).values())
    assert len(lying) > 100 * (16 + 16)
    for secret in (b"Mustermann", b"blood_pressure", b"patient", *(row.numpy().tobytes() for row in marked.flatten())):
        assert secret not in lying


def test_unit_ids_are_not_even_in_what_is_sealed(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    sealed_in(vault, SEVEN, units=[f"Erika {number}" for number in range(7)])
    inside = b"".join(bytes(vault.open(label)) for label in vault.list())
    assert b"Erika" not in inside


def hashes(vault: Vault, name: str) -> list[bytes]:
    """The keyed hash of each record's unit."""
    tensors, _ = views(vault.open(Label("rows", name, 0)))
    return [row.numpy().tobytes() for row in tensors["unit"]]


def test_a_unit_has_the_same_hash_in_every_data_set_of_a_site_and_another_at_another_site(tmp_path: Path) -> None:
    vault, other = vault_in(tmp_path / "north"), vault_in(tmp_path / "south")
    sealed_in(vault, patients(3), "heart", ["a", "b", "a"])
    sealed_in(vault, patients(2, 50), "lung", ["b", "c"])
    sealed_in(other, patients(3), "heart", ["a", "b", "a"])
    a, b, same_a = hashes(vault, "heart")
    assert a == same_a != b
    assert hashes(vault, "lung")[0] == b
    assert not set(hashes(vault, "heart") + hashes(vault, "lung")) & set(hashes(other, "heart"))


@given(st.permutations(range(7)), st.integers(1, 8), st.integers(1, 8))
@settings(deadline=None, max_examples=40)
def test_a_fingerprint_knows_records_again_in_any_order_and_in_batches_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], size: int, shard: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        vault = vault_in(tmp_path_factory.mktemp("vault"))
        first = fingerprint(vault, SEVEN, OWNERS)
        records_a_shard(patch, shard, 32)
        assert fingerprint(vault, *reordered(SEVEN, OWNERS, list(order)), size=size) == first


def test_a_fingerprint_tells_records_units_and_sites_apart(tmp_path: Path) -> None:
    vault = vault_in(tmp_path / "north")
    wounded = SEVEN["x"].clone()
    wounded[6, 1] = torch.nextafter(wounded[6, 1], torch.tensor(99.0))
    found = [
        fingerprint(vault, SEVEN, OWNERS),
        fingerprint(vault, SEVEN),
        fingerprint(vault, SEVEN, [*OWNERS[:6], "patient-0004"]),
        fingerprint(vault, SEVEN, OWNERS[::-1]),
        fingerprint(vault, SEVEN.replace(x=wounded), OWNERS),
        fingerprint(vault, SEVEN.replace(y=SEVEN["y"].flip(0)), OWNERS),
        fingerprint(vault, SEVEN.take(torch.arange(6)), OWNERS[:6]),
        fingerprint(vault, *reordered(SEVEN, OWNERS, [0, 0, 1, 2, 3, 4, 5, 6])),
        fingerprint(vault, *reordered(SEVEN, OWNERS, [0, 0, 0, 1, 2, 3, 4, 5, 6])),
        fingerprint(vault_in(tmp_path / "south"), SEVEN, OWNERS),
    ]
    assert len(set(found)) == len(found)


def test_a_fingerprint_is_no_plain_hash_that_whoever_guesses_the_records_can_check(tmp_path: Path) -> None:
    found = {fingerprint(vault_in(tmp_path / str(number)), SEVEN) for number in range(5)}
    assert len(found) == 5


def test_a_fingerprint_survives_shredding_resealing_a_new_lock_and_restarts(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    first = sealed(safe, SEVEN, units=OWNERS).facts.fingerprint
    with safe.changing() as vault:
        vault.shred("data/heart")
    list(safe.reseal())
    assert sealed(again(safe), SEVEN, units=OWNERS).facts.fingerprint == first


def stopping(rows: Rows, size: int, after: int, error: BaseException) -> Iterator[Batch]:
    yield from itertools.islice(batches(rows, size, names(len(rows))), after)
    raise error


@pytest.mark.parametrize("error", [DataInvalid("row 9 has a bad cell"), KeyboardInterrupt(), ZeroDivisionError()])
@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_a_source_that_stops_midway_leaves_nothing_and_the_name_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException
) -> None:
    records_a_shard(monkeypatch, 3, 32)
    safe = safe_in(tmp_path / "north", "north")
    with safe.changing() as vault, pytest.raises(type(error)):
        seal_rows(vault, source(unit="patient"), stopping(SEVEN, 2, after, error))
    assert clean(safe)
    assert same(sealed(safe, SEVEN).read(), SEVEN)


def test_what_a_stopped_import_had_sealed_is_unreadable_for_whoever_copied_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records_a_shard(monkeypatch, 3, 16)
    safe = safe_in(tmp_path / "north", "north")
    copied: dict[str, bytes] = {}

    def copying() -> Iterator[Batch]:
        yield from batches(SEVEN, 4)
        copied.update({name: held for name, held in on_disk(safe.folder).items() if "rows." in name})
        raise DataInvalid("row 9 has a bad cell")

    with safe.changing() as vault, pytest.raises(DataInvalid):
        seal_rows(vault, source(), copying())
    assert copied
    for name, held in copied.items():
        (safe.folder / name).write_bytes(held)
    with pytest.raises(FedSealError):
        again(safe).vault.open(Label("rows", "heart", 0))


@pytest.mark.parametrize("given", [[], [(patients(0), None)], [(patients(0), []), (patients(0), [])]])
def test_a_table_without_records_is_refused_and_leaves_nothing(tmp_path: Path, given: list[Batch]) -> None:
    safe = safe_in(tmp_path / "north", "north")
    with safe.changing() as vault, pytest.raises(DataInvalid, match="no record was imported as 'heart'"):
        seal_rows(vault, source(), given)
    assert clean(safe)


def test_batches_without_records_among_others_are_passed_over(tmp_path: Path) -> None:
    given: list[Batch] = [(patients(0), None), (patients(2), None), (patients(0), None), (patients(1, 2), None)]
    data = seal_rows(vault_in(tmp_path), source(), given)
    assert same(data.read(), patients(3))


def test_a_taken_name_is_refused_and_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    sealed(safe, SEVEN)
    before = on_disk(safe.folder)

    def unread() -> Iterator[Batch]:
        pytest.fail("the table was read though the name is taken")
        yield

    with safe.changing() as vault, pytest.raises(DataInvalid, match="fedseal site shred heart"):
        seal_rows(vault, source(), unread())
    assert on_disk(safe.folder) == before
    assert same(DataSet.open(again(safe).vault, "heart").read(), SEVEN)


@pytest.mark.parametrize("name", ["", "Heart", "heart rate", "../heart", "-heart", "heart\n", "a" * 101, "hertz/1"])
def test_a_name_that_can_not_be_one_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    vault = vault_in(tmp_path / "vault")
    with pytest.raises(DataInvalid, match="can't name a data set"):
        seal_rows(vault, source(name), iter(()))
    assert not vault.folder.exists()


@pytest.mark.parametrize("name", ["a", "0", "heart.1", "heart.1.2", "a-b_c.d", "a" * 100, "rows.heart.0", "x.draft"])
def test_every_name_that_may_be_one_seals_and_opens(tmp_path: Path, name: str) -> None:
    safe = safe_in(tmp_path / "north", "north")
    sealed(safe, SEVEN, name)
    sealed(safe, patients(2), "heart")
    found = again(safe)
    assert same(DataSet.open(found.vault, name).read(), SEVEN)
    with found.changing() as vault:
        vault.shred(f"data/{name}")
    assert same(DataSet.open(again(safe).vault, "heart").read(), patients(2))


def test_marks_of_held_out_records_are_sealed_with_them(tmp_path: Path) -> None:
    rows = Rows(fields=SEVEN.fields, held_out=torch.arange(7) % 2 == 0)
    assert same(seal_rows(vault_in(tmp_path), source(), batches(rows, 2)).read(), rows)


def failing(number: int, once: bool, *names: str) -> Callable[[Act], OSError | None]:
    """The disk refuses the change of that number, once or from then on."""
    count = itertools.count()

    def fail(act: Act) -> OSError | None:
        if act.name not in names:
            return None
        here = next(count)
        return OSError(errno.ENOSPC, "no") if here == number or (here > number and not once) else None

    return fail


@pytest.mark.parametrize(
    ("once", "acts"),
    [(True, CHANGES), (False, ("write",)), (False, CHANGES)],
    ids=["a hiccup", "a full disk", "a broken disk"],
)
def test_a_disk_that_fails_at_any_change_leaves_nothing_and_takes_the_data_set_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, once: bool, acts: tuple[str, ...]
) -> None:
    records_a_shard(monkeypatch, 4, 32)
    tape = recorded(monkeypatch)
    for number in itertools.count():
        safe = safe_in(tmp_path / str(number) / "north", "north")
        tape.failing = failing(number, once, *acts)
        try:
            sealed(safe, SEVEN, units=OWNERS)
            break
        except StorageFailed:
            tape.failing = never
        assert again(safe).vault.list("data-set") == []
        if acts == ("write",):
            assert objects(again(safe).vault) == []
        if once:
            assert clean(safe)
        assert same(sealed(safe, SEVEN, units=OWNERS).read(), SEVEN)
        assert objects(again(safe).vault) == ["data-set/heart/0", "rows/heart/0", "rows/heart/1"]
        assert len(again(safe).vault.keyring.living("data/heart")) == 1
    assert number > 10


def test_killed_at_any_act_nothing_is_visible_and_the_next_import_clears_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records_a_shard(monkeypatch, 4, 32)
    safes: list[Safe] = []
    visible = 0

    def importing(death: int) -> Callable[[], DataSet]:
        safes.append(safe_in(tmp_path / str(death) / "north", "north"))
        return lambda: sealed(again(safes[-1]), SEVEN, units=OWNERS)

    for _ in every_death(importing):
        safe = again(safes[-1])
        if safe.vault.list("data-set"):
            visible += 1
            assert same(DataSet.open(safe.vault, "heart").read(), SEVEN)
        else:
            sealed(safe, patients(2), "lung")
            assert clean(safe)
            assert same(sealed(safe, SEVEN, units=OWNERS).read(), SEVEN)
        assert objects(again(safe).vault) == ["data-set/heart/0", "rows/heart/0", "rows/heart/1"]
    assert 0 < visible < 4  # killed after the facts were in place


def test_removing_remains_leaves_whole_data_sets_models_and_the_identity_alone(tmp_path: Path) -> None:
    safe = safe_in(tmp_path / "north", "north")
    sealed(safe, SEVEN, units=OWNERS)
    with safe.changing() as vault:
        vault.seal(Label("model", "heart", 3), [b"a model"])
        vault.seal(Label("rows", "lung", 0), [b"a shard without facts"])
        vault.seal(Label("rows", "heart.1", 0), [b"another one, whose name is longer"])
        vault.keyring.begin("data/liver")
        remove_remains(vault)
    assert clean(safe, "lung")
    assert clean(safe, "heart.1")
    assert clean(safe, "liver")
    found = again(safe)
    assert same(DataSet.open(found.vault, "heart").read(), SEVEN)
    assert bytes(found.vault.open(Label("model", "heart", 3))) == b"a model"
    assert found.identity().public() == found.public_identity()


def test_what_a_killed_shredding_left_does_not_block_the_name(tmp_path: Path) -> None:
    for facts_deleted in (False, True):
        safe = safe_in(tmp_path / str(facts_deleted) / "north", "north")
        sealed(safe, SEVEN)
        with safe.changing() as vault:
            vault.keyring.retire(vault.keyring.living("data/heart"))
            if facts_deleted:
                vault.delete(Label("data-set", "heart"))
        assert same(sealed(again(safe), patients(2)).read(), patients(2))
        assert objects(again(safe).vault) == ["data-set/heart/0", "rows/heart/0"]


def test_shards_whose_keys_are_gone_are_remains(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    vault.seal(Label("rows", "heart", 0), [b"a shard without facts"])
    vault.keyring.retire(vault.keyring.living("data/heart"))
    remove_remains(vault)
    assert objects(vault) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.uint8])
def test_records_of_every_type_have_a_fingerprint(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = Rows(fields={"x": torch.tensor([[0, 1], [1, 0], [1, 1]]).to(dtype), "none": torch.zeros(3, 0)})
    vault = vault_in(tmp_path)
    assert same(sealed_in(vault, rows).read(), rows)
    assert fingerprint(vault, rows) == fingerprint(vault, rows.take(torch.tensor([2, 0, 1])))
    assert fingerprint(vault, rows) != fingerprint(vault, rows.take(torch.tensor([2, 0, 0])))


def test_each_import_has_a_serial_of_its_own(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    serials = {sealed_in(vault, SEVEN, name).facts.serial for name in ("heart", "lung", "liver")}
    assert len(serials) == 3


def test_what_a_simulated_site_leaves_nobody_can_read(tmp_path: Path) -> None:
    site = sealed_site(throw_away_safes(tmp_path)("site-0"), SEVEN, plan(PRIVATE), throw_away_authority())
    data, ledger = site.data, site.ledger
    assert same(data.read(), SEVEN)
    assert same(data.take(torch.tensor([5, 1])), SEVEN.take(torch.tensor([5, 1])))
    assert data.facts.columns == ("x", "y")
    lying = on_disk(tmp_path)
    assert {name.split(".")[0] for name in lying} == {
        f"site-0/{kind}" for kind in ("data-set", "rows", "register", "identity")
    }
    assert ledger.books().accounts() == [data.facts.fingerprint]  # in memory only
    assert not any(SEVEN["x"][row].numpy().tobytes() in held for held in lying.values() for row in range(7))
    with pytest.raises(FedSealError):
        Vault(tmp_path / "site-0", vault_in(tmp_path).keyring).open(Label("rows", "records", 0))
