"""Which units and records a data set holds, as short keyed hashes: how overlapping data sets are recognised.

A register is sealed under keys of its own, so that it outlives the data set: rows that are shredded and imported again,
a few more among them, continue their account. Hashes are keyed with the site's fingerprint key and cut to 8 bytes: a
chance collision composes two data sets that share nothing, which only counts too much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from clients.data import Facts
from federation.tensors import pieces, views
from privacy.budget import WHOLE_SITE
from privacy.entries import DataRegistered
from privacy.errors import ObjectMissing
from privacy.ledger import Ledger, now
from privacy.vault import Label, Vault

_HASH_BYTES = 8


def seal_register(vault: Vault, account: str, units: Iterable[bytes], records: Iterable[bytes]) -> None:
    """Seals the hashes of a data set's units and records."""
    tensors = {"units": _sorted(units), "records": _sorted(records)}
    vault.seal(_label(account), pieces(tensors))


def register_data(vault: Vault, ledger: Ledger, facts: Facts) -> None:
    """Makes the data set known to the ledger, with the accounts that it overlaps; once."""
    while (names := ledger.books().names.copy()).get(facts.fingerprint) != facts.name:
        mine = _register(vault, facts.fingerprint)
        others = sorted(set(names) - {facts.fingerprint, WHOLE_SITE})
        overlaps = [other for other in others if _overlap(mine, _register(vault, other))]
        found = DataRegistered(
            time=now(), account=facts.fingerprint, name=facts.name, records=facts.records, overlaps=overlaps
        )
        if ledger.register(found, others):  # else another process has registered a data set in the meantime
            return


def _overlap(one: Mapping[str, Tensor] | None, other: Mapping[str, Tensor] | None) -> bool:
    """Whether two data sets share a unit or a record; where a register is lost, they are taken to."""
    if one is None or other is None:
        return True
    return any(bool(torch.isin(one[what], other[what], assume_unique=True).any()) for what in ("units", "records"))


def _register(vault: Vault, account: str) -> Mapping[str, Tensor] | None:
    try:
        return views(vault.open(_label(account)))[0]
    except ObjectMissing:
        return None


def _sorted(digests: Iterable[bytes]) -> Tensor:
    """Unique hashes, (n,) int64."""
    content = b"".join(digest[:_HASH_BYTES] for digest in digests)
    return torch.from_numpy(np.unique(np.frombuffer(content, np.int64)))


def _label(account: str) -> Label:
    return Label("register", account)
