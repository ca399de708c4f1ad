"""A safe that a Vault unlocks: what opens, what is refused and by which name, and what is never told."""

from __future__ import annotations

import base64
import logging
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import hvac
import pytest
from hvac.api.secrets_engines import Transit

from privacy import transit
from privacy.errors import KeyFileInvalid, KeyRefused, KeyringDamaged, KeyStoreDenied, KeyStoreUnavailable
from privacy.safe import Safe
from privacy.secret import Secret
from privacy.transit import TransitStore
from privacy.unlocking import TransitSettings
from privacy.vault import Label
from tests.privacy.transit_server import ROOT, SECRET_OF_THE_SERVER, TransitServer, certificate

KEY = Secret(bytes(range(32)))
TOKEN = "hvs.CAESIJ-token-of-site-1"
HERE, ELSEWHERE = b"site-1", b"site-2"

Settings = Callable[..., TransitSettings]


@pytest.fixture
def server() -> Iterator[TransitServer]:
    """A Vault with the keys `ring` and `other`, and a token that may only use keys."""
    with TransitServer() as vault:
        prepare(vault)
        yield vault


@pytest.fixture
def settings(server: TransitServer, tmp_path: Path) -> Settings:
    """Settings that name the Vault; keywords change them."""
    token_file = tmp_path / "token"
    token_file.write_text(f"{TOKEN}\n")
    token_file.chmod(0o600)
    return lambda **changes: TransitSettings(
        **{"url": server.url, "key": "ring", "token_file": token_file, **changes},
    )


def prepare(vault: TransitServer, ca_file: Path | None = None) -> None:
    """What the administrator of the Vault does."""
    vault.tokens[TOKEN] = frozenset({"encrypt", "decrypt"})
    for name in ("ring", "other"):
        root(vault, ca_file).create_key(name, key_type="aes256-gcm96")
    vault.requests.clear()


def root(vault: TransitServer, ca_file: Path | None = None) -> Transit:
    """The administrator's hold on the engine."""
    return hvac.Client(vault.url, ROOT, verify=str(ca_file) if ca_file else True).secrets.transit


def no_passphrase() -> Secret:
    raise AssertionError("a safe that a Vault unlocks asks for no passphrase")


def with_token(path: Path, token: str, mode: int = 0o600) -> Path:
    path.write_text(token)
    path.chmod(mode)
    return path


def test_a_safe_locked_by_a_vault_opens_again(settings: Settings, tmp_path: Path) -> None:
    label = Label("model", "final")
    with Safe.create(tmp_path / "site-1", "site-1", settings(), no_passphrase).changing() as vault:
        vault.seal(label, [b"weights"])
    assert bytes(Safe.unlock(tmp_path / "site-1", no_passphrase).vault.open(label)) == b"weights"


def test_a_wrapped_key_comes_back(settings: Settings, server: TransitServer) -> None:
    store = TransitStore(settings())
    blob = store.wrap(KEY, HERE)
    assert blob.startswith(b"transit\x01vault:v1:")
    assert KEY.reveal() not in base64.b64decode(blob.split(b":")[2])
    assert store.unwrap(blob, HERE).reveal() == KEY.reveal()
    sent = {base64.b64decode(request.body["associated_data"]) for request in server.requests}
    assert sent == {b"transit\x01" + HERE}


@pytest.mark.parametrize("associated_data", [True, False], ids=["vault", "vault-that-ignores-associated-data"])
def test_another_context_is_refused(associated_data: bool, settings: Settings) -> None:
    with TransitServer(associated_data=associated_data) as vault:
        prepare(vault)
        store = TransitStore(settings(url=vault.url))
        blob = store.wrap(KEY, HERE)
        assert store.unwrap(blob, HERE).reveal() == KEY.reveal()
        for context in (ELSEWHERE, b"", HERE + b"\x00"):
            with pytest.raises(KeyStoreDenied, match="or the keyring was changed"):
                store.unwrap(blob, context)


