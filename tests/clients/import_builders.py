"""Imports into a site's safe, and what a refused one may leave there: nothing."""

from __future__ import annotations

import pytest

from clients.data import DataSet
from clients.importing import BadRows, Import, import_table
from clients.sealing import remove_remains
from privacy.errors import FedSealError
from privacy.safe import Safe
from tests.clients.data_builders import again, on_disk


def forget(sealed: int) -> None:
    """Takes the progress of an import."""


def imported(safe: Safe, wanted: Import) -> tuple[DataSet, BadRows]:
    """The new data set as another process opens it, and the rows that were skipped."""
    facts, bad = import_table(safe, wanted, forget)
    data = DataSet.open(again(safe).vault, wanted.name)
    assert data.facts == facts
    return data, bad


def refusal(safe: Safe, wanted: Import) -> str:
    """Why an import is refused; the vault must be as it was, with nothing for the next import to clear up."""
    before, scopes = on_disk(safe.folder / "objects"), safe.vault.keyring.scopes()
    with pytest.raises(FedSealError) as raised:
        import_table(safe, wanted, forget)
    assert safe.vault.keyring.scopes() == scopes
    nothing_is_left(safe, before, scopes)
    return str(raised.value)


def nothing_is_left(safe: Safe, before: dict[str, bytes], scopes: list[str]) -> None:
    """The objects and keys that were there, and no more."""
    assert on_disk(safe.folder / "objects") == before
    assert again(safe).vault.keyring.scopes() == scopes
    everything = on_disk(safe.folder)
    with again(safe).changing() as vault:
        remove_remains(vault)
    assert on_disk(safe.folder) == everything
