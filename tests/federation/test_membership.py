"""Who is said to take part is certified, willing, for this run, and three at least; or nobody is believed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.membership import Enrolment, Membership
from privacy.certificates import Certificate
from privacy.errors import FedSealError, IdentityRefused, MembershipRefused
from privacy.identity import Identity, PublicIdentity
from tests.federation.membership_builders import (
    AUTHORITY,
    MEMBERS,
    NONCES,
    PARTIES,
    PLAN,
    ROWS,
    RUN,
    SITES,
    STRANGER,
    TRUST,
    WISHES,
    membership,
    membership_text,
    party,
    wish,
)

TEXT, WISH = MEMBERS.to_text(), WISHES["north"].to_text()
OTHERS = [WISHES[name] for name in SITES if name != "north"]
NEST = "[" * 100_000


def refuses(text: str, error: type[FedSealError], match: str) -> None:
    with pytest.raises(error, match=match):
        Membership.read(text, TRUST)


def changed(**changes: object) -> str:
    """The north's wish with other facts, its signature as it was."""
    return json.dumps({**json.loads(WISH), **changes}, sort_keys=True)


def among_others(text: str) -> str:
    """A membership of the three others and this wish, in the right order."""
    wishes = {name: WISHES[name].to_text() for name in SITES}
    return membership_text([*{**wishes, "north": text}.values()])


def test_a_membership_comes_back_from_its_text() -> None:
    found = Membership.read(TEXT, TRUST)
    assert (found.digest, found.names, found.epoch) == (MEMBERS.digest, SITES, 1)
    assert found.to_text() == TEXT == membership_text([WISHES[name].to_text() for name in SITES])
    assert found.identity("west") == PARTIES["west"].identity.public()
    assert [found.declared_rows(name) for name in SITES] == [ROWS[name] for name in SITES]


def test_the_order_in_which_sites_enrol_makes_no_difference() -> None:
    assert membership(*reversed(WISHES.values())).digest == MEMBERS.digest


def test_a_digest_is_of_run_plan_epoch_and_every_wish() -> None:
    three = [WISHES[name] for name in SITES[:3]]
    variants = [
        MEMBERS,
        membership(epoch=2),
        membership(run="78"),
        membership(plan="b" * 64),
        membership(*three),
        membership(*OTHERS, wish("north", nonce=bytes(32))),
        membership(*OTHERS, wish("north", declared_rows=1)),
    ]
    assert len({variant.digest for variant in variants}) == len(variants)


def test_a_server_that_swaps_a_members_keys_is_caught_by_the_certificate() -> None:
    mine, hers = PARTIES["north"].identity.public(), Identity.create("north").public()
    for keys in (
        (hers.verifying, mine.mlkem, mine.x25519),
        (mine.verifying, hers.mlkem, mine.x25519),
        (mine.verifying, mine.mlkem, hers.x25519),
        (hers.verifying, hers.mlkem, hers.x25519),
    ):
        certificate = replace(PARTIES["north"].certificate, identity=PublicIdentity("north", *keys))
        text = among_others(replace(WISHES["north"], certificate=certificate).to_text())
        refuses(text, IdentityRefused, "the certificate of north is not signed by the authority")


def test_a_member_that_no_authority_certified_is_refused() -> None:
    eve = Identity.create("eve")
    for signature in (b"", bytes(64), eve.sign("certificate", b"")):
        own = Certificate(identity=eve.public(), role="site", federation="hospitals", signature=signature)
        signed = replace(WISHES["north"], certificate=own).signed(eve)
        refuses(membership(*WISHES.values(), signed).to_text(), IdentityRefused, "the certificate of eve is not signed")


def test_a_member_of_another_federations_authority_is_refused() -> None:
    eve = wish("north", party("eve", authority=STRANGER))
    refuses(membership(*WISHES.values(), eve).to_text(), IdentityRefused, "the certificate of eve is not signed")


def test_a_server_is_no_member() -> None:
    desk = wish("north", party("desk", "server"))
    refuses(membership(*WISHES.values(), desk).to_text(), IdentityRefused, "desk is certified as a server")


def test_a_certified_site_that_did_not_sign_its_wish_is_no_member() -> None:
    forged = WISHES["north"].signed(PARTIES["south"].identity)
    refuses(membership(*OTHERS, forged).to_text(), IdentityRefused, "not north's, for this message and purpose")
    unsigned = replace(WISHES["north"], signature="")
    refuses(membership(*OTHERS, unsigned).to_text(), IdentityRefused, "not north's")


