"""The keyring: numbers are given once, changes last, retired keys are gone, and no changed file opens."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import EpochRetired, FedSealError, KeyRefused, KeyringDamaged, StorageFailed, WrongKeyFile
from privacy.key_stores import KeyFileStore
from privacy.keys import KeyRing
from tests.privacy.disk_builders import never, nth, recorded
from tests.privacy.vault_builders import MemoryStore, flipped, mutated, writable

STORE = MemoryStore()
MAGIC = b"FEDSEAL-KEYRING\x01"


def ring_in(folder: Path, store: MemoryStore = STORE) -> KeyRing:
    return KeyRing.create(folder / "keyring", "own", store)


def reopened(folder: Path, store: MemoryStore = STORE) -> KeyRing:
    return KeyRing.open(folder / "keyring", "own", store)


def keys_of(ring: KeyRing) -> dict[str, dict[int, bytes]]:
    """All that a keyring can open, by scope and number."""
    return {scope: {number: ring.key(number).reveal() for number in ring.living(scope)} for scope in ring.scopes()}


def full_ring(folder: Path) -> KeyRing:
    """Epochs 1 to 4: two of a data set, of which the first is retired, a model's and an identity's."""
    ring = ring_in(folder)
    for scope in ("data/heart", "model", "data/heart", "identity"):
        ring.begin(scope)
    ring.retire([1])
    return ring


def test_epochs_survive_being_opened_again(tmp_path: Path) -> None:
    ring = full_ring(tmp_path)
    assert {scope: list(keys) for scope, keys in keys_of(ring).items()} == {
        "data/heart": [3],
        "identity": [4],
        "model": [2],
    }
    assert keys_of(reopened(tmp_path)) == keys_of(ring)
    assert reopened(tmp_path).current("data/heart") == 3


def test_every_epoch_has_a_key_of_its_own(tmp_path: Path) -> None:
    ring = ring_in(tmp_path)
    keys = {ring.key(ring.begin(f"data/{number % 3}")).reveal() for number in range(12)}
    assert len(keys) == 12
    assert {len(key) for key in keys} == {32}


def test_a_scope_gets_its_first_key_when_it_is_first_needed(tmp_path: Path) -> None:
    ring = ring_in(tmp_path)
    assert [ring.current("model"), ring.current("model"), ring.current("data/heart")] == [1, 1, 2]
    assert keys_of(reopened(tmp_path)) == keys_of(ring)


def test_an_epoch_is_on_the_disk_before_its_number_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = ring_in(tmp_path)
    tape = recorded(monkeypatch)
    ring.begin("model")
    assert tape.names() == ["open", "write", "fsync", "close", "replace", "open", "fsync", "close"]
    tape.acts.clear()
    ring.retire([1])
    assert tape.names() == ["open", "write", "fsync", "close", "replace", "open", "fsync", "close"]


def test_a_retired_key_is_gone_and_its_number_is_never_given_again(tmp_path: Path) -> None:
    ring = full_ring(tmp_path)
    ring.retire([4])
    for opened in (ring, reopened(tmp_path)):
        for number in (1, 4):
            with pytest.raises(EpochRetired, match="was deleted on purpose"):
                opened.key(number)
    assert ring.begin("identity") == 5
    ring.retire([5])
    assert reopened(tmp_path).begin("identity") == 6


def test_a_number_that_the_keyring_never_had_is_damage_and_not_retirement(tmp_path: Path) -> None:
    ring = full_ring(tmp_path)
    for number in (0, 5, 2**32 - 1):
        with pytest.raises(KeyringDamaged, match=f"has no key number {number}"):
            ring.key(number)


def test_an_epoch_that_another_process_began_is_found(tmp_path: Path) -> None:
    ring = full_ring(tmp_path)
    other = reopened(tmp_path)
    number = other.begin("model")
    assert ring.key(number) == other.key(number)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["begin", "retire", "reopen"]), st.sampled_from(["model", "data/a"])), max_size=12
    )
)
def test_a_keyring_does_what_a_list_would(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("ring")
    ring, given_so_far, living = ring_in(folder), 0, dict[int, tuple[str, bytes]]()
    for act, scope in steps:
        if act == "begin":
            number = ring.begin(scope)
            given_so_far += 1
            assert number == given_so_far
            living[number] = scope, ring.key(number).reveal()
        elif act == "retire":
            gone = ring.living(scope)
            ring.retire(gone)
            living = {number: value for number, value in living.items() if number not in gone}
        else:
            ring = reopened(folder)
        assert {n: (s, key) for s, keys in keys_of(ring).items() for n, key in keys.items()} == living
        for number in set(range(1, given_so_far + 1)) - set(living):
            with pytest.raises(EpochRetired):
                ring.key(number)


@pytest.mark.parametrize("act", ["begin", "retire"])
@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
def test_a_change_that_the_disk_refuses_did_not_happen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, name: str
) -> None:
    ring = full_ring(tmp_path)
    before = keys_of(ring)
    tape = recorded(monkeypatch)
    tape.failing = nth(name, 0, errno.ENOSPC)
    with pytest.raises(StorageFailed, match="disk is full"):
        ring.begin("model") if act == "begin" else ring.retire([2])
    assert keys_of(ring) == keys_of(reopened(tmp_path)) == before
    tape.failing = never
    assert ring.begin("model") == 5


def test_a_rewrapped_copy_opens_with_the_new_lock_and_the_old_file_stays(tmp_path: Path) -> None:
    ring, new = full_ring(tmp_path), MemoryStore()
    old_file = (tmp_path / "keyring").read_bytes()
    copy = ring.rewrapped(tmp_path / "copy", new)
    assert keys_of(copy) == keys_of(ring) == keys_of(KeyRing.open(tmp_path / "copy", "own", new))
    assert (tmp_path / "keyring").read_bytes() == old_file
    with pytest.raises(WrongKeyFile):
        KeyRing.open(tmp_path / "copy", "own", STORE)
    with pytest.raises(WrongKeyFile):
        KeyRing.open(tmp_path / "keyring", "own", new)
    with pytest.raises(EpochRetired):
        copy.key(1)
    assert copy.begin("model") == 5
    assert ring.begin("identity") == 5  # the copies live apart: a safe names the one that counts


def test_the_keyring_of_another_owner_or_key_store_is_refused(tmp_path: Path) -> None:
    full_ring(tmp_path)
    with pytest.raises(KeyRefused):
        KeyRing.open(tmp_path / "keyring", "other", STORE)
    with pytest.raises(WrongKeyFile):
        reopened(tmp_path, MemoryStore())


def test_a_missing_keyring_and_a_file_that_is_none_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    with pytest.raises(KeyringDamaged, match="can't be read"):
        reopened(tmp_path)
    for text in (b"", MAGIC, MAGIC + b"\x00", b"[keys]\nstore = 1\n", MAGIC[:-1] + b"\x02" + bytes(200)):
        path.write_bytes(text)
        with pytest.raises(KeyringDamaged, match="no keyring of this version"):
            reopened(tmp_path)
    path.write_bytes(MAGIC)
    os.truncate(path, 65 * 1024 * 1024)
    with pytest.raises(KeyringDamaged, match="far larger than a keyring"):
        reopened(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(KeyringDamaged, match="can't be read"):
        reopened(tmp_path)


def test_no_byte_of_a_keyring_can_be_changed(tmp_path: Path) -> None:
    full_ring(tmp_path)
    path = tmp_path / "keyring"
    accepted = []
    with writable(path) as handle:
        for position in range(path.stat().st_size):
            for bit in range(8):
                with flipped(handle, position, 1 << bit):
                    try:
                        reopened(tmp_path)
                        accepted.append(position)
                    except KeyRefused:
                        pass
    assert accepted == []
    reopened(tmp_path)


def test_no_cut_or_extended_keyring_opens(tmp_path: Path) -> None:
    full_ring(tmp_path)
    path = tmp_path / "keyring"
    honest = path.read_bytes()
    for changed in [honest[:length] for length in range(len(honest))] + [
        honest + bytes(more) for more in (1, 16, 16400)
    ]:
        path.write_bytes(changed)
        with pytest.raises(KeyRefused):
            reopened(tmp_path)


def test_the_halves_of_two_states_of_one_keyring_can_not_be_mixed(tmp_path: Path) -> None:
    """Else the lock of today could be put before the epochs of yesterday, and a shredded key would be back."""
    ring = full_ring(tmp_path)
    path = tmp_path / "keyring"
    yesterday = path.read_bytes()
    ring.retire([2])
    today = path.read_bytes()
    border = len(MAGIC) + 2 + int.from_bytes(today[len(MAGIC) : len(MAGIC) + 2], "big")
    for forged in (today[:border] + yesterday[border:], yesterday[:border] + today[border:]):
        path.write_bytes(forged)
        with pytest.raises(KeyringDamaged, match="was changed, or belongs to another owner"):
            reopened(tmp_path)


def test_a_keyring_is_never_sealed_the_same_twice_and_hides_its_scopes(tmp_path: Path) -> None:
    ring = ring_in(tmp_path)
    states = []
    for _ in range(20):
        ring.retire([])
        states.append((tmp_path / "keyring").read_bytes())
    assert len(set(states)) == 20
    ring.begin("data/a-telling-name")
    assert b"telling" not in (tmp_path / "keyring").read_bytes()


def test_a_throw_away_keyring_never_touches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tape = recorded(monkeypatch)
    ring = KeyRing.throw_away("own")
    assert ring.begin("model") == 1
    ring.retire([1])
    with pytest.raises(EpochRetired):
        ring.key(1)
    with pytest.raises(KeyringDamaged):
        ring.key(2)
    assert tape.acts == []


@pytest.mark.parametrize("store", ["memory", "key file"])
def test_ten_thousand_wounded_keyrings_never_open_to_other_keys(tmp_path: Path, store: str) -> None:
    lock = MemoryStore() if store == "memory" else KeyFileStore.create(tmp_path / "key")
    path = tmp_path / "keyring"
    ring = KeyRing.create(path, "own", lock)
    for scope in ("data/heart", "model"):
        ring.begin(scope)
    honest, keys = path.read_bytes(), keys_of(ring)
    rng = random.Random(2)
    for _ in range(5_000):
        path.write_bytes(mutated(honest, rng))
        try:
            assert keys_of(KeyRing.open(path, "own", lock)) == keys
            assert path.read_bytes() == honest
        except FedSealError:
            pass
