"""What an adversary can do to sealed objects on the disk: every byte, every cut, every swap. Nothing changed opens."""

from __future__ import annotations

import os
import random
import shutil
from itertools import permutations, product
from pathlib import Path

import pytest

from privacy.errors import EpochRetired, FedSealError, KeyringDamaged, ObjectDamaged, ObjectMissing
from privacy.sealing import CHUNK_BYTES
from privacy.vault import Label, Vault
from tests.privacy.vault_builders import (
    HEAD_BYTES,
    ROWS,
    SIZES,
    content,
    flipped,
    mutated,
    object_file,
    vault_in,
    writable,
)

SEALED_CHUNK = CHUNK_BYTES + 16
FIRST_CHUNK = HEAD_BYTES + 56
REFUSED = (ObjectDamaged, KeyringDamaged, EpochRetired)


def sealed(folder: Path, size: int) -> tuple[Vault, Path]:
    vault = vault_in(folder / "vault")
    vault.seal(ROWS, [content(size)])
    return vault, object_file(vault, ROWS)


def refused(vault: Vault, label: Label = ROWS) -> bool:
    """Whether opening it whole and reading all of it by range are both refused."""
    refusals = 0
    for open_ in (vault.open, lambda label: vault.read(label, 0, 10**9)):
        try:
            open_(label)
        except REFUSED:
            refusals += 1
    return refusals == 2


def gives_no_range(vault: Vault) -> bool:
    """Whether the range reader is refused before it could give a byte."""
    try:
        with vault.range(ROWS):
            return False
    except REFUSED:
        return True


@pytest.mark.parametrize("size", SIZES)
def test_no_byte_of_an_object_can_be_changed(tmp_path: Path, size: int) -> None:
    vault, path = sealed(tmp_path, size)
    with writable(path) as handle:
        accepted = []
        for position in range(path.stat().st_size):
            with flipped(handle, position, 1 << position % 8):
                if not refused(vault):
                    accepted.append(position)
    assert accepted == []
    assert vault.open(ROWS) == content(size)


def test_a_changed_byte_spoils_only_ranges_that_touch_its_chunk(tmp_path: Path) -> None:
    vault, path = sealed(tmp_path, 3 * CHUNK_BYTES)
    with writable(path) as handle, flipped(handle, FIRST_CHUNK + SEALED_CHUNK):
        assert vault.read(ROWS, 0, CHUNK_BYTES) == content(CHUNK_BYTES)
        for offset, length in ((CHUNK_BYTES - 1, 2), (CHUNK_BYTES, 1), (2 * CHUNK_BYTES - 1, 1)):
            with pytest.raises(ObjectDamaged):
                vault.read(ROWS, offset, length)


@pytest.mark.parametrize("size", SIZES)
def test_a_cut_object_gives_nothing(tmp_path: Path, size: int) -> None:
    vault, path = sealed(tmp_path, size)
    accepted = []
    with writable(path) as handle:
        for length in reversed(range(path.stat().st_size)):
            os.ftruncate(handle, length)
            if not (refused(vault) and gives_no_range(vault)):
                accepted.append(length)
    assert accepted == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("more", [1, 15, 16, 17, SEALED_CHUNK, 16400 + 16])
@pytest.mark.parametrize("filled", ["with zeros", "with its own bytes"])
def test_an_extended_object_gives_nothing(tmp_path: Path, size: int, more: int, filled: str) -> None:
    vault, path = sealed(tmp_path, size)
    tail = bytes(more) if filled == "with zeros" else (path.read_bytes()[HEAD_BYTES:] * more)[-more:]
    with path.open("ab") as stream:
        stream.write(tail)
    assert refused(vault)
    assert gives_no_range(vault)


def test_chunks_can_not_trade_places(tmp_path: Path) -> None:
    vault, path = sealed(tmp_path, 4 * CHUNK_BYTES + 9)
    honest = path.read_bytes()
    chunks = [honest[start : start + SEALED_CHUNK] for start in range(FIRST_CHUNK, len(honest), SEALED_CHUNK)]
    assert [len(chunk) for chunk in chunks] == [SEALED_CHUNK] * 4 + [25]
    for one, other in permutations(range(4), 2):
        swapped, doubled = list(chunks), list(chunks)
        swapped[one], swapped[other] = chunks[other], chunks[one]
        doubled[one] = chunks[other]
        dropped, repeated = chunks[:one] + chunks[one + 1 :], [*chunks[:one], chunks[other], *chunks[one:]]
        for forged in (swapped, doubled, dropped, repeated):
            path.write_bytes(honest[:FIRST_CHUNK] + b"".join(forged))
            assert refused(vault)
    path.write_bytes(honest)
    assert not refused(vault)


def test_chunks_of_two_objects_under_one_key_can_not_be_mixed(tmp_path: Path) -> None:
    vault, path = sealed(tmp_path, 3 * CHUNK_BYTES)
    first = path.read_bytes()
    vault.seal(ROWS, [content(3 * CHUNK_BYTES, 1)])
    second = path.read_bytes()
    for border in [HEAD_BYTES + 24, FIRST_CHUNK, *range(FIRST_CHUNK + SEALED_CHUNK, len(first), SEALED_CHUNK)]:
        for forged in (first[:border] + second[border:], second[:border] + first[border:]):
            path.write_bytes(forged)
            assert refused(vault)


