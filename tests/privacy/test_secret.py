"""No text, pickle, traceback or log of any object gives a key away."""

from __future__ import annotations

import dataclasses
import io
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import FedSealError
from privacy.identity import Identity
from privacy.key_stores import KeyFileStore, PassphraseStore
from privacy.keys import KeyRing
from privacy.ledger_rows import SqliteRows
from privacy.safe import Safe
from privacy.sealing import Sealer
from privacy.secret import Secret
from privacy.vault import Label
from tests.privacy.vault_builders import (
    CHEAP,
    ROWS,
    fill,
    flipped,
    key_file,
    nobody,
    object_file,
    safe_in,
    spellings,
    writable,
)

WORDS = b"correct horse battery staple"


@dataclasses.dataclass(frozen=True)
class Secrets:
    """Every object that holds a secret, by name, and all the secrets that they hold."""

    holders: dict[str, Any]
    values: list[bytes]

    def shown_in(self, text: str) -> list[str]:
        return [spelling for value in self.values for spelling in spellings(value) if spelling in text]


def secrets_in(folder: Path) -> Secrets:
    safe = safe_in(folder / "site")
    fill(safe)
    key, identity, ring = Secret.random(), safe.identity(), safe.vault.keyring
    passphrase_store = PassphraseStore(Secret(WORDS), CHEAP)
    holders = {
        "secret": key,
        "safe": safe,
        "vault": safe.vault,
        "keyring": ring,
        "throw-away keyring": KeyRing.throw_away("own"),
        "rewrapped keyring": ring.rewrapped(folder / "keyring", passphrase_store),
        "identity": identity,
        "signer": identity.signer(),
        "ledger": safe.ledger(),
        "ledger's rows": SqliteRows(safe.folder / "ledger.db"),
        "passphrase store": passphrase_store,
        "key file store": KeyFileStore(folder / "keys/old.key"),
        "sealer": Sealer(key, b"", io.BytesIO().write),
    }
    private = identity.to_secret().reveal()
    epochs = [ring.key(number).reveal() for scope in ring.scopes() for number in ring.living(scope)]
    in_key_file = (folder / "keys/old.key").read_bytes().split()[1:]
    inner = [holders[name]._ring_key.reveal() for name in ("keyring", "throw-away keyring", "rewrapped keyring")]
    inner.append(holders["key file store"]._key.reveal())
    values = [key.reveal(), private, private[:32], private[32:96], private[96:], *epochs, *in_key_file, *inner, WORDS]
    return Secrets(holders, values)


def test_the_search_finds_a_secret_that_is_shown(tmp_path: Path) -> None:
    secrets = secrets_in(tmp_path)
    assert len(secrets.values) == 16
    for value in secrets.values:
        for text in (f"key={value!r}", f"<{value.hex()}>", str({"key": bytearray(value)}), str(list(value))):
            assert secrets.shown_in(text)


@pytest.mark.parametrize("write", [repr, str, format, "{:>200}".format, "%s".__mod__, "%r".__mod__, ascii])
def test_no_spelling_of_an_object_shows_a_secret(tmp_path: Path, write: Callable[[Any], str]) -> None:
    secrets = secrets_in(tmp_path)
    for holder in secrets.holders.values():
        try:
            text = write(holder) + write([holder]) + write({"it": holder})
        except TypeError:  # a format that the object does not have
            text = ""
        assert secrets.shown_in(text) == []


def test_what_is_inside_of_an_object_hides_its_secrets_too(tmp_path: Path) -> None:
    secrets = secrets_in(tmp_path)
    for holder in secrets.holders.values():
        assert secrets.shown_in(str(vars(holder)) if hasattr(holder, "__dict__") else "") == []


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_that_holds_a_secret_can_be_pickled(tmp_path: Path, protocol: int) -> None:
    for holder in secrets_in(tmp_path).holders.values():
        for form in (holder, [holder], {"it": holder}):
            with pytest.raises((TypeError, pickle.PicklingError)):
                pickle.dumps(form, protocol)


def test_a_safe_as_a_dictionary_can_not_be_had(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="never pickled"):
        dataclasses.asdict(safe_in(tmp_path / "site"))


