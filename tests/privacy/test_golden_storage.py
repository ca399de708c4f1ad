"""What version 1 wrote opens for ever: files of that day, kept under tests/golden."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from privacy.errors import EpochRetired
from privacy.identity import Identity, PublicIdentity
from privacy.key_stores import PassphraseStore
from privacy.keys import KeyRing
from privacy.secret import Secret
from privacy.vault import Label, Vault
from tests.privacy.vault_builders import content, unlocked

GOLDEN = Path(__file__).parents[1] / "golden/storage/1"
OWN = Label("identity", "own")


def golden(folder: Path) -> Path:
    """A copy of the golden files: private, which git does not keep, and the settings name the key file where it is."""
    copy = Path(shutil.copytree(GOLDEN, folder / "golden"))
    for path in copy.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    settings = copy / "safe/safe.toml"
    settings.write_text(settings.read_text().replace("/golden/site.key", str(copy / "site.key")))
    return copy


def test_objects_of_version_1_open_for_ever(tmp_path: Path) -> None:
    safe = unlocked(golden(tmp_path) / "safe")
    assert safe.name == "golden"
    for size in (0, 1, 16384, 50000):
        label = Label("rows", "bytes", size)
        assert safe.vault.open(label) == content(size)
        assert safe.vault.read(label, 0, size) == content(size)
    assert safe.vault.open(Label("model", "round", 17)) == b"under the second key of its scope"
    assert safe.vault.keyring.living("model") == [3, 4]
    with pytest.raises(EpochRetired, match="data/shredded"):
        safe.vault.open(Label("rows", "shredded"))
    assert safe.vault.list() == sorted(
        [
            OWN,
            Label("model", "round", 17),
            Label("rows", "shredded"),
            *(Label("rows", "bytes", size) for size in (0, 1, 16384, 50000)),
        ]
    )


def test_an_identity_of_version_1_signs_and_opens_for_ever(tmp_path: Path) -> None:
    folder = golden(tmp_path)
    safe, messages = unlocked(folder / "safe"), json.loads((folder / "messages.json").read_text())
    public = PublicIdentity.from_json((folder / "safe/identity.json").read_text())
    assert safe.identity().public() == safe.public_identity() == public
    assert public.fingerprint == messages["fingerprint"]
    signature = bytes.fromhex(messages["signature"])
    public.verify(signature, "golden", b"a signed message")
    assert safe.identity().sign("golden", b"a signed message") == signature
    assert safe.identity().open("sender", "golden", bytes.fromhex(messages["sealed"])) == b"a sealed message"


def test_a_keyring_of_version_1_locked_by_a_passphrase_opens_for_ever(tmp_path: Path) -> None:
    folder = golden(tmp_path)
    store = PassphraseStore(Secret(b"correct horse battery staple"))
    ring = KeyRing.open(folder / "passphrase/keyring-1", "golden", store)
    vault = Vault(folder / "passphrase/objects", ring)
    assert vault.open(Label("rows", "bytes", 1)) == content(1)
    secret = Secret(bytes(vault.open(OWN)))
    assert secret == Secret(bytes(range(128)))
    assert Identity.from_secret("golden", secret).public().name == "golden"