def test_an_object_opens_under_its_own_owner_kind_name_and_version_only(tmp_path: Path) -> None:
    vault = vault_in(tmp_path / "vault")
    labels = [
        Label(kind, name, version)
        for kind, name, version in product(("data-set", "rows", "model", "identity"), ("heart", "lung"), (0, 1))
    ]
    places = list(product(("own", "other"), labels))
    store = {}
    for number, (owner, label) in enumerate(places):
        vault.keyring.owner = owner  # the same keys under both names: only the context can tell them apart
        vault.seal(label, [content(10, number)])
        store[owner, label] = object_file(vault, label).read_bytes()
    for taken, put in permutations(places, 2):
        vault.keyring.owner = put[0]
        object_file(vault, put[1]).write_bytes(store[taken])
        with pytest.raises(ObjectDamaged):
            vault.open(put[1])
        with pytest.raises(ObjectDamaged):
            vault.read(put[1], 0, 10)
        object_file(vault, put[1]).write_bytes(store[put])
    for number, (owner, label) in enumerate(places):
        vault.keyring.owner = owner
        object_file(vault, label).write_bytes(store[owner, label])
        assert vault.open(label) == content(10, number)


def test_an_object_of_another_site_with_the_same_name_does_not_open(tmp_path: Path) -> None:
    ours, theirs = vault_in(tmp_path / "ours", "own"), vault_in(tmp_path / "theirs", "own")
    for vault in (ours, theirs):
        vault.seal(ROWS, [b"rows"])
    shutil.copy(object_file(theirs, ROWS), object_file(ours, ROWS))
    with pytest.raises(ObjectDamaged, match="does not open"):
        ours.open(ROWS)


def test_an_object_of_an_epoch_that_the_keyring_never_had_is_refused_by_that_name(tmp_path: Path) -> None:
    ours, theirs = vault_in(tmp_path / "ours"), vault_in(tmp_path / "theirs")
    ours.seal(ROWS, [b"ours"])
    for scope in ("model", "identity"):
        theirs.keyring.begin(scope)
    theirs.seal(ROWS, [b"theirs"])
    shutil.copy(object_file(theirs, ROWS), object_file(ours, ROWS))
    for open_ in (ours.open, lambda label: ours.read(label, 0, 1)):
        with pytest.raises(KeyringDamaged, match="has no key number 3"):
            open_(ROWS)


def test_the_epoch_in_the_head_can_not_be_redirected_to_another_key(tmp_path: Path) -> None:
    vault, path = sealed(tmp_path, 10)
    vault.keyring.begin(ROWS.scope)
    with writable(path) as handle, flipped(handle, HEAD_BYTES - 1, 1 ^ 2):
        assert path.read_bytes()[HEAD_BYTES - 4 : HEAD_BYTES] == b"\x00\x00\x00\x02"
        with pytest.raises(ObjectDamaged):
            vault.open(ROWS)


def test_a_copy_from_before_the_old_keys_were_deleted_is_refused(tmp_path: Path) -> None:
    vault, path = sealed(tmp_path, 10)
    yesterday = path.read_bytes()
    vault.keyring.begin(ROWS.scope)
    vault.reseal(ROWS)
    assert vault.open(ROWS) == content(10)
    vault.keyring.retire([1])
    path.write_bytes(yesterday)
    for open_ in (vault.open, lambda label: vault.read(label, 0, 1)):
        with pytest.raises(EpochRetired, match="deleted on purpose"):
            open_(ROWS)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_format_of_another_version_is_refused(tmp_path: Path, version: int) -> None:
    vault, path = sealed(tmp_path, 10)
    with writable(path) as handle:
        os.pwrite(handle, bytes([version]), 7)
    assert refused(vault)


def test_a_missing_object_is_missing_and_an_empty_file_is_damage(tmp_path: Path) -> None:
    vault, path = sealed(tmp_path, 10)
    path.write_bytes(b"")
    assert refused(vault)
    path.unlink()
    with pytest.raises(ObjectMissing, match="rows/heart/3"):
        vault.open(ROWS)
    with pytest.raises(ObjectMissing, match="rows/heart/3"):
        vault.read(ROWS, 0, 1)


def test_no_refusal_tells_what_the_object_holds(tmp_path: Path) -> None:
    vault, path = sealed(tmp_path, 40000)
    texts = set()
    with writable(path) as handle:
        for position in (0, HEAD_BYTES, FIRST_CHUNK, FIRST_CHUNK + SEALED_CHUNK, path.stat().st_size - 1):
            with flipped(handle, position), pytest.raises(ObjectDamaged) as error:
                vault.open(ROWS)
            texts.add(str(error.value))
    assert len(texts) == 1


def test_ten_thousand_wounded_heads_never_open_to_something_else(tmp_path: Path) -> None:
    vault, path = sealed(tmp_path, 100)
    honest = path.read_bytes()
    rng = random.Random(1)
    for _ in range(10_000):
        path.write_bytes(mutated(honest[:FIRST_CHUNK], rng) + honest[FIRST_CHUNK:])
        try:
            assert vault.open(ROWS) == content(100)
            assert vault.read(ROWS, 0, 100) == content(100)
        except FedSealError:
            assert path.read_bytes() != honest
