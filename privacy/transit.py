"""A key store that is a HashiCorp Vault (or OpenBao): its transit engine wraps, and its key never leaves the server.

Promises: what is wrapped under one context opens under no other, even where the server ignores `associated_data`
(older Vaults do, silently); `wrap` returns only what the server has opened again, so that no token without the right to
decrypt locks a safe for ever. It never makes a key, follows no redirect (the token would go along), heeds no proxy and
no .netrc, and does without TLS on this machine's own address alone. The token is read for each call, so that an agent
may renew it; no message holds it, nor what the server says.

Blob: `transit`, format byte, and the ciphertext as the engine spells it, vault:v1:BASE64, where 1 is the version of the
engine's key: after a rotation older blobs still open, until the key's min_decryption_version retires them.

https://developer.hashicorp.com/vault/api-docs/secret/transit
https://python-hvac.org/en/stable/usage/secrets_engines/transit.html
"""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.constant_time import bytes_eq

from privacy.errors import KeyFileInvalid, KeyringDamaged, KeyStoreDenied, KeyStoreUnavailable
from privacy.key_stores import read_private_file
from privacy.secret import Secret

if TYPE_CHECKING:
    from privacy.unlocking import TransitSettings

_BLOB = b"transit\x01"
_CIPHERTEXT = re.compile(r"vault:(v[1-9][0-9]{0,8}):[A-Za-z0-9+/]{1,4096}={0,2}")
_NAME = re.compile(r"\w([\w.-]*\w)?", re.ASCII)  # Vault's own rule; it leaves no way to climb out of the path
_TOKEN = re.compile(rb"[!-~]+")
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_TIMEOUT_SECONDS = 15.0
_MAKE_NO_KEY = "none"  # encrypt makes a missing key of this type, where the token may; no such type is a refusal


