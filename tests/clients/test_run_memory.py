"""What a site remembers of a run comes back whole, lies on the disk sealed, and goes when another run comes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients.run_memory import Joined, ProcessMemory, Remembered, SealedMemory
from federation.layout import Layout
from federation.optimizers import ModelState
from federation.shared_model import SharedModel
from privacy.certificates import Trust
from privacy.errors import FedSealError, IdentityRefused, ObjectDamaged, OrderRefused, StorageBusy
from privacy.files import locked
from privacy.safe import Safe
from privacy.secret import Secret
from privacy.vault import Label
from tests.federation.membership_builders import FIRST, LAYOUT, MEMBERS, PLAN, RUN, STRANGER, TRUST, membership
from tests.privacy.vault_builders import flipped, object_file, safe_in, unlocked, writable

NONCE, SECRET = b"a number drawn once, of 32 bytes", b"a secret that the members share."
VECTOR = np.array([1234.5, -0.015625, 3e-8], dtype=np.float32)
MODEL = SharedModel(
    round=4,
    state=ModelState(vector=VECTOR, first=VECTOR * 3, second=VECTOR * 5, average=VECTOR * 7),
    largest=(0.5, 0.25),
    statistics=(1234567.25,),
)
RESIDUAL = VECTOR * 11
ASKED = Remembered(run=RUN, nonce=NONCE, joined=None, model=FIRST)
WHOLE = Remembered(
    run=RUN,
    nonce=NONCE,
    joined=Joined(membership=MEMBERS, secret=Secret(SECRET)),
    model=MODEL,
    residual=RESIDUAL,
)


@pytest.fixture
def safe(tmp_path: Path) -> Safe:
    return safe_in(tmp_path / "north", "north")


def memory(safe: Safe, trust: Trust = TRUST, layout: Layout = LAYOUT) -> SealedMemory:
    """What a process that starts finds."""
    return SealedMemory(safe=unlocked(safe.folder), trust=trust, layout=layout)


def same(found: Remembered | None, right: Remembered) -> bool:
    """Whether nothing was lost, or came from elsewhere."""
    assert found is not None
    assert (found.joined is None) == (right.joined is None)
    if found.joined is not None and right.joined is not None:
        assert found.joined.membership.digest == right.joined.membership.digest
        assert found.joined.secret == right.joined.secret
    assert (found.residual is None) == (right.residual is None)
    if found.residual is not None and right.residual is not None:
        assert found.residual.tobytes() == right.residual.tobytes()
    return (found.run, found.nonce, found.model.digest) == (right.run, right.nonce, right.model.digest)


@pytest.mark.parametrize("right", [ASKED, WHOLE, replace(WHOLE, residual=None), replace(WHOLE, joined=None)])
def test_a_site_whose_process_ended_knows_what_it_knew(safe: Safe, right: Remembered) -> None:
    memory(safe).write(right)
    assert same(memory(safe).read(RUN), right)


def test_a_site_that_was_never_asked_knows_nothing(safe: Safe) -> None:
    assert memory(safe).read(RUN) is None
    memory(safe).write(WHOLE)
    assert memory(safe).read("78") is None


def test_each_step_of_a_run_is_known_to_the_next_process(safe: Safe) -> None:
    steps = [
        ASKED,
        replace(ASKED, joined=WHOLE.joined),
        replace(ASKED, joined=WHOLE.joined, residual=RESIDUAL),
        replace(ASKED, joined=WHOLE.joined, residual=RESIDUAL, model=MODEL),
        replace(WHOLE, joined=Joined(membership=membership(epoch=2), secret=Secret(SECRET[::-1]))),
    ]
    for step in steps:
        own = memory(safe)
        own.read(RUN)
        own.write(step)
        assert same(own.read(RUN), step)
        assert same(memory(safe).read(RUN), step)


def test_one_process_goes_through_all_steps_as_well(safe: Safe) -> None:
    own = memory(safe)
    for step in (ASKED, replace(ASKED, joined=WHOLE.joined), WHOLE, replace(WHOLE, model=FIRST)):
        own.write(step)
        assert same(memory(safe).read(RUN), step)


def test_a_residual_that_was_dropped_does_not_come_back_with_the_next_process(safe: Safe) -> None:
    own = memory(safe)
    own.write(WHOLE)
    own.write(replace(WHOLE, residual=None))
    assert same(memory(safe).read(RUN), replace(WHOLE, residual=None))


def test_only_the_newest_run_is_kept(safe: Safe) -> None:
    for run in ("7", "77", "177", "78"):
        memory(safe).write(replace(WHOLE, run=run))
        assert [label.name for label in safe.vault.list("run")] == [
            f"member.run-{run}",
            f"model.run-{run}",
            f"residual.run-{run}",
        ]
    assert memory(safe).read("77") is None
    assert same(memory(safe).read("78"), replace(WHOLE, run="78"))


def test_another_run_in_the_same_process_does_not_inherit_what_was_known(safe: Safe) -> None:
    own = memory(safe)
    own.write(WHOLE)
    other = Remembered(run="78", nonce=NONCE[::-1], joined=None, model=FIRST)
    assert own.read("78") is None
    own.write(other)
    assert own.read(RUN) is None
    assert same(memory(safe).read("78"), other)


def test_nothing_of_it_can_be_read_on_the_disk(safe: Safe) -> None:
    memory(safe).write(WHOLE)
    state = MODEL.state
    hidden = [NONCE, SECRET, NONCE.hex().encode(), SECRET.hex().encode(), MEMBERS.digest.encode(), b"1234567.25"]
    hidden += [part.tobytes() for part in (state.vector, state.first, state.second, state.average, RESIDUAL)]
    hidden += [b"membership", b"east", b"hospitals"]
    files = [path for path in safe.folder.rglob("*") if path.is_file()]
    assert len(files) >= 7
    for path in files:
        found = path.read_bytes()
        assert [secret for secret in hidden if secret in found] == [], path
    assert same(memory(safe).read(RUN), WHOLE)


@pytest.mark.parametrize("what", ["member", "model", "residual"])
def test_a_changed_byte_is_noticed(safe: Safe, what: str) -> None:
    memory(safe).write(WHOLE)
    path = object_file(safe.vault, Label("run", f"{what}.run-{RUN}"))
    for position in range(0, path.stat().st_size, 97):
        with writable(path) as handle, flipped(handle, position), pytest.raises(FedSealError):
            memory(safe).read(RUN)
    assert same(memory(safe).read(RUN), WHOLE)


def test_what_was_known_of_one_run_does_not_open_as_that_of_another(safe: Safe) -> None:
    memory(safe).write(WHOLE)
    for what in ("member", "model"):
        path = object_file(safe.vault, Label("run", f"{what}.run-{RUN}"))
        path.rename(path.with_name(path.name.replace(f"run-{RUN}", "run-78")))
    with pytest.raises(ObjectDamaged, match="changed, cut, or moved here"):
        memory(safe).read("78")


def test_a_model_of_another_task_is_not_gone_on_with(safe: Safe) -> None:
    memory(safe).write(WHOLE)
    with pytest.raises(ObjectDamaged, match=f"remembers of run {RUN} can't be read"):
        memory(safe, layout=Layout(names=("weight",), shapes=((4,),))).read(RUN)


def test_a_membership_is_believed_again_only_under_the_trusted_authority(safe: Safe) -> None:
    memory(safe).write(WHOLE)
    with pytest.raises(IdentityRefused, match="not signed by the authority"):
        memory(safe, trust=STRANGER.trust()).read(RUN)


def test_while_another_process_changes_the_safe_nothing_is_remembered(safe: Safe) -> None:
    own = memory(safe)
    own.write(ASKED)
    with locked(safe.folder), pytest.raises(StorageBusy):
        own.write(WHOLE)
    assert same(own.read(RUN), ASKED)
    assert same(memory(safe).read(RUN), ASKED)


@pytest.mark.parametrize("run", ["", "..", "../77", "77/..", "7 7", "-1", "७७", "run", "\ud800", "9" * 21])
def test_a_run_whose_id_is_none_of_flowers_is_refused(safe: Safe, run: str) -> None:
    with pytest.raises(OrderRefused, match="whose id is no whole number"):
        memory(safe).read(run)
    with pytest.raises(OrderRefused, match="whose id is no whole number"):
        memory(safe).write(replace(ASKED, run=run))
    assert safe.vault.list("run") == []


def test_the_largest_id_of_flower_is_one(safe: Safe) -> None:
    run = str(2**64 - 1)
    memory(safe).write(replace(ASKED, run=run))
    assert same(memory(safe).read(run), replace(ASKED, run=run))


def test_simulated_sites_that_hold_the_same_model_share_it() -> None:
    memories = [ProcessMemory(), ProcessMemory()]
    for each in memories:
        fresh = FIRST.advanced(VECTOR, PLAN, LAYOUT)
        each.write(replace(WHOLE, model=fresh))
    first, second = (each.read(RUN) for each in memories)
    assert first is not None
    assert second is not None
    assert first.model is second.model
    assert same(first, replace(WHOLE, model=second.model))


def test_a_simulated_site_forgets_other_runs_too() -> None:
    own = ProcessMemory()
    assert own.read(RUN) is None
    own.write(WHOLE)
    assert own.read("78") is None
    own.write(replace(ASKED, run="78"))
    assert own.read(RUN) is None
