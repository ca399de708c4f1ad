"""The server's memory of the sites' ledgers: over runs, processes, damage and large federations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from privacy.errors import (
    ForkedLedger,
    LedgerRolledBack,
    MalformedReceipt,
    RunFailed,
    StaleLedger,
)
from server.witness import Witness
from tests.privacy.ledger_builders import Desk, desk_in, refusal
from tests.privacy.vault_builders import in_child
from tests.server.witness_builders import EXPECTED, Member, ledger_named


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return desk_in(tmp_path / "desks")


@pytest.fixture
def north(desk: Desk) -> Iterator[Member]:
    with desk.ledger() as ledger:
        yield Member(1, ledger)


@pytest.mark.parametrize("node", [1, 2])
def test_a_ledger_begun_anew_under_a_known_name_is_refused_within_a_run_and_in_the_next(
    north: Member, tmp_path: Path, node: int
) -> None:
    path = tmp_path / "server/ledgers.json"
    witness = Witness(path=path)
    north.answer(witness)
    witness.save()
    for server in (witness, Witness(path=path)):
        anew = Member(node, ledger_named("north"))
        with pytest.raises(StaleLedger, match="never begun anew"):
            anew.answer(server)
        north.answer(server)


def test_a_rollback_between_runs_is_noticed_by_another_process_of_the_server(
    north: Member, desk: Desk, tmp_path: Path
) -> None:
    path, copy = tmp_path / "ledgers.json", desk.copied("older.db")

    def first_run() -> None:
        witness = Witness(path=path)
        north.answer(witness)
        witness.save()

    assert in_child(first_run) == 0
    witness = Witness(path=path)
    with copy.ledger() as other:
        older = Member(1, other, run="2")
        with pytest.raises(LedgerRolledBack):
            older.answer(witness)
        report = older.report((), known=0)  # of a site that does not look
        with pytest.raises(ForkedLedger):
            witness.judge(1, report, witness.shown_to([1])[1], EXPECTED)
    north.run, north.rounds = "2", 0
    assert north.answer(Witness(path=path))


def test_a_damaged_memory_stops_the_run(north: Member, tmp_path: Path) -> None:
    path = tmp_path / "ledgers.json"
    witness = Witness(path=path)
    north.answer(witness)
    witness.save()
    content = path.read_bytes()
    wounded = [
        content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        for position in range(len(content))
    ]
    for damaged in (b"", b"{}x", b"[1]", b"null", b"[" * 100_000, content[:-3], *wounded):
        path.write_bytes(damaged)
        error = refusal(lambda: Witness(path=path).shown_to([1]) != witness.shown_to([1]) and 1 / 0)
        assert error is None or (isinstance(error, RunFailed) and "restore it from a backup" in str(error))
    path.write_bytes(content)
    assert Witness(path=path).shown_to([1]) == witness.shown_to([1])


def test_a_run_beside_another_does_not_write_the_memory_back(north: Member, tmp_path: Path) -> None:
    path = tmp_path / "ledgers.json"
    slow = Witness(path=path)
    north.answer(slow)
    slow.save()
    fast = Witness(path=path)
    north.answer(fast)
    fast.save()
    slow.save()
    assert Witness(path=path).shown_to([1]) == fast.shown_to([1])


def test_sites_of_a_large_federation_are_known_again_in_its_next_run(tmp_path: Path) -> None:
    path = tmp_path / "ledgers.json"
    members = [Member(node, ledger_named(f"site-{node}"), f"site-{node}") for node in range(140)]
    for run in ("1", "2"):
        witness = Witness(path=path)
        for member in members:
            member.run, member.rounds = run, 0
        for _ in range(2):
            everyone = witness.shown_to(range(140))
            reports = {member.node: member.report(everyone[member.node]) for member in members}
            for member in members:
                witness.judge(member.node, reports[member.node], everyone[member.node], EXPECTED)
        witness.save()
    assert all(len(shown) == 5 for shown in witness.shown_to(range(140)).values())


def test_a_site_of_a_large_federation_under_a_new_number_is_asked_again_and_not_accused(tmp_path: Path) -> None:
    witness = Witness()
    members = [Member(node, ledger_named(f"site-{node}"), f"site-{node}") for node in range(140)]
    for member in members:
        witness.judge(member.node, member.report(()), (), EXPECTED)
    moved = members[77]
    moved.node = 1077
    with pytest.raises(MalformedReceipt, match="its next order will"):
        moved.answer(witness)
    assert moved.answer(witness)
