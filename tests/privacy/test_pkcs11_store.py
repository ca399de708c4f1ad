"""A safe that a hardware security module unlocks, with SoftHSM in its place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType

from privacy.errors import KeyFileInvalid, KeyRefused, KeyringDamaged, KeyStoreDenied, KeyStoreUnavailable
from privacy.pkcs11_store import Pkcs11Store
from privacy.safe import Safe
from privacy.secret import Secret
from privacy.unlocking import Pkcs11Settings
from privacy.vault import Label

MODULES = [
    Path(folder) / "libsofthsm2.so" for folder in ("/usr/lib/softhsm", "/usr/lib64/pkcs11", "/usr/local/lib/softhsm")
]
MODULE = next((path for path in MODULES if path.is_file()), None)
KEY = Secret(bytes(range(32)))
PIN = "pin-of-site-1"
HERE, ELSEWHERE = b"site-1", b"site-2"

Settings = Callable[..., Pkcs11Settings]
pytestmark = pytest.mark.skipif(
    MODULE is None or shutil.which("softhsm2-util") is None, reason="SoftHSM is not installed: apt-get install softhsm2"
)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """SoftHSM with the tokens `site-1` (many keys), `site-2` (a key of the same name), and two called `twin`.

    The library is loaded, and reads SOFTHSM2_CONF, once in a process.
    """
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        for label in ("site-1", "site-2", "twin", "twin"):
            command = [
                "softhsm2-util",
                "--init-token",
                "--free",
                "--label",
                label,
                "--so-pin",
                "12345678",
                "--pin",
                PIN,
            ]
            subprocess.run(command, check=True, capture_output=True)
        library = pkcs11.lib(str(MODULE))
        with library.get_token(token_label="site-1").open(rw=True, user_pin=PIN) as session:
            for name in ("ring", "other", "doubled", "doubled"):
                session.generate_key(KeyType.AES, 256, label=name, store=True)
            session.generate_key(KeyType.AES, 128, label="short", store=True)
            session.generate_key(KeyType.AES, 256, label="one-way", store=True, template={Attribute.DECRYPT: False})
            session.generate_key(KeyType.GENERIC_SECRET, 256, label="no-aes", store=True)
        with library.get_token(token_label="site-2").open(rw=True, user_pin=PIN) as session:
            session.generate_key(KeyType.AES, 256, label="ring", store=True)
        yield
        pkcs11.unload(str(MODULE))


@pytest.fixture
def settings(tokens: None, tmp_path: Path) -> Settings:
    """Settings that name the key `ring` of `site-1`; keywords change them."""
    pin_file = with_pin(tmp_path / "pin", f"{PIN}\n")
    return lambda **changes: Pkcs11Settings(
        **{"module": MODULE, "token": "site-1", "key": "ring", "pin_file": pin_file, **changes}
    )


def with_pin(path: Path, content: str, mode: int = 0o600) -> Path:
    path.write_bytes(content.encode("latin-1"))
    path.chmod(mode)
    return path


def no_passphrase() -> Secret:
    raise AssertionError("a safe that a device unlocks asks for no passphrase")


def test_a_safe_locked_by_a_device_opens_again(settings: Settings, tmp_path: Path) -> None:
    label = Label("model", "final")
    with Safe.create(tmp_path / "site-1", "site-1", settings(), no_passphrase).changing() as vault:
        vault.seal(label, [b"weights"])
    assert bytes(Safe.unlock(tmp_path / "site-1", no_passphrase).vault.open(label)) == b"weights"


def test_a_wrapped_key_comes_back(settings: Settings) -> None:
    store = Pkcs11Store(settings())
    first, second = store.wrap(KEY, HERE), store.wrap(KEY, HERE)
    assert first.startswith(b"pkcs11\x01")
    assert len(first) == len(b"pkcs11\x01") + 12 + 32 + 16
    assert first[7:19] != second[7:19], "a nonce was used twice"
    assert store.unwrap(first, HERE).reveal() == store.unwrap(second, HERE).reveal() == KEY.reveal()


def test_every_changed_byte_is_refused(settings: Settings) -> None:
    store = Pkcs11Store(settings())
    blob = store.wrap(KEY, HERE)
    for place in range(len(blob)):
        changed = blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
        with pytest.raises(KeyringDamaged if place < len(b"pkcs11\x01") else KeyStoreDenied):
            store.unwrap(changed, HERE)


@pytest.mark.parametrize("context", [ELSEWHERE, b"", HERE + b"\x00"])
def test_another_context_is_refused(context: bytes, settings: Settings) -> None:
    store = Pkcs11Store(settings())
    with pytest.raises(KeyStoreDenied, match="is another key, or the keyring was changed"):
        store.unwrap(store.wrap(KEY, HERE), context)


def test_a_cut_or_longer_blob_is_refused(settings: Settings) -> None:
    store = Pkcs11Store(settings())
    blob = store.wrap(KEY, HERE)
    for changed in (blob[:-1], blob[:35], blob + b"\x00"):
        with pytest.raises(KeyStoreDenied, match="is another key, or the keyring was changed"):
            store.unwrap(changed, HERE)


@pytest.mark.parametrize("blob", [b"", b"pkcs11\x01", b"pkcs11\x01" + bytes(27), b"pkcs11\x02" + bytes(60), bytes(67)])
def test_what_no_device_wrapped_is_named(blob: bytes, settings: Settings) -> None:
    with pytest.raises(KeyringDamaged, match=r"not locked through PKCS#11: unlock it as safe\.toml says"):
        Pkcs11Store(settings()).unwrap(blob, HERE)


@pytest.mark.parametrize("change", [{"key": "other"}, {"token": "site-2"}])
def test_another_key_is_refused(change: dict[str, str], settings: Settings) -> None:
    blob = Pkcs11Store(settings()).wrap(KEY, HERE)
    with pytest.raises(KeyStoreDenied, match="is another key, or the keyring was changed"):
        Pkcs11Store(settings(**change)).unwrap(blob, HERE)


def test_a_wrong_pin_is_refused_and_the_right_one_still_opens(settings: Settings, tmp_path: Path) -> None:
    path = with_pin(tmp_path / "wrong", "1234")
    with pytest.raises(KeyStoreDenied, match=f"refuses the PIN in {path}: correct it before the next try"):
        Pkcs11Store(settings(pin_file=path)).wrap(KEY, HERE)
    assert Pkcs11Store(settings()).wrap(KEY, HERE)


@pytest.mark.parametrize("key", ["missing", "doubled", "short", "one-way", "no-aes"])
def test_a_key_that_is_not_one_aes_256_key_for_both_ways_is_refused(key: str, settings: Settings) -> None:
    with pytest.raises(KeyStoreDenied, match=f"has no AES-256 key '{key}', more than one, or one that may not"):
        Pkcs11Store(settings(key=key)).wrap(KEY, HERE)


def test_a_token_that_is_not_there_is_unavailable(settings: Settings) -> None:
    with pytest.raises(KeyStoreUnavailable, match=r"no token 'gone' in .*: is the device connected\?"):
        Pkcs11Store(settings(token="gone")).wrap(KEY, HERE)


def test_a_label_of_two_tokens_is_refused(settings: Settings) -> None:
    with pytest.raises(KeyStoreDenied, match="more than one token is labelled 'twin'"):
        Pkcs11Store(settings(token="twin")).wrap(KEY, HERE)


@pytest.mark.parametrize("content", [None, b"no library"])
def test_a_module_that_cannot_be_loaded_is_unavailable(
    content: bytes | None, settings: Settings, tmp_path: Path
) -> None:
    module = tmp_path / "device.so"
    if content:
        module.write_bytes(content)
    with pytest.raises(KeyStoreUnavailable, match=r"device\.so can't be loaded: name the PKCS#11 library"):
        Pkcs11Store(settings(module=module)).wrap(KEY, HERE)


def test_a_device_that_makes_its_own_nonces_locks_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnNonce(pkcs11.GCMParams):
        def __init__(self, nonce: bytes, aad: bytes, tag_bits: int) -> None:
            super().__init__(os.urandom(12), aad, tag_bits)

    monkeypatch.setattr(pkcs11, "GCMParams", OwnNonce)
    with pytest.raises(KeyStoreDenied, match="does not open what it wrapped, so it locks no safe"):
        Pkcs11Store(settings()).wrap(KEY, HERE)


def test_threads_share_one_device(settings: Settings) -> None:
    store = Pkcs11Store(settings())
    with ThreadPoolExecutor(4) as pool:
        blobs = list(pool.map(lambda _: store.wrap(KEY, HERE), range(16)))
        assert {key.reveal() for key in pool.map(lambda blob: store.unwrap(blob, HERE), blobs)} == {KEY.reveal()}


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_pin_that_others_may_read_is_refused(mode: int, settings: Settings, tmp_path: Path) -> None:
    path = with_pin(tmp_path / "open", PIN, mode)
    with pytest.raises(KeyFileInvalid, match=r"PIN file .* can be read by others: chmod 600"):
        Pkcs11Store(settings(pin_file=path))


@pytest.mark.parametrize("content", ["", "\n", "12\n34\n", "\xff\xfe"])
def test_a_file_that_holds_no_pin_is_refused(content: str, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(KeyFileInvalid, match="holds no PIN: write one line"):
        Pkcs11Store(settings(pin_file=with_pin(tmp_path / "none", content)))


def test_a_missing_package_is_named_with_its_remedy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(KeyStoreUnavailable, match=r"pip install 'fedseal\[pkcs11\]'"):
        Pkcs11Store(settings())


def test_no_refusal_tells_the_pin_or_the_key(settings: Settings, tmp_path: Path) -> None:
    store = Pkcs11Store(settings())
    blob = store.wrap(KEY, HERE)
    with pytest.raises(KeyRefused) as wrong_context:
        store.unwrap(blob, ELSEWHERE)
    with pytest.raises(KeyRefused) as wrong_pin:
        Pkcs11Store(settings(pin_file=with_pin(tmp_path / "wrong", "tell-no-one"))).unwrap(blob, HERE)
    told = f"{wrong_context.value!r} {wrong_pin.value!r} {store!r} {vars(store)}"
    for secret in (PIN, "tell-no-one", KEY.reveal().hex(), repr(KEY.reveal())[2:-1]):
        assert secret not in told
