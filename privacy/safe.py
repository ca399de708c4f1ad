"""A safe: a folder that only its owner can read. A site has one, and so has every run.

    safe.toml       whose it is and how it is unlocked; no secret
    keyring-1       epoch keys, locked by the key store; each change of the lock writes the next number
    identity.json   the public half of the owner's identity
    objects/        the vault: sealed objects, the private half among them
    ledger.db       what was spent (`privacy/ledger.py`); its checkpoint is also kept in an anchor on another volume

The folder appears whole or not at all, and every change is made under its lock.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from privacy import files
from privacy.errors import IdentityRefused, KeyFileInvalid, KeyRefused, KeyringDamaged, LockChanged, StorageFailed
from privacy.identity import Identity, PublicIdentity
from privacy.keys import KeyRing, KeyStore
from privacy.ledger import Ledger
from privacy.ledger_rows import MemoryRows, SqliteRows
from privacy.secret import Secret
from privacy.unlocking import AbsolutePath, KeySettings, open_store, secret_files
from privacy.vault import Label, Vault, is_name

LEDGER = "ledger.db"
_SETTINGS, _KEYRINGS, _IDENTITY, _VAULT = "safe.toml", "keyring-", "identity.json", "objects"


class _SafeSettings(BaseModel):
    """What `safe.toml` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Annotated[int, Field(ge=1, le=1, strict=True)] = 1
    name: str
    keyring: Annotated[int, Field(ge=1, strict=True)] = 1
    anchor: AbsolutePath | None = None
    keys: KeySettings


@dataclass(frozen=True, slots=True)
class Safe:
    """An unlocked safe.

    ledger: opens the owner's ledger, which is read when it is first used
    """

    folder: Path
    name: str
    vault: Vault
    ledger: Callable[[], Ledger]
    _own: Identity | None = None

    @staticmethod
    def create(folder: Path, name: str, keys: KeySettings, passphrase: Callable[[], Secret]) -> Safe:
        """A new safe in a folder that is not there yet, or empty.

        Raises:
            StorageFailed: the folder holds something, or the disk refused; nothing is left behind.
            KeyRefused: the key store refuses, or its key would lie beside what it locks.
        """
        _refuse_name(name)
        refuse_key_beside(folder, keys)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StorageFailed(f"{folder} is there already and not empty: name a new folder")
        store = open_store(keys, passphrase)
        in_place = folder.exists()
        draft = folder / ".new" if in_place else folder.with_name(f".{folder.name}.new")
        if draft.exists():
            files.remove_folder(draft)
        files.make_folder(draft)
        if in_place:
            files.restrict(folder)
        try:
            settings = _SafeSettings(name=name, keys=keys)
            keyring = KeyRing.create(draft / f"{_KEYRINGS}{settings.keyring}", name, store)
            identity = Identity.create(name)
            Vault(draft / _VAULT, keyring).seal(Label("identity", "own"), [identity.to_secret().reveal()])
            rows = SqliteRows.create(draft / LEDGER)
            Ledger.create(rows, keyring, identity.signer())
            rows.close()
            files.replace(draft / _IDENTITY, identity.public().to_json().encode() + b"\n")
            files.replace(draft / _SETTINGS, _toml(settings).encode())
            if in_place:
                for path in sorted(draft.iterdir()):  # safe.toml is the last, and what makes the folder a safe
                    files.move(path, folder / path.name)
            else:
                files.move(draft, folder)
        finally:
            if draft.exists():
                files.remove_folder(draft)
        return Safe._opened(folder, settings, store)

    @staticmethod
    def unlock(folder: Path, passphrase: Callable[[], Secret]) -> Safe:
        """The safe of a folder.

        passphrase: gives the passphrase; called only where the safe is locked by one

        Raises:
            KeyringDamaged: the folder is no safe.
            KeyRefused: the key store does not unlock it.
        """
        settings = _read(folder)
        store = open_store(settings.keys, passphrase)
        return Safe._opened(folder, settings, store)

    @staticmethod
    def _opened(folder: Path, settings: _SafeSettings, store: KeyStore) -> Safe:
        keyring = KeyRing.open(folder / f"{_KEYRINGS}{settings.keyring}", settings.name, store)
        vault = Vault(folder / _VAULT, keyring)

        def ledger() -> Ledger:
            signer = _identity(vault, settings.name).signer()
            return Ledger(SqliteRows(folder / LEDGER), vault.keyring, signer, _read(folder).anchor)

        return Safe(folder, settings.name, vault, ledger)

    @staticmethod
    def throw_away(folder: Path, name: str) -> Safe:
        """A safe whose keys die with this process: what it leaves in the folder nobody can read."""
        files.make_folder(folder)
        keyring, identity = KeyRing.throw_away(name), Identity.create(name)
        ledger = Ledger.create(MemoryRows(), keyring, identity.signer())
        return Safe(folder, name, Vault(folder, keyring, files.writing), lambda: ledger, identity)

    @contextmanager
    def changing(self) -> Iterator[Vault]:
        """The vault, for changes, under the folder's lock; what killed writers left behind is swept first.

        Raises:
            StorageBusy: another process is changing it.
            LockChanged: it has another lock since it was unlocked here.
        """
        with files.locked(self.folder):
            files.sweep_drafts(self.folder)
            self._sweep_keyrings()
            self.vault.keyring.reload()
            self.vault.remove_shredded()
            yield self.vault

    def identity(self) -> Identity:
        """The owner's private identity."""
        return self._own or _identity(self.vault, self.name)

    def public_identity(self) -> PublicIdentity:
        """The identity that lies in the open.

        Raises:
            IdentityRefused: it is missing, damaged, or another's.
        """
        path = self.folder / _IDENTITY
        try:
            found = PublicIdentity.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise IdentityRefused(f"{path} can't be read: restore it from a backup") from None
        if found.name != self.name:
            raise IdentityRefused(f"{path} is the identity of {found.name}, not of {self.name}")
        return found

    def lock_with(self, keys: KeySettings, passphrase: Callable[[], Secret]) -> None:
        """Changes what unlocks the safe; the old passphrase or key opens it no more. Objects stay as they are.

        Raises:
            KeyRefused: the new key store refuses; the old one stays.
        """
        refuse_key_beside(self.folder, keys)
        store = open_store(keys, passphrase)
        with self.changing() as vault:
            before = _read(self.folder)
            number = before.keyring + 1
            settings = before.model_copy(update={"keyring": number, "keys": keys})
            text = _toml(settings).encode()
            keyring = vault.keyring.rewrapped(self.folder / f"{_KEYRINGS}{number}", store)
            files.replace(self.folder / _SETTINGS, text)
            vault.keyring = keyring
            self._sweep_keyrings()

    def anchor(self) -> Path | None:
        """The file that follows the ledger's checkpoints; None: there is none."""
        return _read(self.folder).anchor

    def anchor_at(self, path: Path) -> None:
        """From now on the ledger's newest checkpoint is also kept in this file, best on another volume.

        Raises:
            KeyFileInvalid: it lies inside the safe, where whoever puts back an older safe puts back the anchor too.
            LedgerCorrupt: the ledger does not hold; an anchor of before is not asked, because it may be lost.
        """
        if self.folder.resolve() in path.resolve().parents:
            raise KeyFileInvalid(f"{path} lies inside {self.folder}: keep the anchor on another volume")
        with self.changing():
            settings = _read(self.folder).model_copy(update={"anchor": path.absolute()})
            ledger = Ledger(SqliteRows(self.folder / LEDGER), self.vault.keyring, self.identity().signer())
            files.make_folder(path.parent)
            ledger.anchor_at(path)
            files.replace(self.folder / _SETTINGS, _toml(settings).encode())

    def _sweep_keyrings(self) -> None:
        """Deletes the keyrings that `safe.toml` does not name: a change of the lock that was killed left them."""
        own = self.vault.keyring.path
        if own is None:
            return
        named = f"{_KEYRINGS}{_read(self.folder).keyring}"
        if own.name != named:
            raise LockChanged(f"{self.folder} has another lock since this process unlocked it: start the process anew")
        for path in self.folder.glob(f"{_KEYRINGS}*"):
            if path.name != named:
                files.remove(path)

    def reseal(self) -> Iterator[Label]:
        """Gives every scope a new key, seals every object anew under it, then deletes the old keys; yields each object.

        Killed at any point, every object still opens; run again, it goes on.
        """
        with self.changing() as vault:
            old = {scope: vault.keyring.living(scope) for scope in vault.keyring.scopes()}
            for scope in old:
                vault.keyring.begin(scope)
            for label in vault.list():
                vault.reseal(label)
                yield label
            self.ledger().reseal()
            vault.keyring.retire([number for numbers in old.values() for number in numbers])


