"""A signed statement says one thing of one party, and changing a character of it makes it another or none."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.encrypted_orders import Statements, digest_of_cohort, digest_of_statement
from federation.orders import Address
from federation.statements import Statement
from privacy.errors import FedSealError, IdentityRefused
from privacy.identity import Identity
from tests.federation.membership_builders import LAYOUT, MEMBERS, PARTIES, PLAN, RUN, SITES, said

SAID, NORTH = said(), PARTIES["north"].identity.public()
TEXT = SAID.to_text()
FACTS = json.loads(TEXT)
NEST = "[" * 4000


def changed(**changes: object) -> str:
    return json.dumps({**FACTS, **changes})


def test_a_statement_comes_back_from_its_text_and_still_holds() -> None:
    found = Statement.from_text(TEXT)
    assert (found, found.to_text()) == (SAID, TEXT)
    assert digest_of_statement(found) == digest_of_statement(SAID)
    found.verify(NORTH)


def test_a_statement_says_what_its_message_belongs_to() -> None:
    assert SAID.address == Address(run=RUN, round=1, plan=PLAN.digest, layout=LAYOUT.digest)
    assert (SAID.membership, SAID.cohort) == (MEMBERS.digest, digest_of_cohort(SITES))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "report"),
        ("run", "78"),
        ("round", 2),
        ("plan", "b" * 64),
        ("layout", "b" * 64),
        ("membership", "b" * 64),
        ("cohort", "b" * 64),
        ("payload", "b" * 64),
        ("model", "b" * 64),
    ],
)
def test_a_statement_of_which_one_fact_is_changed_is_not_its_signers(name: str, value: object) -> None:
    forged = Statement.from_text(changed(**{name: value}))
    with pytest.raises(IdentityRefused, match="not north's, for this message and purpose"):
        forged.verify(NORTH)


def test_a_statement_in_anothers_name_is_refused() -> None:
    with pytest.raises(IdentityRefused, match="says that 'north' made it, not 'south'"):
        SAID.verify(PARTIES["south"].identity.public())
    renamed = replace(SAID, name="south")
    for identity in (NORTH, PARTIES["south"].identity.public()):
        with pytest.raises(IdentityRefused):
            renamed.verify(identity)
    with pytest.raises(IdentityRefused, match="not north's"):
        SAID.verify(Identity.create("north").public())


def test_facts_do_not_run_into_each_other() -> None:
    moved = replace(SAID, run="7", round=71, plan=PLAN.digest)
    shifted = replace(SAID, run=SAID.run + SAID.plan[:1], plan=SAID.plan[1:])
    for forged in (moved, shifted):
        with pytest.raises(IdentityRefused):
            forged.verify(NORTH)


def test_a_signature_for_another_purpose_is_none() -> None:
    other = PARTIES["north"].identity.sign("enrolment", SAID._message()).hex()
    with pytest.raises(IdentityRefused):
        replace(SAID, signature=other).verify(NORTH)


@pytest.mark.parametrize("signature", ["", "zz", "00" * 64, "é", SAID.signature[2:], SAID.signature + "00"])
def test_what_is_no_signature_does_not_hold(signature: str) -> None:
    with pytest.raises(IdentityRefused, match="not north's"):
        Statement.from_text(changed(signature=signature)).verify(NORTH)


@settings(max_examples=400, deadline=None)
@given(position=st.integers(0, len(TEXT) - 1), character=st.characters(codec="utf-8"))
def test_any_changed_character_is_refused_or_changes_the_digest(position: int, character: str) -> None:
    text = TEXT[:position] + character + TEXT[position + 1 :]
    if text == TEXT:
        return
    try:
        found = Statement.from_text(text)
        found.verify(NORTH)
    except FedSealError:
        return
    assert digest_of_statement(found) != digest_of_statement(SAID)  # a capital in the signature's hexadecimal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "3",
        '"order"',
        "{}",
        NEST,
        "[" * 100_000,
        '{"kind":' * 500,
        "9" * 4000,
        "9" * 4090,
        "1e999",
        "NaN",
        TEXT[:-1],
        changed(more=1),
        changed(padding="0" * 5000),
        json.dumps({name: FACTS[name] for name in FACTS if name != "model"}),
    ],
)
def test_what_is_no_statement_is_refused(text: str) -> None:
    with pytest.raises(IdentityRefused, match="a signed statement can't be read: it was cut or changed"):
        Statement.from_text(text)


@pytest.mark.parametrize("value", [None, 1.5, True, [], {}, ["order"], "\ud800", "9" * 4096])
@pytest.mark.parametrize("name", list(FACTS))
def test_a_fact_of_another_kind_is_refused(name: str, value: object) -> None:
    if name == "signature" and value == "\ud800":
        return
    with pytest.raises(IdentityRefused, match="can't be read"):
        Statement.from_text(changed(**{name: value}))


@pytest.mark.parametrize("kind", ["", "Order", "train", "receipt"])
def test_a_kind_that_nobody_knows_is_refused(kind: str) -> None:
    with pytest.raises(IdentityRefused, match="can't be read"):
        Statement.from_text(changed(kind=kind))


def test_several_statements_come_back_from_one_text() -> None:
    all_said = tuple(said(name) for name in SITES)
    assert Statements.of(all_said).all() == all_said
    assert Statements.of([]).all() == ()


@pytest.mark.parametrize(
    "text", ["", "null", "{}", "3", '"a"', "[", "[" * 100_000, "9" * 5000, "[3]", '["{}"]', "[[]]"]
)
def test_what_are_no_statements_are_refused_by_name(text: str) -> None:
    with pytest.raises(IdentityRefused, match="can't be read: it was cut or changed"):
        Statements(text).all()


def test_a_cohort_is_its_names_one_by_one_in_their_order() -> None:
    cohorts = [SITES, SITES[:3], SITES[::-1], ("eastnorth", "south", "west"), ("east", "north", "southwest"), ()]
    assert len({digest_of_cohort(cohort) for cohort in cohorts}) == len(cohorts)
