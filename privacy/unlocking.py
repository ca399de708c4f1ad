"""How a safe is unlocked: settings that may lie in the open, and the key store that they describe.

No secret stands in the settings, the command line or the environment: a passphrase is asked for, or read from a file
descriptor; a key, token or PIN is read from a file that only its owner can read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from privacy.key_stores import KeyFileStore, PassphraseStore
from privacy.keys import KeyStore
from privacy.secret import Secret

AbsolutePath: TypeAlias = Annotated[Path, AfterValidator(Path.absolute)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PassphraseSettings(_Settings):
    """A passphrase, through Argon2id."""

    store: Literal["passphrase"] = "passphrase"


class KeyFileSettings(_Settings):
    """A key file on another volume."""

    store: Literal["key-file"] = "key-file"
    path: AbsolutePath


class TransitSettings(_Settings):
    """HashiCorp Vault's transit engine: the outermost key never leaves it.

    url:        https://vault.example.org:8200
    key:        name of an AEAD key of the engine (aes256-gcm96)
    mount:      where the engine is mounted
    token_file: holds the token, 0600
    ca_file:    certificate authority of the server; absent: the system's
    """

    store: Literal["transit"] = "transit"
    url: str
    key: str
    mount: str = "transit"
    token_file: AbsolutePath
    ca_file: AbsolutePath | None = None


class Pkcs11Settings(_Settings):
    """A hardware security module, or SoftHSM, through PKCS#11.

    module:   the PKCS#11 library of the device
    token:    label of the token
    key:      label of an AES-256 secret key on it
    pin_file: holds the user PIN, 0600
    """

    store: Literal["pkcs11"] = "pkcs11"
    module: AbsolutePath
    token: str
    key: str
    pin_file: AbsolutePath


KeySettings: TypeAlias = Annotated[
    PassphraseSettings | KeyFileSettings | TransitSettings | Pkcs11Settings, Field(discriminator="store")
]


def secret_files(settings: KeySettings) -> list[Path]:
    """The files that unlock, so that they must not lie beside what is locked."""
    match settings:
        case KeyFileSettings(path=path):
            return [path]
        case TransitSettings(token_file=path) | Pkcs11Settings(pin_file=path):
            return [path]
    return []


def open_store(settings: KeySettings, passphrase: Callable[[], Secret]) -> KeyStore:
    """The key store that the settings describe.

    passphrase: gives the passphrase; called only where the store needs one

    Raises:
        KeyRefused: the key file, token or PIN can't be read, the store does not answer, or its library is missing.
    """
    match settings:
        case PassphraseSettings():
            return PassphraseStore(passphrase())
        case KeyFileSettings(path=path):
            return KeyFileStore(path)
        case TransitSettings():
            from privacy.transit import TransitStore

            return TransitStore(settings)
        case Pkcs11Settings():
            from privacy.pkcs11_store import Pkcs11Store

            return Pkcs11Store(settings)
