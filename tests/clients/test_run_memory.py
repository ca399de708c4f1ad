"""What a deployed site remembers of an encrypted run: sealed, over processes, and of the newest run only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from clients.run_memory import Joined, ProcessMemory, Remembered, SealedMemory
from federation.layout import Layout
from federation.shared_model import SharedModel
from privacy.errors import ObjectDamaged
from privacy.secret import Secret
from tests.client_builders import plan
from tests.federation.membership_builders import AUTHORITY, membership
from tests.privacy.vault_builders import object_file, safe_in

LAYOUT = Layout.of(nn.Linear(2, 2))
MODEL = SharedModel.start(np.linspace(0.1, 0.6, 6, dtype=np.float32), plan({}))
SECRET = Secret(bytes(range(100, 132)))
KNOWN = Remembered(
    run="7",
    nonce=b"n" * 32,
    joined=Joined(membership=membership(), secret=SECRET),
    model=MODEL,
    residual=np.full(6, 0.015625, np.float32),
)


def memory(folder: Path) -> SealedMemory:
    from privacy.passphrases import nobody_to_ask
    from privacy.safe import Safe

    home = folder / "north"
    safe = Safe.unlock(home, nobody_to_ask) if home.exists() else safe_in(home, "north")
    return SealedMemory(safe=safe, trust=AUTHORITY.trust(), layout=LAYOUT)


def test_another_process_remembers_what_this_one_wrote(tmp_path: Path) -> None:
    memory(tmp_path).write(KNOWN)
    found = memory(tmp_path).read("7")
    assert found is not None
    assert found.joined is not None
    assert found.residual is not None
    assert (found.nonce, found.model.digest) == (KNOWN.nonce, MODEL.digest)
    assert found.joined.secret == SECRET
    assert found.joined.membership.digest == membership().digest
    assert found.residual.tolist() == [0.015625] * 6


def test_a_wish_alone_is_remembered_too(tmp_path: Path) -> None:
    memory(tmp_path).write(replace(KNOWN, joined=None, residual=None))
    found = memory(tmp_path).read("7")
    assert found is not None
    assert found.joined is None
    assert found.residual is None
    assert found.nonce == KNOWN.nonce


def test_only_the_newest_run_is_remembered(tmp_path: Path) -> None:
    kept = memory(tmp_path)
    kept.write(KNOWN)
    kept.write(replace(KNOWN, run="8"))
    assert memory(tmp_path).read("7") is None
    assert memory(tmp_path).read("8") is not None
    assert {label.name.rpartition("run-")[2] for label in kept.safe.vault.list("run")} == {"8"}


def test_nothing_of_it_can_be_read_on_the_disk(tmp_path: Path) -> None:
    memory(tmp_path).write(KNOWN)
    marks = [SECRET.reveal(), SECRET.reveal().hex().encode(), MODEL.state.vector.tobytes()[:8], b"n" * 32, b"6e" * 16]
    content = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(mark in each for mark in marks for each in content)


def test_a_damaged_memory_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    kept = memory(tmp_path)
    kept.write(KNOWN)
    (label,) = [label for label in kept.safe.vault.list("run") if label.name.startswith("member.")]
    path = object_file(kept.safe.vault, label)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ObjectDamaged):
        memory(tmp_path).read("7")


def test_sites_of_one_process_share_a_model_that_they_hold_alike() -> None:
    first, second = ProcessMemory(), ProcessMemory()
    first.write(KNOWN)
    second.write(replace(KNOWN, model=SharedModel.start(MODEL.state.vector.copy(), plan({}))))
    assert first.known is not None
    assert second.known is not None
    assert first.known.model is second.known.model
    assert first.read("8") is None
