"""A model at rest: what was kept is what opens, the newest two rounds stay, and no round opens as another."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from federation.checkpoints import Checkpoint, keep, newest, notes_of, opened
from privacy.errors import DataInvalid, EpochRetired, ObjectDamaged, ObjectMissing, StorageFailed
from privacy.vault import Label, Vault
from tests.client_builders import PLAIN, plan
from tests.privacy.disk_builders import never, nth, recorded
from tests.privacy.vault_builders import content, every_death, object_file, vault_in


def checkpoint(value: float, **notes: str) -> Checkpoint:
    """A model of two tensors and a state of one, all of this value."""
    model = {"layer.weight": torch.full((2, 3), value), "layer.bias": torch.full((), value)}
    return Checkpoint(model=model, state={"vector": torch.full((7,), value, dtype=torch.float64)}, notes=notes)


def kept(vault: Vault, name: str = "heart") -> list[int]:
    return [label.version for label in vault.list("model") if label.name == name]


def values(tensors: Mapping[str, Tensor]) -> dict[str, list[object]]:
    return {name: [tensor.dtype, tuple(tensor.shape), tensor.tolist()] for name, tensor in tensors.items()}


def test_what_was_kept_opens_with_its_state_and_notes(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    held = checkpoint(0.5, task="task:task", round="3")
    keep(vault, "heart", 3, held)
    found = opened(vault, Label("model", "heart", 3))
    assert values(found.model) == values(held.model)
    assert values(found.state) == values(held.state)
    assert found.notes == {"task": "task:task", "round": "3"}


def test_a_model_whose_tensors_are_called_like_the_state_is_not_mixed_up_with_it(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    names = ("state/w", "model/w", "model/", "w", "__metadata__")
    model = {name: torch.tensor(number) for number, name in enumerate(names)}
    keep(vault, "heart", 1, Checkpoint(model=model, state={"w": torch.tensor(9), "model/w": torch.tensor(8)}, notes={}))
    found = opened(vault, Label("model", "heart", 1))
    assert {name: int(tensor) for name, tensor in found.model.items()} == dict(zip(names, range(5), strict=True))
    assert {name: int(tensor) for name, tensor in found.state.items()} == {"w": 9, "model/w": 8}


def test_a_checkpoint_without_state_and_notes_opens(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    keep(vault, "heart", 1, Checkpoint(model={"w": torch.zeros(0, 3)}, state={}, notes={}))
    found = opened(vault, newest(vault))
    assert (tuple(found.model["w"].shape), found.state, found.notes) == ((0, 3), {}, {})


def test_the_newest_two_rounds_are_kept(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    seen = []
    for number in (1, 2, 3, 9, 10, 11):
        keep(vault, "heart", number, checkpoint(number))
        seen.append(kept(vault))
    assert seen == [[1], [1, 2], [2, 3], [3, 9], [9, 10], [10, 11]]
    assert float(opened(vault, newest(vault)).model["layer.bias"]) == 11.0


def test_models_of_other_names_are_left_alone(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    for name in ("heart", "heart-2", "lung"):
        for number in (1, 2):
            keep(vault, name, number, checkpoint(1))
    keep(vault, "heart", 3, checkpoint(1))
    assert (kept(vault), kept(vault, "heart-2"), kept(vault, "lung")) == ([2, 3], [1, 2], [1, 2])


def test_nothing_but_models_is_deleted(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    others = [Label("rows", "heart", 0), Label("data-set", "heart"), Label("identity", "own")]
    for label in others:
        vault.seal(label, [b"precious"])
    for number in range(4):
        keep(vault, "heart", number, checkpoint(1))
    assert [vault.open(label) for label in others] == [b"precious"] * 3


def test_the_newest_is_the_highest_round_and_not_the_last_by_spelling(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    for number in (9, 10):
        keep(vault, "heart", number, checkpoint(1))
    assert newest(vault) == Label("model", "heart", 10)


def test_where_no_model_is_kept_there_is_no_newest(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    for _ in range(2):
        with pytest.raises(ObjectMissing, match="holds no model: no round was finished"):
            newest(vault)
        vault.seal(Label("rows", "heart"), [b"no model"])


def test_a_round_that_is_not_kept_does_not_open(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    for number in (1, 2, 3):
        keep(vault, "heart", number, checkpoint(1))
    with pytest.raises(ObjectMissing, match="model/heart/1"):
        opened(vault, Label("model", "heart", 1))


def test_yesterdays_model_under_todays_name_is_refused(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    for number in (4, 5):
        keep(vault, "heart", number, checkpoint(number))
    keep(vault, "lung", 5, checkpoint(50))
    today = Label("model", "heart", 5)
    for stolen in (Label("model", "heart", 4), Label("model", "lung", 5)):
        object_file(vault, today).write_bytes(object_file(vault, stolen).read_bytes())
        with pytest.raises(ObjectDamaged):
            opened(vault, today)
    assert float(opened(vault, Label("model", "heart", 4)).model["layer.bias"]) == 4.0


def test_a_full_disk_leaves_the_earlier_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = vault_in(tmp_path)
    for number in (1, 2):
        keep(vault, "heart", number, checkpoint(number))
    tape = recorded(monkeypatch)
    for act in ("write", "replace"):
        tape.failing = nth(act, 0, errno.ENOSPC)
        with pytest.raises(StorageFailed, match="make room"):
            keep(vault, "heart", 3, checkpoint(3))
        assert kept(vault) == [1, 2]
    tape.failing = never
    assert float(opened(vault, newest(vault)).model["layer.bias"]) == 2.0
    keep(vault, "heart", 3, checkpoint(3))
    assert kept(vault) == [2, 3]


def test_killed_at_any_act_the_newest_model_opens_and_the_next_round_tidies_up(tmp_path: Path) -> None:
    vaults: list[Vault] = []

    def third_round(death: int) -> Callable[[], None]:
        vaults.append(vault_in(tmp_path / str(death)))
        for number in (1, 2):
            keep(vaults[-1], "heart", number, checkpoint(number))
        return lambda: keep(vaults[-1], "heart", 3, checkpoint(3))

    for _ in every_death(third_round):
        vault = vaults[-1]
        assert kept(vault) in ([1, 2], [1, 2, 3], [2, 3])
        label = newest(vault)
        assert float(opened(vault, label).model["layer.bias"]) == label.version
        keep(vault, "heart", 4, checkpoint(4))
        assert kept(vault)[-1] == 4
        assert len(kept(vault)) == 2


def test_a_shredded_model_is_gone_for_ever(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    keep(vault, "heart", 1, checkpoint(1))
    stolen = object_file(vault, Label("model", "heart", 1)).read_bytes()
    vault.shred("model")
    object_file(vault, Label("model", "heart", 1)).write_bytes(stolen)
    with pytest.raises(EpochRetired):
        opened(vault, Label("model", "heart", 1))
    keep(vault, "heart", 1, checkpoint(2))
    assert float(opened(vault, newest(vault)).model["layer.bias"]) == 2.0


def test_an_object_that_is_no_model_is_refused_as_damaged_data(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    vault.seal(Label("model", "heart", 1), [content(100)])
    with pytest.raises(DataInvalid, match="no safetensors"):
        opened(vault, newest(vault))


def test_weights_are_nowhere_in_the_file(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    weights = torch.arange(1000.0)
    keep(vault, "heart", 1, Checkpoint(model={"w": weights}, state={"first": -weights}, notes={"secret": "note"}))
    lying = object_file(vault, Label("model", "heart", 1)).read_bytes()
    for part in (weights.numpy()[7:9].tobytes(), (-weights).numpy()[7:9].tobytes(), b"secret", b"model/w", b"state/"):
        assert part not in lying


def test_notes_say_what_is_needed_to_build_the_model_again() -> None:
    agreed = plan({**PLAIN, "task": "hearts:task", "name": "hearts", "seed": 7})
    assert notes_of(agreed, "17", 3) == {
        "task": "hearts:task",
        "name": "hearts",
        "plan_hash": agreed.digest,
        "seed": "7",
        "run": "17",
        "round": "3",
    }
