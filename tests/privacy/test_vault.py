"""What an honest owner may rely on: what was sealed opens, whole and by range, until it is deleted or shredded."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import EpochRetired, ObjectMissing, StorageFailed
from privacy.keys import KeyRing
from privacy.sealing import CHUNK_BYTES, Sealer
from privacy.vault import Label, Vault, is_name
from tests.privacy.disk_builders import recorded
from tests.privacy.vault_builders import ROWS, SIZES, MemoryStore, content, drafts, object_file, vault_in

HEART, LUNG = Label("rows", "heart", 0), Label("rows", "lung", 0)


@pytest.mark.parametrize("size", [*SIZES, 64 * CHUNK_BYTES, 3_000_001])
def test_what_was_sealed_opens(tmp_path: Path, size: int) -> None:
    vault = vault_in(tmp_path / "vault")
    vault.seal(ROWS, [content(size)])
    assert vault.open(ROWS) == content(size)
    assert vault.read(ROWS, 0, size + 1) == content(size)
    assert vault.sealed_bytes(ROWS) == 12 + 56 + 16 * (size // CHUNK_BYTES + 1) + size


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=300) | st.integers(0, 40000).map(content), max_size=5), st.data())
def test_pieces_open_as_one_and_ranges_are_parts_of_it(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], data: st.DataObject
) -> None:
    vault = vault_in(tmp_path_factory.getbasetemp() / "pieces")
    vault.seal(ROWS, pieces)
    whole = b"".join(pieces)
    assert vault.open(ROWS) == whole
    offset = data.draw(st.integers(0, len(whole) + 1))
    length = data.draw(st.integers(0, len(whole) + 1))
    assert vault.read(ROWS, offset, length) == whole[offset : offset + length]


def test_a_range_stays_open_for_many_reads(tmp_path: Path) -> None:
    vault = vault_in(tmp_path / "vault")
    vault.seal(ROWS, [content(50000)])
    with vault.range(ROWS) as opened:
        assert opened.length == 50000
        for start in range(0, 49990, 1111):
            assert opened.read(start, 10) == content(10, start)


def test_arrays_are_sealed_as_their_bytes(tmp_path: Path) -> None:
    vault = vault_in(tmp_path / "vault")
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    vault.seal(ROWS, [array.data, np.empty(0, np.float32).data, memoryview(array)])
    assert vault.open(ROWS) == array.tobytes() * 2


def test_an_empty_object_can_be_sealed_anew(tmp_path: Path) -> None:
    vault = vault_in(tmp_path / "vault")
    vault.seal(ROWS, [])
    vault.keyring.begin(ROWS.scope)
    vault.reseal(ROWS)
    assert vault.open(ROWS) == b""


def test_an_object_of_the_current_epoch_is_not_sealed_again(tmp_path: Path) -> None:
    vault = vault_in(tmp_path / "vault")
    vault.seal(ROWS, [b"rows"])
    before = object_file(vault, ROWS).read_bytes()
    vault.reseal(ROWS)
    assert object_file(vault, ROWS).read_bytes() == before
    vault.keyring.begin(ROWS.scope)
    vault.reseal(ROWS)
    assert object_file(vault, ROWS).read_bytes() != before
    assert vault.open(ROWS) == b"rows"


def test_sealing_again_replaces_and_leaves_the_other_objects(tmp_path: Path) -> None:
    vault = vault_in(tmp_path / "vault")
    for label in (HEART, LUNG):
        vault.seal(label, [b"first"])
    vault.seal(HEART, [b"second"])
    assert vault.open(HEART) == b"second"
    assert vault.open(LUNG) == b"first"


def test_a_reader_keeps_the_object_that_it_opened_while_a_new_one_takes_its_place(tmp_path: Path) -> None:
    vault = vault_in(tmp_path / "vault")
    vault.seal(ROWS, [content(50000)])
    with vault.range(ROWS) as opened:
        vault.seal(ROWS, [b"new"])
        assert opened.read(40000, 10) == content(10, 40000)
    assert vault.read(ROWS, 0, 10) == b"new"


def test_a_block_that_fails_leaves_the_old_object(tmp_path: Path) -> None:
    vault = vault_in(tmp_path / "vault")
    vault.seal(ROWS, [b"old"])

    def pieces() -> Iterator[bytes]:
        yield content(50000)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        vault.seal(ROWS, pieces())
    assert vault.open(ROWS) == b"old"
    assert drafts(vault.folder) == []


def test_an_object_is_durable_when_seal_returns_and_a_throw_away_one_need_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = KeyRing.throw_away("own")
    ring.begin(ROWS.scope)
    (tmp_path / "vault").mkdir()
    tape = recorded(monkeypatch)
    Vault(tmp_path / "vault", ring).seal(ROWS, [b"rows"])
    assert [act.path.name for act in tape.acts if act.name == "fsync"] == [tape.acts[0].path.name, "vault"]
    tape.acts.clear()
    vault_in(tmp_path / "vault").seal(ROWS, [b"rows"])
    assert "fsync" not in tape.names()


def test_a_key_is_on_the_disk_before_the_object_that_it_seals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing.create(tmp_path / "keyring", "own", MemoryStore())
    tape = recorded(monkeypatch)
    Vault(tmp_path / "vault", ring).seal(ROWS, [b"rows"])
    assert [act.target.name for act in tape.acts if act.target] == ["keyring", "rows.heart.3"]


def test_two_vaults_of_one_keyring_file_read_each_others_new_epochs(tmp_path: Path) -> None:
    store = MemoryStore()
    writer = Vault(tmp_path / "vault", KeyRing.create(tmp_path / "keyring", "own", store))
    reader = Vault(tmp_path / "vault", KeyRing.open(tmp_path / "keyring", "own", store))
    writer.seal(ROWS, [b"first"])
    assert reader.open(ROWS) == b"first"
    writer.keyring.begin(ROWS.scope)
    writer.reseal(ROWS)
    assert reader.read(ROWS, 0, 5) == b"first"


def test_objects_are_listed_sorted_and_nothing_else_is(tmp_path: Path) -> None:
    vault = vault_in(tmp_path / "vault")
    assert vault.list() == []
    labels = [
        Label("data-set", "heart"),
        Label("model", "a.b-c_d.7", 10),
        Label("rows", "a.1", 2),
        Label("rows", "heart", 2),
        Label("rows", "heart", 10),
        Label("rows", "n" * 100, 999_999_999),
    ]
    for label in reversed(labels):
        vault.seal(label, [str(label).encode()])
    for name in ("notes.txt", "rows.heart", "rows.heart.01", "rows.Heart.1", "rows..1", "cat.heart.1", "rows.heart.-1"):
        (vault.folder / name).write_bytes(b"")
    with vault.sealing(HEART):
        assert vault.list() == labels
        assert vault.list("rows") == labels[2:]
        assert vault.list("identity") == []
    assert [bytes(vault.open(label)).decode() for label in labels] == list(map(str, labels))


@pytest.mark.parametrize(
    ("kind", "name", "version"),
    [
        ("cat", "heart", 0),
        ("", "heart", 0),
        ("rows", "", 0),
        ("rows", "../heart", 0),
        ("rows", "a/b", 0),
        ("rows", ".heart", 0),
        ("rows", "-heart", 0),
        ("rows", "Heart", 0),
        ("rows", "he art", 0),
        ("rows", "heart\n", 0),
        ("rows", "heart\x00", 0),
        ("rows", "herz\u00e9", 0),
        ("rows", "\u0664", 0),
        ("rows", "n" * 101, 0),
        ("rows", "heart", -1),
        ("rows", "heart", 10**9),
    ],
)
def test_no_label_can_name_a_file_outside_or_one_that_is_no_object(kind: str, name: str, version: int) -> None:
    with pytest.raises(ValueError, match="no object can be called"):
        Label(kind, name, version)
    assert (kind, version) != ("rows", 0) or not is_name(name)


def test_labels_of_one_data_set_share_a_scope_and_no_other_labels_do() -> None:
    scopes = {
        Label("data-set", "heart"): "data/heart",
        Label("rows", "heart", 4): "data/heart",
        Label("rows", "lung", 4): "data/lung",
        Label("model", "heart", 4): "model",
        Label("identity", "own"): "identity",
    }
    assert {label: label.scope for label in scopes} == scopes


def test_a_deleted_object_is_missing_and_deleting_it_again_is_no_error(tmp_path: Path) -> None:
    vault = vault_in(tmp_path / "vault")
    for label in (HEART, LUNG):
        vault.seal(label, [b"rows"])
    for _ in range(2):
        vault.delete(HEART)
        with pytest.raises(ObjectMissing):
            vault.open(HEART)
    assert vault.list() == [LUNG]
    assert vault.open(LUNG) == b"rows"


def test_shredded_objects_are_gone_from_every_copy_of_the_disk_and_other_scopes_are_untouched(tmp_path: Path) -> None:
    store = MemoryStore()
    vault = Vault(tmp_path / "vault", KeyRing.create(tmp_path / "keyring", "own", store))
    shredded = [Label("data-set", "heart"), HEART, Label("rows", "heart", 1)]
    kept = [LUNG, Label("model", "heart", 1), Label("identity", "own"), Label("data-set", "lung")]
    for label in [*shredded, *kept]:
        vault.seal(label, [str(label).encode()])
    vault.keyring.begin(HEART.scope)
    vault.seal(HEART, [b"under the second epoch"])
    copies = {label: object_file(vault, label).read_bytes() for label in shredded}
    vault.shred("data/heart")
    assert vault.list() == sorted(kept)
    again = Vault(tmp_path / "vault", KeyRing.open(tmp_path / "keyring", "own", store))
    for opened in (vault, again):
        for label in shredded:
            with pytest.raises(ObjectMissing):
                opened.open(label)
            object_file(opened, label).write_bytes(copies[label])
            with pytest.raises(EpochRetired, match=r"data/heart.* was deleted on purpose"):
                opened.open(label)
            with pytest.raises(EpochRetired):
                opened.read(label, 0, 1)
            object_file(opened, label).unlink()
        assert [bytes(opened.open(label)).decode() for label in kept] == list(map(str, kept))


def test_a_shredded_name_can_be_used_again_under_a_new_key(tmp_path: Path) -> None:
    vault = vault_in(tmp_path / "vault")
    vault.seal(HEART, [b"old"])
    vault.shred("data/heart")
    vault.seal(HEART, [b"new"])
    assert vault.open(HEART) == b"new"
    assert vault.keyring.living("data/heart") == [2]


def test_the_keys_of_a_shredded_scope_go_before_its_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = Vault(tmp_path / "vault", KeyRing.create(tmp_path / "keyring", "own", MemoryStore()))
    vault.seal(HEART, [b"rows"])
    unlink, order = os.unlink, list[str]()
    tape = recorded(monkeypatch)

    def noted(path: Path) -> None:
        order.extend([*(act.target.name for act in tape.acts if act.target), Path(path).name])
        unlink(path)

    monkeypatch.setattr(os, "unlink", noted)
    vault.shred("data/heart")
    assert [name for name in order if not name.endswith(".draft")][-2:] == ["keyring", "rows.heart.0"]


def test_objects_can_be_written_side_by_side(tmp_path: Path) -> None:
    vault = vault_in(tmp_path / "vault")

    def write(sealer: Sealer, start: int) -> None:
        sealer.write(content(1000, start))

    with vault.sealing(HEART) as heart, vault.sealing(LUNG) as lung:
        for start, sealer in itertools.product(range(0, 50000, 1000), (heart, lung)):
            write(sealer, start)
    assert vault.open(HEART) == vault.open(LUNG) == content(50000)


def test_a_vault_whose_folder_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "vault").write_bytes(b"")
    vault = vault_in(tmp_path / "vault")
    with pytest.raises(StorageFailed, match="vault"):
        vault.seal(ROWS, [b"rows"])
    assert vault.list() == []
