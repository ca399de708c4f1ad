"""Models outside of vaults: written in the clear on purpose, and read from wherever a person has one.

A model is named by a run's folder, a safe (a site's, or a run's `vault/`), or a safetensors file. Reading a sealed one
needs its key; a file in the clear needs nothing, which is why only a person's own command writes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from federation.checkpoints import newest, opened
from federation.layout import Layout
from federation.seeding import first_model
from federation.task import Task, informed, load_task
from federation.tensors import pieces, views
from privacy import files
from privacy.errors import DataInvalid, ObjectMissing
from privacy.safe import Safe, is_safe
from privacy.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model's named tensors, and the notes that lie with them: task, name, plan_hash, seed, run, round."""

    tensors: Mapping[str, Tensor]
    notes: Mapping[str, str]

    def task(self, app: Path | None) -> Task:
        """The task that was trained, looked for in the app's folder first.

        Raises:
            TaskInvalid: it can't be loaded.
            DataInvalid: the notes name none.
        """
        if "task" not in self.notes:
            raise DataInvalid("the model's file does not say which task it belongs to: it is not of FedSeal's making")
        return informed(load_task(self.notes["task"], app), self._statistics())

    def _statistics(self) -> tuple[float, ...]:
        """What the run learned of the sites' records, by which rows are prepared."""
        try:
            values = json.loads(self.notes.get("statistics", "[]"))
            return tuple(float(value) for value in values)
        except (ValueError, TypeError, RecursionError):
            raise DataInvalid("the model's file holds statistics that are no numbers: it was changed") from None

    def _seed(self) -> int:
        """The plan's seed, from which what does not travel (frozen parameters) is drawn."""
        seed = self.notes.get("seed", "0")
        if not seed.isdecimal() or len(seed) > 19 or int(seed) >= 2**63:
            raise DataInvalid("the model's file names a seed that no plan has: it was changed")
        return int(seed)

    def module(self, task: Task) -> nn.Module:
        """The task's model with these tensors, in evaluation mode.

        Raises:
            DataInvalid: the tensors are not this model's.
        """
        model = first_model(task, self._seed())
        layout = Layout.of(model)
        wanted = dict(zip(layout.names, layout.shapes, strict=True))
        found = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        if wanted != found:
            raise DataInvalid(f"the task's model has tensors {wanted}, the stored one {found}: it is another task's")
        vector = torch.cat([self.tensors[name].reshape(-1).float() for name in layout.names]).numpy()
        layout.load(model, vector)
        return model.eval()


def read_model(path: Path, passphrase: Callable[[], Secret], round_number: int | None = None) -> StoredModel:
    """The model that `path` names: a run's folder, a safe, or a safetensors file.

    round_number: which of the kept rounds; None: the last

    Raises:
        DataInvalid: there is no model.
        ObjectMissing, ObjectDamaged, KeyRefused: it does not open.
    """
    folder = path / "vault" if is_safe(path / "vault") else path
    if is_safe(folder):
        return _sealed(Safe.unlock(folder, passphrase), round_number)
    if path.is_dir() and (path / "model.safetensors").is_file():
        path = path / "model.safetensors"
    try:
        tensors, notes = views(memoryview(bytearray(path.read_bytes())))
    except OSError:
        raise DataInvalid(
            f"{path} holds no model that can be opened: name a run's folder, a site's folder, or a .safetensors file "
            "(a run without --key-file threw its key away, and kept only what it exported)"
        ) from None
    if round_number is not None and notes.get("round") != str(round_number):
        raise ObjectMissing(f"{path} holds round {notes.get('round', 'unknown')}, not round {round_number}")
    return StoredModel(tensors=tensors, notes=notes)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Writes a model in the clear, readable by its owner only."""
    files.make_folder(path.parent)
    with files.replacing(path) as draft:
        for piece in pieces(tensors, notes):
            draft.write(piece)


def _sealed(safe: Safe, round_number: int | None) -> StoredModel:
    label = newest(safe.vault)
    if round_number is not None:
        kept = {found.version: found for found in safe.vault.list("model") if found.name == label.name}
        if round_number not in kept:
            rounds = ", ".join(map(str, kept))
            raise ObjectMissing(f"round {round_number} of {label.name} is not kept; kept are: {rounds}")
        label = kept[round_number]
    checkpoint = opened(safe.vault, label)
    return StoredModel(tensors=checkpoint.model, notes=checkpoint.notes)
