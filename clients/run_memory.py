"""What a site remembers of an encrypted run between messages: that it asked to take part, the run secret, the model.

A deployed site keeps it sealed in its safe, because Flower starts a process for each message; a simulated one in its
process, where sites that hold the same model share it. Only the newest run is kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Protocol
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from federation.layout import Layout
from federation.membership import Membership
from federation.shared_model import SharedModel
from federation.tensors import pieces, views
from privacy.certificates import Trust
from privacy.errors import DataInvalid, ObjectDamaged, ObjectMissing, OrderRefused
from privacy.safe import Safe
from privacy.secret import Secret
from privacy.vault import Label, Vault

_MEMBER, _MODEL, _RESIDUAL = "member", "model", "residual"
_LONGEST_RUN = 20  # digits of a number of 64 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A membership that the site accepted, and its secret."""

    membership: Membership
    secret: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What a site knows of one run.

    nonce:    what it drew when it asked to take part, 32 bytes
    joined:   None until the members have a secret
    model:    what the site holds
    residual: what rounding left out of its last update, (P,); None where the plan does not feed it back
    told:     the last round whose metrics it told the server
    """

    run: str
    nonce: bytes
    joined: Joined | None
    model: SharedModel
    residual: NDArray[np.float32] | None = None
    told: int = 0


class RunMemory(Protocol):
    """Where it is remembered."""

    def read(self, run: str) -> Remembered | None:
        """What is known of this run; None: nothing."""

    def write(self, remembered: Remembered) -> None:
        """Remembers this, and forgets other runs. Raises StorageFailed, StorageBusy."""


_HELD: WeakValueDictionary[str, SharedModel] = WeakValueDictionary()


@dataclass(slots=True)
class ProcessMemory:
    """The memory of a simulated site: gone with the process."""

    known: Remembered | None = None

    def read(self, run: str) -> Remembered | None:
        """What is known of this run."""
        return self.known if self.known is not None and self.known.run == run else None

    def write(self, remembered: Remembered) -> None:
        """Remembers this, its model shared with the other sites of the process that hold the same."""
        shared = _HELD.setdefault(remembered.model.digest, remembered.model)
        self.known = replace(remembered, model=shared)


@dataclass(slots=True, kw_only=True)
class SealedMemory:
    """The memory of a deployed site, in its safe.

    trust: under which a remembered membership is read again
    """

    safe: Safe
    trust: Trust
    layout: Layout
    _known: Remembered | None = field(default=None, init=False)

    def read(self, run: str) -> Remembered | None:
        """What is known of this run, from the safe where this process did not learn it itself.

        Raises:
            ObjectDamaged, KeyRefused: it does not open.
        """
        if self._known is None or self._known.run != run:
            self._known = self._opened(run)
        return self._known

    def write(self, remembered: Remembered) -> None:
        """Seals what changed since it was read or written; durable when it returns."""
        before, run = self._known, _name(remembered.run)
        same = before if before is not None and before.run == remembered.run else None
        with self.safe.changing() as vault:
            if same is None or same.model is not remembered.model:
                vault.seal(Label("run", f"{_MODEL}.{run}"), remembered.model.pieces())
            if remembered.residual is not None:
                residual = {_RESIDUAL: torch.from_numpy(remembered.residual)}
                vault.seal(Label("run", f"{_RESIDUAL}.{run}"), pieces(residual))
            elif (old := Label("run", f"{_RESIDUAL}.{run}")) in vault.list("run"):
                vault.delete(old)
            if same is None or same.joined is not remembered.joined or same.told != remembered.told:
                vault.seal(Label("run", f"{_MEMBER}.{run}"), [_member_text(remembered)])
            _forget_others(vault, run)
        self._known = remembered

    def _opened(self, run: str) -> Remembered | None:
        vault, name = self.safe.vault, _name(run)
        try:
            member = json.loads(bytes(vault.open(Label("run", f"{_MEMBER}.{name}"))))
            model = SharedModel.read(vault.open(Label("run", f"{_MODEL}.{name}")), self.layout)
        except ObjectMissing:
            return None
        except (DataInvalid, ValueError):
            raise ObjectDamaged(f"what {self.safe.folder} remembers of run {run} can't be read") from None
        joined = None
        if member["membership"] is not None:
            membership = Membership.read(member["membership"], self.trust)
            joined = Joined(membership=membership, secret=Secret(bytes.fromhex(member["secret"])))
        return Remembered(
            run=run,
            nonce=bytes.fromhex(member["nonce"]),
            joined=joined,
            model=model,
            residual=_residual(vault, name),
            told=int(member["told"]),
        )


def _member_text(remembered: Remembered) -> bytes:
    joined = remembered.joined
    return json.dumps(
        {
            "nonce": remembered.nonce.hex(),
            "membership": None if joined is None else joined.membership.to_text(),
            "secret": None if joined is None else joined.secret.reveal().hex(),
            "told": remembered.told,
        }
    ).encode()


def _residual(vault: Vault, name: str) -> NDArray[np.float32] | None:
    try:
        tensors, _ = views(vault.open(Label("run", f"{_RESIDUAL}.{name}")))
    except ObjectMissing:
        return None
    return tensors[_RESIDUAL].numpy()


def _forget_others(vault: Vault, run: str) -> None:
    kept = {f"{what}.{run}" for what in (_MEMBER, _MODEL, _RESIDUAL)}
    for label in vault.list("run"):
        if label.name not in kept:
            vault.delete(label)


def _name(run: str) -> str:
    """A run's id, as an object can be called.

    Raises:
        OrderRefused: it is none of Flower's, which are whole numbers.
    """
    if not (run.isascii() and run.isdecimal() and len(run) <= _LONGEST_RUN):
        raise OrderRefused("the order is for a run whose id is no whole number of at most 20 digits")
    return f"run-{run}"
