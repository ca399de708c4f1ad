"""Models at rest: named tensors and notes as safetensors, sealed in a vault, the newest two kept.

A checkpoint is one object a round, streamed tensor by tensor; the round is its version, so that a file of one round
does not open as another. Who deletes the newest file brings back the one before: the order of rounds is for the ledger
and the run's own record to tell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from federation.plan import Plan
from federation.tensors import pieces, views
from privacy.errors import ObjectMissing
from privacy.vault import Label, Vault

MODEL, STATE = "model/", "state/"
_KEPT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One round's model.

    model: the named tensors that travel, as `federation.layout.travelling_tensors` names them
    state: what else is needed to go on, e.g. the server's next vector and moments
    notes: task, plan and round in words
    """

    model: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    notes: Mapping[str, str]


def notes_of(plan: Plan, run: str, round_number: int, statistics: tuple[float, ...] = ()) -> dict[str, str]:
    """What is written beside a model, sealed or exported: enough to build it, and to prepare rows for it, again."""
    return {
        "task": plan.task,
        "name": plan.name,
        "plan_hash": plan.digest,
        "seed": str(plan.seed),
        "run": run,
        "round": str(round_number),
        **({"statistics": json.dumps(statistics)} if statistics else {}),
    }


def keep(vault: Vault, name: str, round_number: int, checkpoint: Checkpoint) -> None:
    """Seals a round's checkpoint, then deletes all but the newest two of that name. Needs the vault's lock.

    Raises:
        StorageFailed: the disk refused; the earlier checkpoints stand.
    """
    tensors = {MODEL + key: tensor for key, tensor in checkpoint.model.items()}
    tensors |= {STATE + key: tensor for key, tensor in checkpoint.state.items()}
    vault.seal(Label("model", name, round_number), pieces(tensors, checkpoint.notes))
    for old in _rounds(vault, name)[:-_KEPT]:
        vault.delete(Label("model", name, old))


def newest(vault: Vault) -> Label:
    """The highest round of the model that the vault holds; of several models, the last by name.

    Raises:
        ObjectMissing: it holds none.
    """
    labels = vault.list("model")
    if not labels:
        raise ObjectMissing(f"{vault.folder} holds no model: no round was finished, or models were deleted")
    return labels[-1]


def opened(vault: Vault, label: Label) -> Checkpoint:
    """The checkpoint of a label.

    Raises:
        ObjectMissing, ObjectDamaged, KeyRefused: it does not open.
    """
    tensors, notes = views(vault.open(label))
    return Checkpoint(model=_under(MODEL, tensors), state=_under(STATE, tensors), notes=notes)


def _rounds(vault: Vault, name: str) -> list[int]:
    return [label.version for label in vault.list("model") if label.name == name]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
