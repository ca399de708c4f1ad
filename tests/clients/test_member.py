"""A site believes nobody because the server says so: who orders, with whom it sums, who holds which model."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from clients.run_memory import Joined
from federation.encrypted_orders import Statements, digest_of_cohort
from federation.membership import Membership
from privacy.errors import IdentityRefused, ModelDiffers, OrderRefused
from privacy.identity import Identity
from tests.federation.membership_builders import (
    FIRST,
    JOINED,
    LAYOUT,
    MEMBERS,
    PARTIES,
    PLAN,
    RUN,
    SECRET,
    SERVER,
    SITES,
    STRANGER,
    WISHES,
    CountingMemory,
    confirmations,
    encrypted_plan,
    join_order,
    joined_member,
    member,
    membership,
    party,
    remembered,
    said,
    signed_order,
)

EVE = party("eve")
OTHER_MODEL = FIRST.advanced(np.ones(3, np.float32), PLAN, LAYOUT)


# Who orders


def test_an_order_of_a_certified_server_is_obeyed() -> None:
    for order in (signed_order(), signed_order(cohort=()), join_order()):
        member().refuse_stranger(order)


@pytest.mark.parametrize(
    ("by", "match"),
    [
        (PARTIES["south"], "south is certified as a site of federation 'hospitals', not as a server"),
        (PARTIES["north"], "north is certified as a site"),
        (party("server", "server", STRANGER), "the certificate of server is not signed by the authority"),
    ],
    ids=["another site", "the site itself", "a server of a namesake federation"],
)
def test_an_order_that_no_certified_server_signed_is_refused(by: object, match: str) -> None:
    with pytest.raises(IdentityRefused, match=match):
        member().refuse_stranger(signed_order(by=by))  # type: ignore[arg-type]


def test_an_order_that_a_site_signed_under_the_servers_certificate_is_refused() -> None:
    for name in ("south", "server"):
        by = replace(PARTIES["south"], identity=Identity.from_secret(name, PARTIES["south"].identity.to_secret()))
        with pytest.raises(IdentityRefused):
            member().refuse_stranger(signed_order(by=by, certificate=SERVER.certificate))


def test_another_certified_server_may_not_pass_for_the_one_that_signed() -> None:
    second = party("server-2", "server")
    with pytest.raises(IdentityRefused, match="says that 'server' made it, not 'server-2'"):
        member().refuse_stranger(signed_order(certificate=second.certificate))


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("kind", "release"),
        ("run", "78"),
        ("round", 2),
        ("plan", "b" * 64),
        ("layout", "b" * 64),
        ("membership", "b" * 64),
        ("cohort", digest_of_cohort(SITES[:3])),
    ],
)
def test_an_order_whose_facts_differ_from_what_was_signed_is_refused(fact: str, value: object) -> None:
    order = signed_order()
    statement = replace(order.statement, **{fact: value}).signed(SERVER.identity)  # type: ignore[arg-type]
    with pytest.raises(OrderRefused, match="the server signed another order than the one that came"):
        member().refuse_stranger(replace(order, statement=statement))


def test_an_order_that_was_changed_after_it_was_signed_is_refused() -> None:
    order = signed_order()
    with pytest.raises(IdentityRefused, match="not server's, for this message and purpose"):
        member().refuse_stranger(replace(order, statement=replace(order.statement, round=2)))


def test_an_order_under_another_plan_is_refused() -> None:
    other = encrypted_plan(rounds=99).digest
    with pytest.raises(OrderRefused, match=f"under plan {other[:12]}…, the run's settings are plan {PLAN.digest[:12]}"):
        member().refuse_stranger(signed_order(plan=other))


# With whom it sums


@pytest.mark.parametrize(
    ("cohort", "match"),
    [
        (("east", "south", "west"), "or not this site"),
        (("east", "north", "south", "eve"), "one that is no member"),
        (("east", "north", "north"), "names a site twice"),
        (("east", "north", "south", "south"), "names a site twice"),
        ((), "or not this site"),
        (("north",), "has 1 sites: a sum of fewer than 3 tells a member"),
        (("north", "south"), "has 2 sites: a sum of fewer than 3 tells a member the others' updates"),
    ],
    ids=["without this site", "a stranger", "twice this site", "twice another", "nobody", "alone", "two"],
)
def test_a_cohort_in_which_somebody_could_be_read_is_refused(cohort: tuple[str, ...], match: str) -> None:
    with pytest.raises(OrderRefused, match=match):
        joined_member().refuse_cohort(signed_order(cohort=cohort), JOINED)


def test_cohorts_of_three_and_of_all_members_are_summed() -> None:
    for cohort in (SITES, ("north", "south", "west")):
        joined_member().refuse_cohort(signed_order(cohort=cohort), JOINED)


@pytest.mark.parametrize(("bits", "most"), [(16, 65), (14, 4161)])
def test_a_cohort_beyond_what_the_encryption_adds_exactly_is_refused(bits: int, most: int) -> None:
    """65 and 4,161: the largest n for which 31.5 n stays below q / (2 t), q of 60 bits and t of 48 or 42."""
    names = (*(f"s{number}" for number in range(most)), "north")
    wishes = dict.fromkeys(names, WISHES["north"])
    many = Joined(membership=Membership(run=RUN, plan=PLAN.digest, epoch=1, members=wishes), secret=SECRET)
    site = member(plan=encrypted_plan(encryption__bits=bits))
    site.refuse_cohort(replace(signed_order(), cohort=names[1:]), many)
    with pytest.raises(OrderRefused, match=f"has {most + 1} sites.* adds at most {most} exactly"):
        site.refuse_cohort(replace(signed_order(), cohort=names), many)


# Who holds which model


def test_confirmations_of_three_members_are_enough() -> None:
    for names in (SITES, SITES[:3], ("east", "north", "south")):
        joined_member().refuse_other_model(FIRST, confirmations(names=names), JOINED)


def test_confirmations_of_another_model_are_refused() -> None:
    statements = Statements.of([said("east"), said("north"), said("south", model=OTHER_MODEL.digest)])
    with pytest.raises(ModelDiffers, match="south holds another model than this site"):
        joined_member().refuse_other_model(FIRST, statements, JOINED)
    with pytest.raises(ModelDiffers, match="east holds another model"):
        joined_member().refuse_other_model(OTHER_MODEL, confirmations(), JOINED)


@pytest.mark.parametrize(
    "names", [(), ("north",), ("north", "south"), ("south", "south", "south"), ("east", "east", "west")]
)
def test_confirmations_of_too_few_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ModelDiffers, match=f"only {len(set(names))} members confirm the model of round 0"):
        joined_member().refuse_other_model(FIRST, confirmations(names=names), JOINED)


def test_a_confirmation_that_another_signed_is_refused() -> None:
    impostor = party("west")
    for by in (PARTIES["south"], impostor, EVE, SERVER):
        statements = Statements.of([said("east"), said("north"), said("west", by=by)])
        with pytest.raises(IdentityRefused, match="not west's, for this message and purpose"):
            joined_member().refuse_other_model(FIRST, statements, JOINED)


def test_a_strangers_confirmation_is_refused() -> None:
    statements = Statements.of([said("east"), said("north"), said("eve", by=EVE)])
    with pytest.raises(OrderRefused, match="'eve' signed a statement, but is no member of this run"):
        joined_member().refuse_other_model(FIRST, statements, JOINED)


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("kind", "report"),
        ("kind", "handover"),
        ("run", "78"),
        ("plan", "b" * 64),
        ("layout", "b" * 64),
        ("membership", membership(epoch=2).digest),
        ("membership", ""),
    ],
)
def test_a_confirmation_for_another_run_is_refused(fact: str, value: str) -> None:
    statements = Statements.of([said("east"), said("north"), said("south", **{fact: value})])  # type: ignore[arg-type]
    with pytest.raises(OrderRefused, match="the statement of south is for another run, plan or membership"):
        joined_member().refuse_other_model(FIRST, statements, JOINED)


def test_a_confirmation_of_which_a_fact_was_changed_is_refused() -> None:
    forged = replace(said("south", model=OTHER_MODEL.digest), model=FIRST.digest)
    with pytest.raises(IdentityRefused, match="not south's"):
        joined_member().refuse_other_model(FIRST, Statements.of([said("east"), said("north"), forged]), JOINED)


@pytest.mark.parametrize("text", ["", "null", "{}", "[", "[" * 100_000, "9" * 5000, "[3]", '["\\ud800"]', "[[]]"])
def test_what_are_no_confirmations_are_refused_by_name(text: str) -> None:
    with pytest.raises(IdentityRefused, match="can't be read"):
        joined_member().refuse_other_model(FIRST, Statements(text), JOINED)


def test_a_name_that_could_not_be_signed_is_refused_by_name() -> None:
    """A lone surrogate is JSON, but no text."""
    text = json.dumps([json.dumps({**json.loads(said().to_text()), "model": "\ud800"})])
    with pytest.raises(IdentityRefused, match="can't be read"):
        joined_member().refuse_other_model(FIRST, Statements(text), JOINED)


def test_the_signers_of_a_sum_are_those_of_its_very_round_and_cohort() -> None:
    order = signed_order(round_number=1)
    site = joined_member()
    assert site.signers(confirmations("report"), "report", FIRST, JOINED, order) == SITES
    for changes in ({"round": 2}, {"cohort": digest_of_cohort(SITES[:3])}):
        statements = Statements.of([said("east", kind="report"), said("south", kind="report", **changes)])
        with pytest.raises(OrderRefused, match="the statement of south is for another round or cohort"):
            site.signers(statements, "report", FIRST, JOINED, order)


def test_a_round_is_not_replayed_from_statements_that_were_remembered() -> None:
    """Signatures are remembered in the process: what holds for one model, kind or round holds for no other."""
    site, order, later = joined_member(), signed_order(round_number=1), signed_order(round_number=2)
    statements = confirmations("report")
    assert site.signers(statements, "report", FIRST, JOINED, order) == SITES
    with pytest.raises(OrderRefused, match="another round or cohort"):
        site.signers(statements, "report", FIRST, JOINED, later)
    with pytest.raises(OrderRefused, match="another run, plan or membership"):
        site.signers(statements, "confirmation", FIRST, JOINED)
    with pytest.raises(ModelDiffers):
        site.signers(statements, "report", OTHER_MODEL, JOINED, order)
    second = Joined(membership=membership(epoch=2), secret=SECRET)
    with pytest.raises(OrderRefused, match="another run, plan or membership"):
        site.signers(statements, "report", FIRST, second, order)


# What it says


def test_a_site_signs_what_its_message_says_and_from_which_model() -> None:
    order = signed_order(round_number=5)
    statement = joined_member(model=OTHER_MODEL).statement("report", order, "cd" * 32, OTHER_MODEL)
    statement.verify(PARTIES["north"].identity.public())
    assert statement.address == order.address
    assert (statement.kind, statement.name, statement.payload) == ("report", "north", "cd" * 32)
    assert (statement.membership, statement.cohort) == (MEMBERS.digest, digest_of_cohort(SITES))
    assert statement.model == OTHER_MODEL.digest


def test_what_a_site_confirms_is_what_the_others_ask_for() -> None:
    own = joined_member().statement("confirmation", signed_order(), "00" * 32, FIRST)
    statements = Statements.of([said("east"), own, said("south")])
    site = member("west", memory=CountingMemory(remembered("west", joined=JOINED)))
    site.refuse_other_model(FIRST, statements, JOINED)