def test_a_secret_is_compared_by_value_and_never_hashed() -> None:
    assert Secret(b"one") == Secret(b"one")
    assert Secret(b"one") != Secret(b"two")
    assert Secret(b"one") != b"one"
    assert repr(Secret(b"one")) == str(Secret(b"one")) == f"{Secret(b'one')}" == "Secret(hidden)"
    with pytest.raises(TypeError, match="no key of a dictionary"):
        hash(Secret(b"one"))
    for open_ in (bytes, list, len, vars):
        with pytest.raises(TypeError):
            open_(Secret(b"one"))


def test_random_secrets_are_32_bytes_and_differ() -> None:
    values = {Secret.random().reveal() for _ in range(100)}
    assert len(values) == 100
    assert {len(value) for value in values} == {32}


def test_no_refusal_and_no_traceback_shows_a_secret(tmp_path: Path) -> None:
    secrets = secrets_in(tmp_path)
    safe: Safe = secrets.holders["safe"]
    keyring = safe.folder / "keyring-1"
    context, other = b"context", KeyFileStore.create(tmp_path / "other.key")
    locked = secrets.holders["passphrase store"].wrap(Secret.random(), context)

    def changed(path: Path, position: int, act: Callable[[], Any]) -> Callable[[], Any]:
        def do() -> None:
            with writable(path) as handle, flipped(handle, position):
                act()

        return do

    def retired() -> None:
        safe.vault.keyring.begin("data/lung")
        safe.vault.keyring.retire(safe.vault.keyring.living("data/lung"))
        safe.vault.open(Label("rows", "lung"))

    for refused in (
        lambda: PassphraseStore(Secret(WORDS + b"!"), CHEAP).unwrap(locked, context),
        lambda: secrets.holders["passphrase store"].unwrap(locked, b"other"),
        lambda: other.unwrap(secrets.holders["key file store"].wrap(Secret.random(), context), context),
        lambda: KeyRing.open(keyring, "own", other),
        lambda: KeyRing.open(keyring, "other", secrets.holders["key file store"]),
        lambda: KeyRing.open(keyring, "own", secrets.holders["passphrase store"]),
        changed(keyring, keyring.stat().st_size - 1, safe.vault.keyring.reload),
        changed(
            object_file(safe.vault, ROWS).with_name("rows.heart.0"), 70, lambda: safe.vault.open(Label("rows", "heart"))
        ),
        changed(tmp_path / "keys/old.key", 3, lambda: Safe.unlock(safe.folder, nobody)),
        changed(tmp_path / "keys/old.key", 20, lambda: Safe.unlock(safe.folder, nobody)),
        lambda: safe.identity().open("server", "hello", bytes(1200)),
        lambda: safe.public_identity().verify(bytes(64), "hello", b""),
        lambda: Identity.from_secret("own", Secret(safe.identity().to_secret().reveal()[:-1])),
        lambda: safe.vault.open(Label("rows", "none")),
        lambda: safe.vault.keyring.key(99),
        retired,
    ):
        with pytest.raises(FedSealError) as error:
            refused()
        assert secrets.shown_in("".join(traceback.format_exception(error.value))) == []
        assert secrets.shown_in(repr(error.value) + str(error.value.args)) == []


def test_nothing_is_logged_or_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    safe = safe_in(tmp_path / "site")
    held = fill(safe)
    list(safe.reseal())
    safe.lock_with(key_file(tmp_path / "keys/new.key"), nobody)
    safe = Safe.unlock(safe.folder, nobody)
    assert safe.vault.open(Label("rows", "heart")) == held[Label("rows", "heart")]
    safe.vault.shred("data/heart")
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_no_secret_and_no_content_lies_on_the_disk_in_plain(tmp_path: Path) -> None:
    secrets = secrets_in(tmp_path)
    safe: Safe = secrets.holders["safe"]
    marker = b"a record that nobody may read "
    with safe.changing() as vault, vault.sealing(ROWS) as sealer:
        sealer.write(marker * 100_000)  # the draft is on the disk, three mebibytes of it
        on_disk = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    on_disk += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".key"]
    assert sum(map(len, on_disk)) > 5_000_000
    for found in on_disk:
        assert marker not in found
        assert b"data/heart" not in found  # the keyring hides its scopes as well
    outside = [path.read_bytes() for path in safe.folder.rglob("*") if path.is_file()]
    for value in secrets.values:
        for spelling in (value, value.hex().encode()):
            assert not any(spelling in found for found in outside)