def _identity(vault: Vault, name: str) -> Identity:
    return Identity.from_secret(name, Secret(bytes(vault.open(Label("identity", "own")))))


def is_safe(folder: Path) -> bool:
    """Whether the folder is a safe; one that may not be entered is none."""
    try:
        return (folder / _SETTINGS).is_file()
    except OSError:
        return False


def key_settings(folder: Path) -> KeySettings:
    """How the safe of a folder is unlocked.

    Raises:
        KeyringDamaged: the folder is no safe.
    """
    return _read(folder).keys


def _read(folder: Path) -> _SafeSettings:
    path = folder / _SETTINGS
    try:
        return _SafeSettings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise KeyringDamaged(f"{folder} is no safe: it has no {_SETTINGS}") from None
    except (OSError, ValueError, RecursionError) as error:
        what = f"{error.error_count()} settings are wrong" if isinstance(error, ValidationError) else str(error)
        raise KeyringDamaged(f"{path} can't be read: {what}") from None


def _toml(settings: _SafeSettings) -> str:
    top = settings.model_dump(mode="json", exclude_none=True)
    keys = top.pop("keys")
    text = f"{_toml_lines(top)}\n[keys]\n{_toml_lines(keys)}"
    try:
        text.encode()
        if _SafeSettings.model_validate(tomllib.loads(text)) == settings:
            return text
    except ValueError:
        pass
    raise KeyFileInvalid("a path or name in the settings of the lock can't be written in TOML: choose plainer ones")


def _toml_lines(values: dict[str, object]) -> str:
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())


def _refuse_name(name: str) -> None:
    if not is_name(name):
        raise KeyRefused(
            f"{name!r} can't name a safe: use lower-case letters, digits, dots, hyphens and underscores, 100 at most"
        )


def refuse_key_beside(folder: Path, keys: KeySettings) -> None:
    """Passes a lock whose key, token or PIN file lies outside of the folder.

    Raises:
        KeyFileInvalid: it lies inside, so that whoever takes the folder takes the key.
    """
    for path in secret_files(keys):
        if folder.resolve() in path.resolve().parents:
            raise KeyFileInvalid(
                f"{path} lies inside {folder}, so whoever takes the folder takes the key: keep it on another volume"
            )
