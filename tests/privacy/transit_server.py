"""A small Vault for tests: the transit engine's HTTP API, on this machine's own address, with real AES-256-GCM.

It answers as Vault 1.13 does, errors and odd ways included: `encrypt` makes a missing key where the token may, and a
server from before `associated_data` takes that parameter without a word and ignores it.
https://developer.hashicorp.com/vault/api-docs/secret/transit
"""

from __future__ import annotations

import base64
import binascii
import datetime
import ipaddress
import json
import os
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ROOT = "hvs.root-token-of-the-tests"
SECRET_OF_THE_SERVER = "Vault is sealed, says 10.2.3.4"
_NONCE_BYTES = 12
_EVERYTHING = frozenset({"keys", "create", "encrypt", "decrypt"})


@dataclass
class _Key:
    versions: list[bytes] = field(default_factory=lambda: [os.urandom(32)])
    min_decryption_version: int = 1


@dataclass(frozen=True)
class Request:
    """What reached the server."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


class _Refusal(Exception):
    def __init__(self, status: int, *errors: str) -> None:
        super().__init__(status)
        self.status, self.errors = status, errors


class TransitServer:
    """Up while it is entered.

    tokens:       what each token may do: keys, create, encrypt, decrypt
    failing:      answers everything with this status, and with an error that nobody else may hear of
    redirect_to:  sends every request to this address instead
    replies:      answers everything with this content and 200
    requests:     what it was asked, first to last
    """

    def __init__(self, *, associated_data: bool = True, tls: ssl.SSLContext | None = None) -> None:
        self.tokens = {ROOT: _EVERYTHING}
        self.keys: dict[str, _Key] = {}
        self.failing: int | None = None
        self.redirect_to: str | None = None
        self.replies: bytes | None = None
        self.requests: list[Request] = []
        self._knows_associated_data = associated_data
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if tls:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> TransitServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Takes it down; nothing listens at its address any more."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()

    def answer(self, request: Request) -> tuple[int, dict[str, Any]]:
        """Status and JSON."""
        if request.path == "/v1/sys/health":
            return 200, {"initialized": True, "sealed": False, "standby": False}
        rights = self.tokens.get(request.headers.get("X-Vault-Token", ""), frozenset())
        match request.path.split("/")[1:]:
            case ["v1", "transit", "keys", name, *act]:
                self._demand("keys" in rights)
                return 200, {"data": self._manage(name, act, request.body)}
            case ["v1", "transit", "encrypt", name]:
                self._demand("encrypt" in rights and (name in self.keys or "create" in rights))
                return 200, {"data": self._encrypt(name, request.body)}
            case ["v1", "transit", "decrypt", name]:
                self._demand("decrypt" in rights)
                return 200, {"data": self._decrypt(name, request.body)}
        self._demand(bool(rights))
        raise _Refusal(404, f'no handler for route "{request.path[4:]}". route entry not found.')

    def _demand(self, allowed: bool) -> None:
        if not allowed:
            raise _Refusal(403, "1 error occurred:\n\t* permission denied\n\n")

    def _manage(self, name: str, act: list[str], body: dict[str, Any]) -> dict[str, Any]:
        if not act and body:
            self.keys.setdefault(name, _Key())
        key = self._key(name)
        if act == ["rotate"]:
            key.versions.append(os.urandom(32))
        if act == ["config"]:
            key.min_decryption_version = int(body["min_decryption_version"])
        latest, least = len(key.versions), key.min_decryption_version
        return {"name": name, "type": "aes256-gcm96", "latest_version": latest, "min_decryption_version": least}

    def _encrypt(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if name not in self.keys:
            if body.get("type", "aes256-gcm96") != "aes256-gcm96":
                raise _Refusal(400, f"unknown key type {body['type']}")
            self.keys[name] = _Key()
        version = len(self.keys[name].versions)
        nonce = os.urandom(_NONCE_BYTES)
        plain = _decoded(body["plaintext"])
        sealed = nonce + AESGCM(self.keys[name].versions[-1]).encrypt(nonce, plain, self._associated_data(body))
        return {"ciphertext": f"vault:v{version}:{base64.b64encode(sealed).decode()}", "key_version": version}

    def _decrypt(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        key = self._key(name)
        prefix, version, content = body["ciphertext"].split(":", 2)
        if prefix != "vault":
            raise _Refusal(400, "invalid ciphertext: no prefix")
        number = int(version.removeprefix("v"))
        if number > len(key.versions):
            raise _Refusal(400, "invalid ciphertext: version is too new")
        if number < key.min_decryption_version:
            raise _Refusal(400, "ciphertext or signature version is disallowed by policy (too old)")
        sealed = _decoded(content)
        if len(sealed) < _NONCE_BYTES:
            raise _Refusal(400, "invalid ciphertext length")
        cipher = AESGCM(key.versions[number - 1])
        try:
            plain = cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], self._associated_data(body))
        except InvalidTag:
            raise _Refusal(400, "cipher: message authentication failed") from None
        return {"plaintext": base64.b64encode(plain).decode()}

    def _key(self, name: str) -> _Key:
        if name not in self.keys:
            raise _Refusal(400, "encryption key not found")
        return self.keys[name]

    def _associated_data(self, body: dict[str, Any]) -> bytes:
        return _decoded(body.get("associated_data", "")) if self._knows_associated_data else b""

    def _handler(vault) -> type[BaseHTTPRequestHandler]:  # noqa: N805  # `self` is the handler's
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._serve()

            def do_POST(self) -> None:
                self._serve()

            def _serve(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Request(self.path, dict(self.headers), json.loads(content or b"{}"))
                vault.requests.append(request)
                if vault.redirect_to:
                    return self._send(307, b"", {"Location": vault.redirect_to + self.path})
                if vault.replies is not None:
                    return self._send(200, vault.replies, {})
                try:
                    if vault.failing:
                        raise _Refusal(vault.failing, SECRET_OF_THE_SERVER)
                    status, found = vault.answer(request)
                except _Refusal as refusal:
                    status, found = refusal.status, {"errors": list(refusal.errors)}
                return self._send(status, json.dumps(found).encode(), {})

            def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing: what was asked is in `requests`."""

        return Handler


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A TLS server's side for 127.0.0.1, and the file that trusts it."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vault of the tests")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    ca_file, key_file = folder / "ca.pem", folder / "server.key"
    ca_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(ca_file, key_file)
    os.remove(key_file)
    return tls, ca_file


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise _Refusal(400, "illegal base64 data at input byte 0") from None
