"""Whether everything in a safe still opens: every object authenticated to its end, every data set whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from clients.data import DataSet, rows_label
from privacy.errors import FedSealError, IdentityRefused, ObjectDamaged, ObjectMissing
from privacy.safe import Safe
from privacy.vault import Label, Vault


@dataclass(frozen=True, slots=True)
class Checked:
    """One object and what is wrong with it; empty where nothing is."""

    label: Label
    problem: str


def checked(vault: Vault) -> Iterator[Checked]:
    """Opens every object; a shard that a data set should have and has not is checked too, and found missing."""
    there = set(vault.list())
    expected = {label for label in there if label.kind == "data-set"}
    for label in sorted(expected):
        shards = _shards(vault, label)
        expected |= shards
    for label in sorted(there | expected):
        yield Checked(label, _problem(vault, label))


def refuse_damaged(safe: Safe) -> None:
    """Passes a safe in which every object opens, and whose identity in the open is the sealed one's.

    Raises:
        ObjectDamaged: names the objects that don't.
        IdentityRefused: the identity is another.
    """
    bad = [f"{found.label}: {found.problem}" for found in checked(safe.vault) if found.problem]
    if bad:
        raise ObjectDamaged(f"{len(bad)} sealed objects do not open: {'; '.join(bad)}")
    refuse_other_identity(safe)


def refuse_other_identity(safe: Safe) -> None:
    """Passes a safe whose identity in the open is the sealed one's.

    Raises:
        IdentityRefused: it is another, or missing.
    """
    if safe.identity().public() != safe.public_identity():
        raise IdentityRefused(f"{safe.folder / 'identity.json'} is not the identity that is sealed in the safe")


def _shards(vault: Vault, label: Label) -> set[Label]:
    try:
        facts = DataSet.open(vault, label.name).facts
    except FedSealError:
        return set()
    return {rows_label(label.name, number) for number in range(len(facts.shards))}


def _problem(vault: Vault, label: Label) -> str:
    try:
        vault.open(label)
    except ObjectMissing:
        return "it is missing"
    except FedSealError as error:
        return str(error)
    return ""
