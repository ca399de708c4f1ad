"""How records get into a site's vault: batch by batch, sealed as they come, the facts last; nothing half-done stays.

Unit ids are never stored: a unit becomes a keyed hash (BLAKE2b, RFC 7693, under the site's own fingerprint key), and
the same person has the same hash in every data set of the site. The fingerprint of a data set is the keyed hash of its
records' sorted keyed hashes, so that the same records in another order, or imported again, are recognised.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clients.data import FIELD, HELD_OUT, SERIAL, SHARD_BYTES, UNIT, DataSet, Facts, facts_label, rows_label
from clients.registers import seal_register
from federation.rows import Rows, record_bytes
from federation.tensors import pieces
from privacy.errors import DataInvalid, ObjectMissing, StorageFailed
from privacy.secret import Secret
from privacy.vault import Label, Vault, is_name

_FINGERPRINT_KEY = Label("identity", "fingerprint-key")
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What an importer says of the records that it brings; `imported` is a time in ISO 8601."""

    name: str
    imported: str
    columns: tuple[str, ...]
    label: str | None = None
    unit: str | None = None


def seal_rows(
    vault: Vault,
    source: Source,
    batches: Iterable[tuple[Rows, list[str] | None]],
    skipped: Callable[[], int] = lambda: 0,
) -> DataSet:
    """Seals batches of records, each with its units if the source has a unit column, as a new data set.

    batches: may raise, to refuse what it read: then nothing of the data set stays
    skipped: how many records were left out; asked when the batches are used up

    Raises:
        DataInvalid: the name is taken or can't be one, or there is no record.
        StorageFailed: the disk refused; nothing of the data set stays.
    """
    _refuse_name(source.name)
    remove_remains(vault)
    if facts_label(source.name) in vault.list("data-set"):
        raise DataInvalid(
            f"there is a data set {source.name!r} already: choose another name, or shred it first with "
            f"`fedseal site shred {source.name}`"
        )
    fingerprint = _Fingerprint(_fingerprint_key(vault))
    try:
        serial = secrets.token_hex(8)
        shards = _sealed_shards(vault, source.name, serial, fingerprint, batches)
        if not shards:
            raise DataInvalid(
                f"no record was imported as {source.name!r}: the table holds none, or each has a bad cell"
            )
        facts = Facts(
            serial=serial,
            name=source.name,
            imported=source.imported,
            columns=source.columns,
            label=source.label,
            unit=source.unit,
            units=len(fingerprint.units) if source.unit else None,
            skipped=skipped(),
            fingerprint=fingerprint.hexdigest(),
            shards=tuple(records for records, _ in shards),
            plain_bytes=sum(size for _, size in shards),
        )
        seal_register(vault, facts.fingerprint, fingerprint.units, fingerprint.alone)
        vault.seal(facts_label(source.name), [facts.model_dump_json().encode()])
    except BaseException:
        with suppress(StorageFailed):  # on a full disk the next change removes the rest
            _abandon(vault, source.name)
        raise
    return DataSet(vault, facts)


def remove_remains(vault: Vault) -> None:
    """Shreds what a killed import left: shards without facts, and keys without objects."""
    whole = {label.name for label in vault.list("data-set")}
    started = {scope.removeprefix("data/") for scope in vault.keyring.scopes() if scope.startswith("data/")}
    for name in sorted((started | {label.name for label in vault.list("rows")}) - whole):
        _abandon(vault, name)


def _abandon(vault: Vault, name: str) -> None:
    """Deletes the objects first, to make room on a full disk for the keyring's change."""
    for label in vault.list():
        if label.scope == f"data/{name}":
            vault.delete(label)
    vault.shred(f"data/{name}")


def _sealed_shards(
    vault: Vault, name: str, serial: str, fingerprint: _Fingerprint, batches: Iterable[tuple[Rows, list[str] | None]]
) -> list[tuple[int, int]]:
    """Seals full shards as records come; returns each shard's records and bytes."""
    shards: list[tuple[int, int]] = []
    for tensors in _gathered(_tensors(rows, units, fingerprint) for rows, units in batches if len(rows)):
        vault.seal(rows_label(name, len(shards)), pieces(tensors, {SERIAL: serial}))
        records = len(next(iter(tensors.values())))
        shards.append((records, records * _stride(tensors)))
    return shards


def _gathered(batches: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """The same records, in batches of SHARD_BYTES and one smaller last."""
    waiting: list[dict[str, Tensor]] = []
    room = 0
    for batch in batches:
        rest = batch
        while len(next(iter(rest.values()))):
            room = room if waiting else max(1, SHARD_BYTES // _stride(rest))
            waiting.append({name: tensor[:room] for name, tensor in rest.items()})
            rest = {name: tensor[room:] for name, tensor in rest.items()}
            room -= len(next(iter(waiting[-1].values())))
            if room == 0:
                yield _concatenated(waiting)
                waiting = []
    if waiting:
        yield _concatenated(waiting)


def _concatenated(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _stride(tensors: dict[str, Tensor]) -> int:
    """Bytes of one record."""
    return max(1, sum(math.prod(tensor.shape[1:]) * tensor.element_size() for tensor in tensors.values()))


def _tensors(rows: Rows, units: list[str] | None, fingerprint: _Fingerprint) -> dict[str, Tensor]:
    """A batch as a shard holds it, its records counted into the fingerprint."""
    owners = fingerprint.add(rows, units)
    tensors = {FIELD + name: tensor for name, tensor in rows.fields.items()}
    if rows.held_out is not None:
        tensors[HELD_OUT] = rows.held_out
    if owners is not None:
        tensors[UNIT] = owners
    return tensors


def _refuse_name(name: str) -> None:
    if not is_name(name):
        raise DataInvalid(
            f"{name!r} can't name a data set: use lower-case letters, digits, dots, hyphens, underscores; 100 at most"
        )


@dataclass(slots=True)
class _Fingerprint:
    """Hashes gathered while records pass: of records with their units, of records alone, and of units."""

    key: Secret = field(repr=False)
    records: list[bytes] = field(default_factory=list)
    alone: list[bytes] = field(default_factory=list)
    units: set[bytes] = field(default_factory=set)

    def add(self, rows: Rows, units: list[str] | None) -> Tensor | None:
        """Takes a batch; returns the keyed hash of each record's unit, (n, 16) uint8."""
        owners = [self._digest(b"unit", unit.encode()) for unit in units] if units is not None else None
        for position, record in enumerate(record_bytes(rows)):
            self.alone.append(self._digest(b"record", record))
            self.records.append(self._digest(b"record", record + owners[position]) if owners else self.alone[-1])
        if owners is None:
            return None
        self.units.update(owners)
        return torch.frombuffer(bytearray(b"".join(owners)), dtype=torch.uint8).reshape(-1, _DIGEST_BYTES)

    def hexdigest(self) -> str:
        """32 bytes as hex."""
        together = hashlib.blake2b(key=self.key.reveal(), digest_size=32, person=b"fedseal data set")
        for digest in sorted(self.records):
            together.update(digest)
        return together.hexdigest()

    def _digest(self, what: bytes, value: bytes) -> bytes:
        return hashlib.blake2b(value, key=self.key.reveal(), digest_size=_DIGEST_BYTES, person=what).digest()


def _fingerprint_key(vault: Vault) -> Secret:
    """The site's one fingerprint key, drawn at its first import; data sets come and go, budgets stay."""
    try:
        return Secret(bytes(vault.open(_FINGERPRINT_KEY)))
    except ObjectMissing:
        key = Secret.random()
        vault.seal(_FINGERPRINT_KEY, [key.reveal()])
        return key
