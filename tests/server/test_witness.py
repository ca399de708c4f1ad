"""The server as a witness: a site's ledger grows from what it showed, and proves this report, or nothing is added."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from privacy.entries import Reserved
from privacy.errors import (
    ForkedLedger,
    LedgerRolledBack,
    MalformedReceipt,
    OrderRefused,
    ReportRefused,
    StaleLedger,
    WrongReserve,
)
from privacy.shown import Shown
from server.witness import Witness
from tests.privacy.ledger_builders import NOISE, Desk, asked, desk_in, spend
from tests.server.witness_builders import EXPECTED, PLAN, UPDATE, Member, ledger_named


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return desk_in(tmp_path / "desks")


@pytest.fixture
def north(desk: Desk) -> Iterator[Member]:
    with desk.ledger() as ledger:
        yield Member(1, ledger)


def test_an_honest_site_is_admitted_round_after_round_and_each_reserve_is_counted_once(north: Member) -> None:
    witness = Witness()
    for number in range(1, 6):
        spend(north.ledger, range(number, number + 1), "another run")
        assert [(found.run, found.round) for found in north.answer(witness)] == [("1", number)]


def test_reserves_that_came_to_nothing_are_counted_with_the_next_report(north: Member) -> None:
    witness = Witness()
    north.answer(witness)
    north.ledger.reserve(asked(2, plan=PLAN))  # and its process died
    assert [found.round for found in north.answer(witness)] == [2, 2]
    shown = witness.shown_to([1])[1]
    with pytest.raises(WrongReserve):  # its update left the site, and was refused
        witness.judge(1, replace(north.report(shown), update=UPDATE * 2), shown, EXPECTED)
    assert [found.round for found in north.answer(witness)] == [3, 4]


CHANGED: dict[str, Callable[[Reserved], Reserved]] = {
    "other mechanism": lambda asked: asked.model_copy(update={"mechanism": replace(NOISE, noise_multiplier=1.0)}),
    "no mechanism": lambda asked: asked.model_copy(update={"mechanism": None}),
    "for metrics": lambda asked: asked.model_copy(update={"purpose": "metrics"}),
    "other round": lambda asked: asked.model_copy(update={"round": 9}),
    "other plan": lambda asked: asked.model_copy(update={"plan": "ef" * 32}),
    "other run": lambda asked: asked.model_copy(update={"run": "2"}),
    "other witnessed digest": lambda asked: asked.model_copy(update={"witnessed": "1" * 64}),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_reserve_that_is_not_this_reports_is_refused(north: Member, change: str) -> None:
    witness = Witness()
    north.answer(witness)
    shown = witness.shown_to([1])[1]
    with pytest.raises(WrongReserve):
        witness.judge(1, north.report(shown, CHANGED[change]), shown, EXPECTED)


def test_other_update_bytes_site_or_round_than_were_settled_are_refused(north: Member) -> None:
    witness = Witness()
    honest = north.report(())
    for changes in (
        {"update": UPDATE + 1e-6},
        {"update": UPDATE[:2]},
        {"site": "south"},
        {"address": replace(honest.address, round=2)},
        {"address": replace(honest.address, run="2")},
        {"address": replace(honest.address, plan="ef" * 32)},
        {"address": replace(honest.address, layout="ef" * 32)},
        {"mechanism": replace(NOISE, noise_multiplier=1.0)},
    ):
        with pytest.raises(WrongReserve):
            Witness().judge(1, replace(honest, **changes), (), EXPECTED)  # type: ignore[arg-type]
    for number in range(2):
        revealed = (honest.receipt.revealed[number],)
        with pytest.raises(WrongReserve):
            Witness().judge(1, replace(honest, receipt=replace(honest.receipt, revealed=revealed)), (), EXPECTED)
    assert witness.judge(1, honest, (), EXPECTED)


def test_a_replayed_or_older_receipt_is_refused(north: Member) -> None:
    witness = Witness()
    first = north.report(())
    witness.judge(1, first, (), EXPECTED)
    shown = witness.shown_to([1])[1]
    second = north.report(shown)
    witness.judge(1, second, shown, EXPECTED)
    newest = witness.shown_to([1])[1]
    for old in (first, second):
        with pytest.raises(ReportRefused) as told:
            witness.judge(1, old, newest, EXPECTED)
        assert isinstance(told.value, StaleLedger | ForkedLedger | WrongReserve)
    with pytest.raises(StaleLedger, match="4 entries, but it had 6 before"):
        witness.judge(1, first, newest, EXPECTED)
    with pytest.raises(MalformedReceipt, match="did not show"):
        witness.judge(2, second, (), EXPECTED)  # another node carries it
    assert witness.shown_to([1])[1] == newest


def test_of_two_copies_that_went_on_apart_the_second_is_refused_with_both_signed_checkpoints(
    north: Member, desk: Desk
) -> None:
    witness = Witness()
    north.answer(witness)
    shown = witness.shown_to([1])[1]
    with desk.copied("copy.db").ledger() as other:
        copy = Member(1, other, rounds=north.rounds)
        first, second = north.report(shown), copy.report(shown)
        witness.judge(1, first, shown, EXPECTED)
        seen = witness.shown_to([1])[1]
        with pytest.raises(ForkedLedger) as told:
            witness.judge(1, second, seen, EXPECTED)
        assert first.receipt.note in str(told.value)
        assert second.receipt.note in str(told.value)
        with pytest.raises(LedgerRolledBack):  # an honest site stops by itself when it is shown the other
            copy.report(seen)
    south = Member(2, ledger_named("south"), "south")
    south.report((Shown(verifying=second.receipt.verifying, note=second.receipt.note),))
    with pytest.raises(OrderRefused, match="two histories"):
        south.report(seen)


def test_a_forged_signature_and_another_sites_key_are_refused(north: Member) -> None:
    honest = north.report(())
    other = ledger_named("north")
    for receipt in (
        replace(honest.receipt, note=honest.receipt.note[:-8] + "AAAAAA=\n"),
        replace(honest.receipt, verifying=other.receipt("1", 0).verifying),
        replace(honest.receipt, note=other.checkpoint()),
        replace(other.receipt("1", 0), revealed=honest.receipt.revealed),
        replace(honest.receipt, verifying=b"", note=""),
    ):
        with pytest.raises(MalformedReceipt):
            Witness().judge(1, replace(honest, receipt=receipt), (), EXPECTED)


def test_what_a_site_makes_up_beside_its_plan_is_never_priced(north: Member) -> None:
    witness = Witness()
    north.ledger.reserve(asked(1, plan=PLAN, mechanism=replace(NOISE, sample_rate=0.5)))
    report = north.report(())
    with pytest.raises(WrongReserve, match="the plan asks for"):
        witness.judge(1, report, (), EXPECTED)
    assert [found.round for found in north.answer(witness)] == [2]
