"""The server's memory of every site's ledger: the last signed checkpoint, and what each report must prove beside it.

In a deployment the memory is a file, so that it outlives runs: a site whose ledger was put back, replaced or begun anew
is noticed in the next run as well. Checkpoints are public facts and lie in the open. Must never add a report whose
ledger did not grow from the one that the server knows, or did not reserve and settle this very report.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from federation.orders import Address, Expectation, Report
from privacy import files
from privacy.entries import Entry, Reserved, Settled
from privacy.errors import FedSealError, MalformedReceipt, RunFailed, StaleLedger, WrongReserve
from privacy.receipts import judged
from privacy.shown import Shown, checked, site_of
from privacy.witness import digest_of

_SHOWN_TO_ALL = 128
_NEIGHBOURS = 4


@dataclass(slots=True, kw_only=True)
class Witness:
    """What the server has seen of the sites' ledgers.

    path: the file that keeps it over runs; None forgets it with the process
    """

    path: Path | None = None
    _shown: dict[str, Shown] = field(default_factory=dict)
    _ledgers: dict[str, str] = field(default_factory=dict)
    _of_node: dict[int, str] = field(default_factory=dict)
    _unclaimed: dict[str, list[Reserved]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for shown, node in self._read():
            self._remember(shown)
            if node is not None:
                self._of_node[node] = shown.origin

    def shown_to(self, nodes: Iterable[int]) -> dict[int, tuple[Shown, ...]]:
        """The checkpoints for each site's order: of all sites, or in large federations its own and its neighbours'."""
        everyone = tuple(self._shown.values())
        if len(everyone) <= _SHOWN_TO_ALL:
            return dict.fromkeys(nodes, everyone)
        places = {origin: place for place, origin in enumerate(self._shown)}
        ring = everyone + everyone[: _NEIGHBOURS + 1]
        starts = {node: places.get(self._of_node.get(node, ""), 0) for node in nodes}
        return {node: ring[start : start + _NEIGHBOURS + 1] for node, start in starts.items()}

    def judge(self, node: int, report: Report, shown: tuple[Shown, ...], expected: Expectation) -> tuple[Reserved, ...]:
        """The reserves that the site's ledger shows since the last time, this report's among them.

        shown: what the site's order showed

        Raises:
            MalformedReceipt: a signature or proof does not hold.
            StaleLedger, ForkedLedger: the ledger is an older copy, another history, or another ledger than before.
            WrongReserve: it did not reserve this round, or did not settle this report.
        """
        receipt = report.receipt
        found = Shown(verifying=receipt.verifying, note=receipt.note)
        self._refuse_other_ledger(node, found)
        self._of_node[node] = found.origin
        last = self._shown.get(found.origin)
        if last is not None and last not in shown:
            raise MalformedReceipt(
                "the site's order did not show what the server knows of the site's ledger, so the site could not prove "
                "that it grew from it; its next order will"
            )
        _, entries = judged(receipt, last)
        self._remember(found)
        in_run = [
            entry for entry in entries.values() if isinstance(entry, Reserved) and entry.run == report.address.run
        ]
        _refuse_other_mechanism(expected, in_run)
        self._unclaimed.setdefault(found.origin, []).extend(in_run)  # spent, whatever becomes of this report
        _refuse_wrong_reserve(report, entries, digest_of(shown))
        return tuple(self._unclaimed.pop(found.origin))

    def save(self) -> None:
        """Makes the memory durable, where it has a file.

        Raises:
            StorageFailed: the disk refused.
        """
        if self.path is not None:
            for each, _ in self._read():  # another run of this server may have seen more in the meantime
                known = self._shown.get(each.origin)
                if known is None or checked(known).size < checked(each).size:
                    self._remember(each)
            nodes = {origin: node for node, origin in self._of_node.items()}
            lines = [
                {"verifying": shown.verifying.hex(), "note": shown.note, "node": nodes.get(shown.origin)}
                for shown in self._shown.values()
            ]
            files.make_folder(self.path.parent)
            files.replace(self.path, json.dumps(lines, indent=1).encode())

    def _read(self) -> list[tuple[Shown, int | None]]:
        """Each checkpoint, and the node that showed it, where it is known: a hint only."""
        if self.path is None or not self.path.exists():
            return []
        try:
            found = json.loads(self.path.read_bytes())
            lines = [(Shown(verifying=bytes.fromhex(line["verifying"]), note=line["note"]), line) for line in found]
            for each, _ in lines:
                checked(each)
            return [(each, None if line.get("node") is None else int(line["node"])) for each, line in lines]
        except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError, FedSealError):
            raise RunFailed(
                f"{self.path} can't be read: it is the server's memory of what the sites' ledgers showed, without "
                "which a ledger that was put back would not be noticed; restore it from a backup"
            ) from None

    def _remember(self, shown: Shown) -> None:
        self._shown[shown.origin] = shown
        self._ledgers[site_of(shown.origin)] = shown.origin

    def _refuse_other_ledger(self, node: int, found: Shown) -> None:
        """A site has one ledger for ever: another one beside its name would begin at nothing."""
        try:
            checked(found)
        except FedSealError as error:
            raise MalformedReceipt(f"the receipt's checkpoint does not hold: {error}") from None
        for before in (self._of_node.get(node), self._ledgers.get(site_of(found.origin))):
            if before is not None and before != found.origin:
                raise StaleLedger(
                    f"the site shows the ledger {found.origin}, but showed {before} before: a ledger is never begun "
                    "anew. If its keys were lost, the federation decides what that site may still spend"
                )


def _refuse_other_mechanism(expected: Expectation, in_run: Iterable[Reserved]) -> None:
    """Of this run the server counts what its plan asks for, and prices nothing else that a site makes up."""
    for reserved in in_run:
        if reserved.purpose not in expected.prices or reserved.mechanism != expected.prices[reserved.purpose]:
            raise WrongReserve(
                f"the site's ledger reserved {reserved.mechanism} for {reserved.purpose}, but the plan asks for "
                f"{expected.prices.get(reserved.purpose)}"
            )


def _refuse_wrong_reserve(report: Report, entries: Mapping[int, Entry], witnessed: str) -> None:
    address, digest = report.address, report.digest.hex()
    for entry in entries.values():
        if isinstance(entry, Settled) and entry.report == digest:
            reserved = entries.get(entry.reserve)
            if isinstance(reserved, Reserved) and _is_for(reserved, address):
                if (reserved.purpose, reserved.mechanism) != (report.purpose, report.mechanism):
                    raise WrongReserve(
                        f"the site's ledger reserved {reserved.mechanism} for {reserved.purpose}, but its report "
                        f"states {report.mechanism}"
                    )
                if reserved.witnessed != witnessed:
                    raise WrongReserve("the site's ledger witnessed other checkpoints than its order showed")
                return
    raise WrongReserve("the site's ledger does not show that this round was reserved, and this very report settled")


def _is_for(reserved: Reserved, address: Address) -> bool:
    return (reserved.run, reserved.round, reserved.plan) == (address.run, address.round, address.plan)