@pytest.mark.parametrize(
    "change", [{"declared_rows": 1_000_000}, {"nonce": "00" * 32}, {"nonce": ""}], ids=["rows", "nonce", "no nonce"]
)
def test_a_server_changes_nothing_of_what_a_site_wished(change: dict[str, object]) -> None:
    refuses(among_others(changed(**change)), IdentityRefused, "not north's, for this message and purpose")


@pytest.mark.parametrize("change", [{"run": "78"}, {"plan": "b" * 64}])
def test_a_wish_for_another_run_or_plan_is_refused(change: dict[str, str]) -> None:
    refuses(among_others(changed(**change)), MembershipRefused, "for another run or plan")
    honest = wish("north", **change)  # type: ignore[arg-type]
    refuses(membership(*OTHERS, honest).to_text(), MembershipRefused, "for another run or plan")


def test_wishes_of_another_run_make_no_membership_of_this_one() -> None:
    refuses(membership(run="78").to_text(), MembershipRefused, "for another run or plan")
    refuses(membership(plan="b" * 64).to_text(), MembershipRefused, "for another run or plan")


def test_fewer_rows_than_none_are_refused() -> None:
    text = membership(*OTHERS, wish("north", declared_rows=-1)).to_text()
    refuses(text, MembershipRefused, "north declares -1 rows")


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_members_are_refused(count: int) -> None:
    names = [WISHES[name].to_text() for name in SITES[:count]]
    refuses(membership_text(names), MembershipRefused, f"has {count} members, fewer than 3: in a sum of two, each")


def test_three_members_are_enough() -> None:
    three = membership(*(WISHES[name] for name in SITES[:3]))
    assert Membership.read(three.to_text(), TRUST).digest == three.digest


def test_a_site_that_is_named_twice_does_not_count_for_two() -> None:
    east, north = WISHES["east"].to_text(), WISHES["north"].to_text()
    refuses(membership_text([east, north, north]), MembershipRefused, "can't be read, or names a site twice")
    again = wish("north", nonce=bytes(32)).to_text()
    refuses(membership_text([east, north, again]), MembershipRefused, "names a site twice")


def test_two_members_with_one_key_do_not_count_for_two() -> None:
    identity = PARTIES["north"].identity
    other = Identity.from_secret("north-2", identity.to_secret())
    twin = replace(PARTIES["north"], identity=other, certificate=AUTHORITY.certify(other.public(), "site"))
    text = membership(WISHES["east"], WISHES["north"], wish("north", twin)).to_text()
    refuses(text, MembershipRefused, "two members of the run share a key")


def test_two_members_who_open_the_same_seals_do_not_count_for_two() -> None:
    north, fresh = PARTIES["north"].identity.public(), Identity.create("north-2")
    shared = PublicIdentity("north-2", fresh.public().verifying, north.mlkem, fresh.public().x25519)
    twin = replace(PARTIES["north"], identity=fresh, certificate=AUTHORITY.certify(shared, "site"))
    text = membership(WISHES["east"], WISHES["north"], wish("north", twin)).to_text()
    refuses(text, MembershipRefused, "two members of the run share a key")


def test_members_out_of_order_are_another_spelling_and_refused() -> None:
    refuses(membership_text([WISHES[name].to_text() for name in reversed(SITES)]), MembershipRefused, "can't be read")


@pytest.mark.parametrize("epoch", [0, -1, True, 1.0, "1", None, [1]])
def test_epochs_are_whole_numbers_from_one(epoch: object) -> None:
    wishes = [WISHES[name].to_text() for name in SITES]
    refuses(membership_text(wishes, epoch), MembershipRefused, "can't be read")


