"""Passphrases and key files: the published Argon2id, refusals that tell nothing, files that only their owner reads."""

from __future__ import annotations

import base64
import os
import random
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from privacy import key_stores
from privacy.errors import FedSealError, KeyFileInvalid, KeyringDamaged, WrongKeyFile, WrongPassphrase
from privacy.key_stores import Argon2Cost, KeyFileStore, PassphraseStore
from privacy.secret import Secret
from tests.privacy.vault_builders import CHEAP, mutated

KEY, CONTEXT = Secret(bytes(range(32))), b"keyring of own"
WORDS = Secret(b"correct horse battery staple")
COST_START, COST = len(b"passphrase\x01"), struct.Struct(">IIB")


def locked(words: Secret = WORDS) -> bytes:
    return PassphraseStore(words, CHEAP).wrap(KEY, CONTEXT)


def costing(blob: bytes, memory_kib: int, iterations: int, lanes: int) -> bytes:
    return blob[:COST_START] + COST.pack(memory_kib, iterations, lanes) + blob[COST_START + COST.size :]


@contextmanager
def nothing_derived() -> Iterator[None]:
    """Fails if Argon2id is asked for anything."""

    def derived(**asked: object) -> NoReturn:
        raise AssertionError(f"Argon2id was computed: {asked}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_stores, "Argon2id", derived)
        yield


def test_argon2id_is_the_one_of_rfc_9106() -> None:
    """RFC 9106, section 5.3."""
    derive = Argon2id(
        salt=b"\x02" * 16, length=32, iterations=3, lanes=4, memory_cost=32, ad=b"\x04" * 12, secret=b"\x03" * 8
    )
    assert derive.derive(b"\x01" * 32).hex() == "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"


def test_a_passphrase_costs_what_rfc_9106_recommends() -> None:
    """Section 4, second option: 64 MiB, three passes, four lanes, a salt of 128 bits, a key of 256."""
    blob = PassphraseStore(WORDS).wrap(KEY, CONTEXT)
    assert COST.unpack_from(blob, COST_START) == (64 * 1024, 3, 4)
    assert PassphraseStore(WORDS, CHEAP).unwrap(blob, CONTEXT) == KEY  # the blob says its own cost


@pytest.mark.parametrize("words", [b"", b" ", b"\x00", "Grüße, 世界".encode(), b"x" * 5000])
def test_a_key_comes_back_under_its_passphrase(words: bytes) -> None:
    assert PassphraseStore(Secret(words), CHEAP).unwrap(locked(Secret(words)), CONTEXT) == KEY


def test_every_wrong_passphrase_gets_the_same_words() -> None:
    blob = locked()
    texts = set()
    for words in (b"", b"correct horse battery stapl", WORDS.reveal() + b" ", WORDS.reveal().upper(), os.urandom(40)):
        with pytest.raises(WrongPassphrase) as error:
            PassphraseStore(Secret(words), CHEAP).unwrap(blob, CONTEXT)
        texts.add(str(error.value))
    with pytest.raises(WrongPassphrase) as error:
        PassphraseStore(WORDS, CHEAP).unwrap(blob, b"keyring of other")
    assert texts == {str(error.value)} == {"the passphrase is wrong, or the keyring was changed"}


def test_a_salt_is_never_used_twice() -> None:
    assert len({locked()[COST_START + COST.size :][:16] for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("memory_kib", "iterations", "lanes"),
    [
        (2**32 - 1, 1, 1),
        (4 * 1024 * 1024 + 1, 1, 1),
        (32, 2**32 - 1, 1),
        (32, 65, 1),
        (32, 0, 1),
        (32, 1, 0),
        (8 * 255, 1, 255),
        (8 * 17, 1, 17),
        (31, 1, 4),
        (0, 0, 0),
    ],
)
def test_an_absurd_cost_is_refused_before_it_is_paid(memory_kib: int, iterations: int, lanes: int) -> None:
    blob = costing(locked(), memory_kib, iterations, lanes)
    with nothing_derived(), pytest.raises(KeyringDamaged, match="cost that FedSeal never writes"):
        PassphraseStore(WORDS).unwrap(blob, CONTEXT)


@pytest.mark.parametrize("cost", [(32, 2, 1), (40, 1, 1), (32, 1, 2), (32, 1, 4)])
def test_a_cost_can_not_be_changed_under_the_passphrase(cost: tuple[int, int, int]) -> None:
    with pytest.raises(WrongPassphrase):
        PassphraseStore(WORDS).unwrap(costing(locked(), *cost), CONTEXT)


def test_a_cheaper_cost_can_not_be_asked_for_by_mistake() -> None:
    with pytest.raises(KeyringDamaged):
        PassphraseStore(WORDS, Argon2Cost(memory_kib=8, iterations=1, lanes=4)).wrap(KEY, CONTEXT)


def test_no_byte_of_a_locked_key_can_be_changed() -> None:
    honest = locked()
    for position in range(len(honest)):
        changed = bytearray(honest)
        changed[position] ^= 1
        with pytest.raises((WrongPassphrase, KeyringDamaged)):
            PassphraseStore(WORDS).unwrap(bytes(changed), CONTEXT)
    for changed in [honest[:length] for length in range(len(honest))] + [honest + b"\x00", honest + bytes(16400)]:
        with pytest.raises((WrongPassphrase, KeyringDamaged)):
            PassphraseStore(WORDS).unwrap(bytes(changed), CONTEXT)


def test_a_key_comes_back_under_its_key_file_only(tmp_path: Path) -> None:
    one, other = KeyFileStore.create(tmp_path / "keys/one"), KeyFileStore.create(tmp_path / "keys/other")
    blob = one.wrap(KEY, CONTEXT)
    assert KeyFileStore(tmp_path / "keys/one").unwrap(blob, CONTEXT) == KEY
    with pytest.raises(WrongKeyFile, match="other is another key file, or the keyring was changed"):
        other.unwrap(blob, CONTEXT)
    with pytest.raises(WrongKeyFile):
        one.unwrap(blob, CONTEXT + b"!")
    for position in range(len(blob)):
        changed = bytearray(blob)
        changed[position] ^= 1
        with pytest.raises((WrongKeyFile, KeyringDamaged)):
            one.unwrap(bytes(changed), CONTEXT)


def test_a_store_never_opens_what_another_kind_of_store_locked(tmp_path: Path) -> None:
    key_file, passphrase = KeyFileStore.create(tmp_path / "key"), PassphraseStore(WORDS, CHEAP)
    with nothing_derived(), pytest.raises(KeyringDamaged, match="not locked by a passphrase"):
        passphrase.unwrap(key_file.wrap(KEY, CONTEXT), CONTEXT)
    with pytest.raises(KeyringDamaged, match="not locked by a key file"):
        key_file.unwrap(passphrase.wrap(KEY, CONTEXT), CONTEXT)


def test_a_new_key_file_is_private_one_line_and_never_the_same(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        for number in range(5):
            KeyFileStore.create(tmp_path / f"keys/{number}")
    finally:
        os.umask(umask)
    lines = {path.read_text() for path in (tmp_path / "keys").iterdir()}
    assert len(lines) == 5
    for line in lines:
        word, text = line.removesuffix("\n").split(" ")
        assert word == "fedseal-key-1"
        assert len(base64.b64decode(text, validate=True)) == 32
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    KeyFileStore.create(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(KeyFileInvalid, match="never overwritten"):
        KeyFileStore.create(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o660, 0o666, 0o777, 0o440])
def test_a_key_file_that_others_may_touch_is_refused_and_called_seen(tmp_path: Path, mode: int) -> None:
    KeyFileStore.create(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(KeyFileInvalid, match="can be read by others: chmod 600 it, and think of its content as seen"):
        KeyFileStore(tmp_path / "key")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_key_file_of_its_owner_alone_is_taken(tmp_path: Path, mode: int) -> None:
    KeyFileStore.create(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    KeyFileStore(tmp_path / "key")


def test_a_key_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    KeyFileStore.create(path)
    line = path.read_bytes()
    for length in range(len(line) - 1):  # the last byte is the end of the line, which may go
        path.write_bytes(line[:length])
        with pytest.raises(KeyFileInvalid, match="no key file of FedSeal, or was cut"):
            KeyFileStore(path)


@pytest.mark.parametrize(
    "line",
    [
        b"fedseal-key-1 " + base64.b64encode(bytes(31)),
        b"fedseal-key-1 " + base64.b64encode(bytes(33)),
        b"fedseal-key-1 " + base64.b64encode(bytes(64)),
        b"fedseal-key-2 " + base64.b64encode(bytes(32)),
        b"FEDSEAL-KEY-1 " + base64.b64encode(bytes(32)),
        base64.b64encode(bytes(32)),
        bytes(32),
        b"\xff" * 100,
        b"fedseal-key-1 " + base64.b64encode(bytes(32)) + b"\nfedseal-key-1 " + base64.b64encode(bytes(32)),
    ],
)
def test_what_is_no_key_file_is_refused(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "key").write_bytes(line)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(KeyFileInvalid, match="no key file of FedSeal"):
        KeyFileStore(tmp_path / "key")


def test_a_key_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    for path in (tmp_path / "none", tmp_path / "folder", tmp_path / "folder/none"):
        with pytest.raises(KeyFileInvalid, match=f"key file {path} can't be read"):
            KeyFileStore(path)


def test_ten_thousand_wounded_key_files_are_the_same_key_or_no_key_to_this_lock(tmp_path: Path) -> None:
    path = tmp_path / "key"
    honest = KeyFileStore.create(path)
    line, blob = path.read_bytes(), honest.wrap(KEY, CONTEXT)
    rng = random.Random(3)
    for _ in range(10_000):
        path.write_bytes(mutated(line, rng))
        try:
            assert KeyFileStore(path).unwrap(blob, CONTEXT) == KEY
            assert path.read_bytes().strip()[:-2] == line.strip()[:-2]  # the last digit has bits that say nothing
        except FedSealError:
            pass


def test_ten_thousand_wounded_locks_open_to_no_other_key() -> None:
    store, honest = PassphraseStore(WORDS, CHEAP), locked()
    head, rng = COST_START + COST.size, random.Random(4)
    costs = [(32, 1, 1)] * 8 + [(32, 2, 1), (0, 0, 0), (2**32 - 1, 2**32 - 1, 255), (32, 65, 1)]
    for _ in range(10_000):
        blob = rng.choice([honest[:COST_START], mutated(honest[:COST_START], rng)]) + mutated(honest[head:], rng)
        if blob.startswith(honest[:COST_START]):  # so that no wound asks for a gibibyte
            blob = honest[:COST_START] + COST.pack(*rng.choice(costs)) + blob[COST_START:]
        try:
            assert store.unwrap(blob, CONTEXT) == KEY
            assert blob == honest
        except FedSealError:
            pass
