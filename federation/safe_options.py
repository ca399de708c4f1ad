"""What site commands share: which safe is meant, how it is unlocked, and how it shall be locked from now on."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from privacy import passphrases
from privacy.errors import DataInvalid, KeyFileInvalid
from privacy.key_stores import KeyFileStore
from privacy.safe import Safe, is_safe, refuse_key_beside
from privacy.secret import Secret
from privacy.unlocking import KeyFileSettings, KeySettings, PassphraseSettings

SiteOption = Annotated[
    Path | None,
    typer.Option("--site", metavar="DIR", help="The site's folder; else this folder, or the only site below it."),
]
PassphraseDescriptor = Annotated[
    int | None,
    typer.Option(
        "--passphrase-fd", metavar="N", help="Read the passphrase from file descriptor N, e.g. 3 with 3<FILE."
    ),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--key-file", metavar="FILE", help="Lock with this key file, on another volume; made if it is not there."
    ),
]
KeysOption = Annotated[
    Path | None,
    typer.Option(
        "--keys", metavar="FILE", help="Lock with the key store that this TOML file describes: HashiCorp Vault, an HSM."
    ),
]


class _KeysFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: KeySettings


def site_folder(named: Path | None) -> Path:
    """The site that a command is about.

    Raises:
        DataInvalid: there is none here, or there are several.
    """
    if named is not None:
        if not is_safe(named):
            raise DataInvalid(f"{named} is no site: `fedseal site init {named}` makes one")
        return named
    here = Path()
    if is_safe(here):
        return here
    found = sorted(path for path in here.iterdir() if is_safe(path))
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(path) for path in found)
    raise DataInvalid(
        f"several sites are here ({names}): say which with --site DIR"
        if found
        else "there is no site in this folder: make one with `fedseal site init DIR`, or name it with --site DIR"
    )


def unlocked(named: Path | None, descriptor: int | None) -> Safe:
    """The unlocked safe of the site that a command is about.

    Raises:
        DataInvalid, KeyRefused: there is none, or it does not unlock.
    """
    folder = site_folder(named)
    return Safe.unlock(folder, present_passphrase(folder, descriptor))


def present_passphrase(folder: Path, descriptor: int | None) -> Callable[[], Secret]:
    """Where the passphrase of a locked safe comes from."""
    if descriptor is not None:
        return lambda: passphrases.from_descriptor(descriptor)
    return lambda: passphrases.asked(f"Passphrase of {folder}")


def new_passphrase(descriptor: int | None) -> Callable[[], Secret]:
    """Where a new passphrase comes from; asked only once, though it is used twice."""
    taken: list[Secret] = []

    def take() -> Secret:
        if not taken:
            found = (
                passphrases.asked_twice("New passphrase")
                if descriptor is None
                else passphrases.new(passphrases.from_descriptor(descriptor))
            )
            taken.append(found)
        return taken[0]

    return take


def lock_settings(folder: Path, key_file: Path | None, keys: Path | None) -> KeySettings:
    """How the safe of a folder shall be locked: by a passphrase, unless a key file or a key store is named.

    Raises:
        KeyFileInvalid: both are named, or one can't be used, or lies inside the folder.
    """
    if key_file is not None and keys is not None:
        raise KeyFileInvalid("name --key-file or --keys, not both: a safe has one lock")
    if key_file is not None:
        settings = KeyFileSettings(path=key_file)
        refuse_key_beside(folder, settings)
        if not key_file.exists():
            KeyFileStore.create(key_file)
        return settings
    if keys is None:
        return PassphraseSettings()
    try:
        return _KeysFile.model_validate(tomllib.loads(keys.read_text(encoding="utf-8"))).keys
    except (OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise KeyFileInvalid(f"{keys} describes no key store ({reason}); docs/storage.md shows what it holds") from None