def test_a_keyring_of_another_key_is_refused(settings: Settings) -> None:
    blob = TransitStore(settings()).wrap(KEY, HERE)
    with pytest.raises(KeyStoreDenied, match=r"key 'other' .* does not open this keyring: it is another key"):
        TransitStore(settings(key="other")).unwrap(blob, HERE)


def test_a_changed_byte_is_refused(settings: Settings) -> None:
    store = TransitStore(settings())
    blob = store.wrap(KEY, HERE)
    for place in range(0, len(blob) - 1, 5):  # the last letter of base64 holds bits that mean nothing
        changed = blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
        with pytest.raises((KeyStoreDenied, KeyringDamaged)):
            store.unwrap(changed, HERE)


@pytest.mark.parametrize(
    "blob", [b"", b"transit\x01", b"transit\x02vault:v1:AAAA", b"key-file\x01\x00\x00" + bytes(80)]
)
def test_what_no_vault_wrapped_is_not_sent_to_one(blob: bytes, settings: Settings, server: TransitServer) -> None:
    with pytest.raises(KeyringDamaged, match=r"not locked by a Vault: unlock it as safe\.toml says"):
        TransitStore(settings()).unwrap(blob, HERE)
    assert not server.requests


def test_what_was_wrapped_before_a_rotation_still_opens(settings: Settings, server: TransitServer) -> None:
    store = TransitStore(settings())
    old = store.wrap(KEY, HERE)
    root(server).rotate_key("ring")
    new = store.wrap(KEY, HERE)
    assert (old[:17], new[:17]) == (b"transit\x01vault:v1:", b"transit\x01vault:v2:")
    assert store.unwrap(old, HERE).reveal() == store.unwrap(new, HERE).reveal() == KEY.reveal()


def test_a_retired_version_is_refused_by_its_name(settings: Settings, server: TransitServer) -> None:
    store = TransitStore(settings())
    old = store.wrap(KEY, HERE)
    root(server).rotate_key("ring")
    root(server).update_key_configuration("ring", min_decryption_version=2)
    with pytest.raises(KeyStoreDenied, match=r"its version v1 was retired \(min_decryption_version\)"):
        store.unwrap(old, HERE)


def test_a_mistyped_key_name_makes_no_new_key(settings: Settings, server: TransitServer) -> None:
    server.tokens[TOKEN] = frozenset({"encrypt", "decrypt", "create"})
    with pytest.raises(KeyStoreDenied, match=r"key 'rign' .* does not encrypt: is there such a key"):
        TransitStore(settings(key="rign")).wrap(KEY, HERE)
    assert set(server.keys) == {"ring", "other"}


def test_a_token_that_may_not_decrypt_locks_nothing(settings: Settings, server: TransitServer) -> None:
    server.tokens[TOKEN] = frozenset({"encrypt"})
    with pytest.raises(KeyStoreDenied, match="its policy lacks update on transit/encrypt/ring and on decrypt"):
        TransitStore(settings()).wrap(KEY, HERE)


def test_a_wrong_token_is_refused(settings: Settings, tmp_path: Path) -> None:
    path = with_token(tmp_path / "stale", "hvs.stale")
    with pytest.raises(KeyStoreDenied, match=f"refuses the token in {path}"):
        TransitStore(settings(token_file=path)).wrap(KEY, HERE)


def test_a_renewed_token_is_read_anew(settings: Settings, tmp_path: Path, server: TransitServer) -> None:
    path = with_token(tmp_path / "renewed", TOKEN)
    store = TransitStore(settings(token_file=path))
    blob = store.wrap(KEY, HERE)
    server.tokens = {"hvs.next": frozenset({"decrypt"})}
    with_token(path, "hvs.next")
    assert store.unwrap(blob, HERE).reveal() == KEY.reveal()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_token_that_others_may_read_is_refused(mode: int, settings: Settings, tmp_path: Path) -> None:
    path = with_token(tmp_path / "open", TOKEN, mode)
    with pytest.raises(KeyFileInvalid, match=r"token file .* can be read by others: chmod 600"):
        TransitStore(settings(token_file=path))