def test_a_membership_without_this_sites_number_is_not_its() -> None:
    north = PARTIES["north"].identity.public()
    MEMBERS.refuse_unless_mine(north, RUN, PLAN.digest, NONCES["north"])
    with pytest.raises(MembershipRefused, match="for another run or plan"):
        MEMBERS.refuse_unless_mine(north, "78", PLAN.digest, NONCES["north"])
    with pytest.raises(MembershipRefused, match="for another run or plan"):
        MEMBERS.refuse_unless_mine(north, RUN, "b" * 64, NONCES["north"])
    with pytest.raises(MembershipRefused, match="it is of another time"):
        MEMBERS.refuse_unless_mine(north, RUN, PLAN.digest, bytes(32))
    with pytest.raises(MembershipRefused, match="somebody takes part in this site's name"):
        MEMBERS.refuse_unless_mine(Identity.create("north").public(), RUN, PLAN.digest, NONCES["north"])
    with pytest.raises(MembershipRefused, match="does not hold the number that this site drew"):
        membership(*OTHERS).refuse_unless_mine(north, RUN, PLAN.digest, NONCES["north"])


def test_a_stranger_has_no_identity_in_a_membership() -> None:
    with pytest.raises(MembershipRefused, match="'eve' is no member of this run"):
        MEMBERS.identity("eve")


def test_a_wish_comes_back_from_its_text() -> None:
    found = Enrolment.from_text(WISH)
    assert (found, found.to_text(), found.name) == (WISHES["north"], WISH, "north")
    found.check(TRUST, RUN, PLAN.digest)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, len(TEXT) - 1), character=st.characters(codec="utf-8"))
def test_any_changed_character_of_a_membership_is_refused_or_changes_its_digest(position: int, character: str) -> None:
    text = TEXT[:position] + character + TEXT[position + 1 :]
    if text == TEXT:
        return
    try:
        found = Membership.read(text, TRUST)
    except FedSealError:
        return
    assert found.digest != MEMBERS.digest


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, len(WISH) - 1), character=st.characters(codec="utf-8"))
def test_any_changed_character_of_a_wish_is_refused_or_shows(position: int, character: str) -> None:
    text = WISH[:position] + character + WISH[position + 1 :]
    if text == WISH:
        return
    try:
        found = Enrolment.from_text(text)
        found.check(TRUST, RUN, PLAN.digest)
    except FedSealError:
        return
    assert (
        found.to_text() != WISH
    )  # hexadecimal digits can be capitals: the signature holds, the membership's name differs


NONSENSE = [
    "",
    "null",
    "[]",
    "3",
    '"members"',
    "{}",
    NEST,
    '{"members":' * 100_000,
    "9" * 5000,
    "1e999",
    "NaN",
    '"\\ud800"',
    "\x00",
]


@pytest.mark.parametrize("text", NONSENSE)
def test_what_is_no_membership_or_wish_is_refused(text: str) -> None:
    refuses(text, MembershipRefused, "a membership can't be read")
    refuses(
        membership_text([text] * 3), MembershipRefused, "a membership can't be read|wish to take part can't be read"
    )
    with pytest.raises(MembershipRefused, match="a site's wish to take part can't be read"):
        Enrolment.from_text(text)


@pytest.mark.parametrize("value", [None, 3, 1.5, True, [], {}, ["a"], "zz", "\ud800", NEST, "é", -1])
@pytest.mark.parametrize("name", ["certificate", "run", "plan", "nonce", "declared_rows", "signature"])
def test_a_wish_with_a_fact_of_another_kind_is_refused(name: str, value: object) -> None:
    if (name, value) in (("declared_rows", 3), ("declared_rows", -1)):
        return
    refuses(among_others(changed(**{name: value})), FedSealError, ".")


@pytest.mark.parametrize("value", ["\ud800", "é", NEST, ""])
def test_a_run_or_plan_of_any_text_is_refused_by_name(value: str) -> None:
    """A lone surrogate is JSON, but no text that could be signed."""
    wishes = [replace(WISHES[name], run=value, plan=value).to_text() for name in SITES]
    refuses(membership_text(wishes, run=value, plan=value), FedSealError, ".")


@pytest.mark.parametrize("value", [None, 3, {}, "members", [None], [3], [[]]])
def test_members_of_another_kind_are_refused(value: object) -> None:
    text = json.dumps({"run": RUN, "plan": PLAN.digest, "epoch": 1, "members": value})
    refuses(text, MembershipRefused, "can.t be read")


def test_a_fact_too_many_or_too_few_is_refused() -> None:
    facts = json.loads(WISH)
    for other in ({**facts, "more": 1}, {name: facts[name] for name in facts if name != "nonce"}):
        with pytest.raises(MembershipRefused, match="can't be read: it was cut or changed"):
            Enrolment.from_text(json.dumps(other))