class TransitStore:
    """Wraps through one key of a transit engine."""

    def __init__(self, settings: TransitSettings) -> None:
        """Raises: KeyRefused: the package, the token or the CA file is missing, or the settings are unsafe."""
        _hvac()
        self._settings = settings
        self._server = _server(settings.url)
        self._where = f"key {settings.key!r} of the Vault at {self._server}"
        for name in (settings.key, *settings.mount.split("/")):
            if not _NAME.fullmatch(name):
                raise KeyStoreDenied(f"{name!r} names no key or mount of the Vault at {self._server}: see safe.toml")
        self._trusted = _trusted(settings.ca_file)
        self._token()

    def wrap(self, key: Secret, context: bytes) -> bytes:
        about = _BLOB + context
        with self._engine(f"{self._where} does not encrypt: is there such a key, of type aes256-gcm96?") as engine:
            answer = engine.encrypt_data(
                name=self._settings.key,
                mount_point=self._settings.mount,
                plaintext=_base64(sha256(about).digest() + key.reveal()),
                associated_data=_base64(about),
                type=_MAKE_NO_KEY,
            )
        ciphertext = self._field(answer, "ciphertext")
        if not _CIPHERTEXT.fullmatch(ciphertext):
            raise self._not_a_vault()
        blob = _BLOB + ciphertext.encode()
        if not bytes_eq(self.unwrap(blob, context).reveal(), key.reveal()):
            raise KeyStoreDenied(f"{self._where} does not open what it wrapped: don't lock a safe with it")
        return blob

    def unwrap(self, blob: bytes, context: bytes) -> Secret:
        about = _BLOB + context
        ciphertext = blob[len(_BLOB) :].decode("ascii", "replace")
        spelled = _CIPHERTEXT.fullmatch(ciphertext)
        if not blob.startswith(_BLOB) or not spelled:
            raise KeyringDamaged("this keyring is not locked by a Vault: unlock it as safe.toml says")
        refusal = (
            f"{self._where} does not open this keyring: it is another key or was deleted, or its version {spelled[1]} "
            "was retired (min_decryption_version), or the keyring was changed"
        )
        with self._engine(refusal) as engine:
            plain = self._plain(
                engine.decrypt_data(
                    name=self._settings.key,
                    mount_point=self._settings.mount,
                    ciphertext=ciphertext,
                    associated_data=_base64(about),
                )
            )
        digest = sha256(about).digest()
        if not bytes_eq(plain.reveal()[: len(digest)], digest):
            raise KeyStoreDenied(refusal)
        return Secret(plain.reveal()[len(digest) :])

    @contextmanager
    def _engine(self, refusal: str) -> Iterator[Any]:
        """The engine's functions; what goes wrong in there gets its name here, and loses what the server said.

        refusal: the message for a request that the engine understood and refused
        """
        hvac = _hvac()
        from requests.exceptions import SSLError  # hvac's own transport

        client = hvac.Client(
            url=self._settings.url,
            token=self._token().reveal().decode(),
            verify=self._trusted,
            timeout=_TIMEOUT_SECONDS,
            allow_redirects=False,
        )
        client.session.trust_env = False
        try:
            yield client.secrets.transit
        except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized):
            raise KeyStoreDenied(
                f"{self._where} refuses the token in {self._settings.token_file}: it has expired, or its policy lacks "
                f"update on {self._settings.mount}/encrypt/{self._settings.key} and on decrypt"
            ) from None
        except hvac.exceptions.InvalidRequest:
            raise KeyStoreDenied(refusal) from None
        except hvac.exceptions.InvalidPath:
            raise KeyStoreDenied(f"the Vault at {self._server} has no engine at {self._settings.mount!r}") from None
        except hvac.exceptions.VaultError as error:
            raise KeyStoreUnavailable(
                f"the Vault at {self._server} can't serve now: it is sealed, overloaded or failing "
                f"({type(error).__name__})"
            ) from None
        except SSLError:
            raise KeyStoreUnavailable(
                f"the certificate of the Vault at {self._server} does not hold against {self._trusted}: name the file "
                "of its authority (ca_file)"
            ) from None
        except OSError:  # which the errors of `requests` are
            raise KeyStoreUnavailable(f"the Vault at {self._server} does not answer: is it up, and in reach?") from None
        finally:
            client.adapter.close()

    def _token(self) -> Secret:
        path = self._settings.token_file
        token = Secret(read_private_file(path, "token file").strip())
        if not _TOKEN.fullmatch(token.reveal()):
            raise KeyFileInvalid(f"token file {path} holds no token: write one line, the token of a Vault policy")
        return token

    def _plain(self, answer: object) -> Secret:
        try:
            return Secret(base64.b64decode(self._field(answer, "plaintext"), validate=True))
        except ValueError:
            raise self._not_a_vault() from None

    def _field(self, answer: object, name: str) -> str:
        match answer:
            case {"data": {**fields}} if isinstance(value := fields.get(name), str):
                return value
        raise self._not_a_vault()

    def _not_a_vault(self) -> KeyStoreUnavailable:
        return KeyStoreUnavailable(
            f"what answers at {self._server} is no Vault, or sends elsewhere: redirects are not followed, so name the "
            "active server's own address"
        )


def _hvac() -> Any:
    try:
        import hvac
        import hvac.exceptions
    except ImportError:
        raise KeyStoreUnavailable("to unlock through a Vault: pip install 'fedseal[transit]'") from None
    return hvac


def _server(url: str) -> str:
    """The host and port of a URL that a token may be sent to."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("https", "http"):
        raise KeyStoreDenied("the url of the Vault can't be read: write https://HOST:8200")
    if parts.scheme == "http" and host not in _THIS_MACHINE:
        raise KeyStoreDenied(f"over http:// the token and the key would travel to {host} in the open: write https://")
    return f"{host}:{port}" if port else host


def _trusted(ca_file: Path | None) -> str | bool:
    """What the server's certificate must hold against."""
    if ca_file is None:
        system = ssl.get_default_verify_paths()
        return system.cafile or system.capath or True
    if not ca_file.is_file():
        raise KeyStoreUnavailable(f"the CA file {ca_file} is not there, so no certificate of a Vault holds against it")
    return str(ca_file)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