@pytest.mark.parametrize("content", ["", "\n", f"{TOKEN}\n{TOKEN}\n", "hvs.töken"])
def test_a_file_that_holds_no_token_is_refused(content: str, settings: Settings, tmp_path: Path) -> None:
    path = with_token(tmp_path / "none", content)
    with pytest.raises(KeyFileInvalid, match="holds no token"):
        TransitStore(settings(token_file=path))


def test_a_missing_token_file_is_named(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(KeyFileInvalid, match=r"token file .*nowhere can't be read"):
        TransitStore(settings(token_file=tmp_path / "nowhere"))


def test_a_vault_that_is_down_is_unavailable(settings: Settings, server: TransitServer) -> None:
    store = TransitStore(settings())
    server.stop()
    with pytest.raises(KeyStoreUnavailable, match=r"the Vault at 127\.0\.0\.1:\d+ does not answer"):
        store.wrap(KEY, HERE)


def test_a_vault_that_says_nothing_is_given_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transit, "_TIMEOUT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = TransitStore(settings(url=f"http://127.0.0.1:{silent.getsockname()[1]}"))
        with pytest.raises(KeyStoreUnavailable, match="does not answer"):
            store.wrap(KEY, HERE)


@pytest.mark.parametrize("status", [429, 472, 500, 501, 502, 503, 504])
def test_a_vault_that_is_sealed_or_failing_is_unavailable(
    status: int, settings: Settings, server: TransitServer
) -> None:
    server.failing = status
    with pytest.raises(KeyStoreUnavailable, match="can't serve now: it is sealed, overloaded or failing"):
        TransitStore(settings()).wrap(KEY, HERE)


def test_a_mount_that_is_not_there_is_named(settings: Settings) -> None:
    with pytest.raises(KeyStoreDenied, match="has no engine at 'team/transit'"):
        TransitStore(settings(mount="team/transit")).wrap(KEY, HERE)


@pytest.mark.parametrize("elsewhere", [True, False], ids=["to-another-server", "to-itself"])
def test_a_redirect_is_not_followed(elsewhere: bool, settings: Settings, server: TransitServer) -> None:
    with TransitServer() as thief:
        prepare(thief)
        server.redirect_to = thief.url if elsewhere else server.url
        with pytest.raises(KeyStoreUnavailable, match="redirects are not followed"):
            TransitStore(settings()).wrap(KEY, HERE)
        assert not thief.requests
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"<html>welcome to the cantina</html>",
        b"[]",
        b'{"data": null}',
        b'{"data": {"ciphertext": 7}}',
        b'{"data": {"ciphertext": "vault:v1:"}}',
        b'{"data": {"ciphertext": "vault:v1:%s"}}' % (b"A" * 70_000),
    ],
)
def test_what_is_no_vault_wraps_nothing(reply: bytes, settings: Settings, server: TransitServer) -> None:
    server.replies = reply
    with pytest.raises(KeyStoreUnavailable, match="is no Vault"):
        TransitStore(settings()).wrap(KEY, HERE)


@pytest.mark.parametrize("plaintext", ["", "AAAA", "no base64", "nö", base64.b64encode(bytes(64)).decode()])
def test_a_plaintext_that_was_never_wrapped_is_refused(
    plaintext: str, settings: Settings, server: TransitServer
) -> None:
    store = TransitStore(settings())
    blob = store.wrap(KEY, HERE)
    server.replies = f'{{"data": {{"plaintext": "{plaintext}"}}}}'.encode()
    with pytest.raises(KeyRefused):
        store.unwrap(blob, HERE)


@pytest.mark.parametrize("url", ["http://vault.example.org:8200", "http://10.0.0.7:8200", "http://127.0.0.1.evil.org"])
def test_a_token_is_never_sent_in_the_open(url: str, settings: Settings) -> None:
    with pytest.raises(KeyStoreDenied, match="in the open: write https://"):
        TransitStore(settings(url=url))


@pytest.mark.parametrize(
    "url", ["", "vault.example.org", "ftp://vault.example.org", "https://", "https://[::1", "file:///x"]
)
def test_what_is_no_address_is_refused(url: str, settings: Settings) -> None:
    with pytest.raises(KeyStoreDenied, match="write https://HOST:8200"):
        TransitStore(settings(url=url))


@pytest.mark.parametrize("name", ["", "..", "../../sys/seal", "ring/../../sys", "ring?list=true", "a b", "ring/"])
def test_a_name_that_leaves_the_engine_is_refused(name: str, settings: Settings) -> None:
    with pytest.raises(KeyStoreDenied, match="names no key or mount"):
        TransitStore(settings(key=name))
    with pytest.raises(KeyStoreDenied, match="names no key or mount"):
        TransitStore(settings(mount=f"transit/{name}"))


def test_the_environment_redirects_no_request(
    settings: Settings, server: TransitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = with_token(tmp_path / "netrc", "machine 127.0.0.1 login me password them\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:9")
    monkeypatch.setenv("VAULT_TOKEN", "hvs.of-the-environment")
    TransitStore(settings()).wrap(KEY, HERE)
    assert {request.headers["X-Vault-Token"] for request in server.requests} == {TOKEN}
    assert not any("Authorization" in request.headers for request in server.requests)


def test_only_a_certificate_of_the_named_authority_is_trusted(settings: Settings, tmp_path: Path) -> None:
    tls, ca_file = certificate(tmp_path)
    with TransitServer(tls=tls) as vault:
        prepare(vault, ca_file)
        store = TransitStore(settings(url=vault.url, ca_file=ca_file))
        assert store.unwrap(store.wrap(KEY, HERE), HERE).reveal() == KEY.reveal()
        with pytest.raises(KeyStoreUnavailable, match=r"the certificate of the Vault at .* does not hold against"):
            TransitStore(settings(url=vault.url)).wrap(KEY, HERE)


def test_a_missing_ca_file_is_named(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(KeyStoreUnavailable, match=r"the CA file .*no\.pem is not there"):
        TransitStore(settings(ca_file=tmp_path / "no.pem"))


def test_a_missing_package_is_named_with_its_remedy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hvac", None)
    with pytest.raises(KeyStoreUnavailable, match=r"pip install 'fedseal\[transit\]'"):
        TransitStore(settings())


def test_no_secret_is_in_a_repr_a_message_a_traceback_or_a_log(
    settings: Settings, server: TransitServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = TransitStore(settings())
    blob = store.wrap(KEY, HERE)
    store.unwrap(blob, HERE)
    told = [caplog.text, repr(store), repr(vars(store))]
    told.append(trace_of(lambda: store.unwrap(blob, ELSEWHERE)))
    told.append(trace_of(lambda: TransitStore(settings(key="other")).unwrap(blob, HERE)))
    for status in (400, 403, 404, 405, 500, 503):
        server.failing = status
        told.append(trace_of(lambda: store.wrap(KEY, HERE)))
    server.failing, server.replies = None, b'{"data": {"plaintext": "%s"}}' % base64.b64encode(bytes(32) + KEY.reveal())
    told.append(trace_of(lambda: store.unwrap(blob, HERE)))
    server.stop()
    told.append(trace_of(lambda: store.unwrap(blob, HERE)))
    told.append(caplog.text)
    assert "/v1/transit/encrypt/ring" in caplog.text
    everything = "\n".join(told)
    for secret in spellings(TOKEN.encode(), KEY.reveal(), KEY.reveal()[-12:]):
        assert secret not in everything


def trace_of(act: Callable[[], object]) -> str:
    """The traceback of a refusal, with every local variable."""
    with pytest.raises(KeyRefused) as caught:
        act()
    assert SECRET_OF_THE_SERVER not in "".join(traceback.format_exception(caught.value))
    return "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())


def spellings(*secrets: bytes) -> set[str]:
    forms = [form for secret in secrets for form in (secret, secret.hex().encode(), base64.b64encode(secret))]
    return {form.decode("latin-1") for form in forms} | {repr(form)[2:-1] for form in forms}
