"""A site joins only a membership that it can believe, with a secret that a member drew; else it knows what it knew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from clients.run_memory import Joined
from federation.encrypted_orders import Draw, Join
from federation.membership import Enrolment
from federation.run_secret import draw_secret, open_secret
from privacy.certificates import Certificate
from privacy.errors import (
    FedSealError,
    IdentityRefused,
    MembershipRefused,
    NotJoined,
    OrderRefused,
)
from privacy.identity import Identity, PublicIdentity
from tests.federation.membership_builders import (
    AUTHORITY,
    FIRST,
    MEMBERS,
    NONCES,
    PARTIES,
    PLAN,
    RUN,
    SECRET,
    SERVER,
    SITES,
    STRANGER,
    TRUST,
    WISHES,
    CountingMemory,
    encrypted_plan,
    join_order,
    joined_member,
    member,
    membership,
    membership_text,
    memory_of,
    order_to_join,
    party,
    refuses_to_join,
    signed_order,
    wish,
)

OTHERS = [WISHES[name] for name in SITES if name != "north"]
FIRST_THREE = [WISHES[name] for name in SITES[:3]]
SOUTH, EVE = PARTIES["south"].identity, party("eve")


def test_a_site_asks_to_take_part_with_a_number_of_its_own() -> None:
    site = member(memory=CountingMemory())
    asked = site.enrol(signed_order(cohort=()))
    asked.check(TRUST, RUN, PLAN.digest)
    known = site.memory.read(RUN)
    assert known is not None
    assert (asked.name, asked.declared_rows, asked.nonce) == ("north", site.info.declared_rows, known.nonce.hex())
    assert (known.joined, known.model.digest, len(known.nonce)) == (None, FIRST.digest, 32)


def test_a_site_that_is_asked_twice_keeps_its_number() -> None:
    site = member(memory=CountingMemory())
    first, second = site.enrol(signed_order(cohort=())), site.enrol(signed_order(cohort=()))
    assert first == second
    assert memory_of(site).writes == 1


def test_a_site_draws_a_new_number_for_each_run_and_where_it_forgot_the_last() -> None:
    orders = [signed_order(cohort=()), signed_order(cohort=(), run="78"), signed_order(cohort=())]
    site = member(memory=CountingMemory())
    assert len({site.enrol(order).nonce for order in orders}) == 3


def test_a_site_under_unit_client_does_not_say_how_much_it_holds() -> None:
    plan = encrypted_plan(privacy__unit="client")
    assert member(memory=CountingMemory(), plan=plan).enrol(signed_order(cohort=())).declared_rows == 0


def test_members_join_and_share_the_drawers_secret() -> None:
    body = Draw(membership=MEMBERS.to_text())
    drawn = member().draw(signed_order("draw", body, cohort=()), body)
    order = join_order(secrets=drawn)
    site = member()
    assert isinstance(order.body, Join)
    assert site.join(order, order.body).digest == FIRST.digest
    known, own = site.joined(order)
    assert own.membership.digest == MEMBERS.digest
    assert own.secret == open_secret(drawn.for_member("north"), MEMBERS, PARTIES["north"].identity)
    assert (known.nonce, known.model.digest, memory_of(site).writes) == (NONCES["north"], FIRST.digest, 1)


def test_a_site_that_was_not_asked_to_enrol_draws_and_joins_nothing() -> None:
    site, order = member(memory=CountingMemory()), join_order()
    assert isinstance(order.body, Join)
    with pytest.raises(NotJoined, match="was not asked to take part in this run, or has forgotten it"):
        site.draw(order, Draw(membership=MEMBERS.to_text()))
    with pytest.raises(NotJoined, match="was not asked"):
        site.join(order, order.body)
    with pytest.raises(NotJoined, match="was not asked"):
        site.joined(order)
    assert memory_of(site).known is None


def swapped() -> Enrolment:
    """The north's wish with the west's place taken by keys that the server drew."""
    west, fresh = WISHES["west"], Identity.create("west").public()
    return replace(west, certificate=replace(west.certificate, identity=fresh))


def sealing_key_swapped() -> Enrolment:
    """The west's own signing key, and a key of the server's that the secret would be sealed to."""
    west, fresh = PARTIES["west"].identity.public(), Identity.create("west").public()
    identity = PublicIdentity("west", west.verifying, fresh.mlkem, fresh.x25519)
    return replace(WISHES["west"], certificate=replace(WISHES["west"].certificate, identity=identity))


def uncertified() -> Enrolment:
    """A member that nobody certified."""
    eve = Identity.create("eve")
    own = Certificate(identity=eve.public(), role="site", federation="hospitals", signature=bytes(64))
    return replace(WISHES["west"], certificate=own).signed(eve)


def twin() -> Enrolment:
    """The south under a second name."""
    identity = Identity.from_secret("south-2", SOUTH.to_secret())
    certificate = AUTHORITY.certify(identity.public(), "site")
    return wish("south", replace(PARTIES["south"], identity=identity, certificate=certificate))


LIES: dict[str, tuple[Callable[[], list[Enrolment]], type[FedSealError], str]] = {
    "a member's keys are swapped": (
        lambda: [*FIRST_THREE, swapped()],
        IdentityRefused,
        "the certificate of west is not signed",
    ),
    "only the keys to seal to are swapped": (
        lambda: [*FIRST_THREE, sealing_key_swapped()],
        IdentityRefused,
        "the certificate of west is not signed",
    ),
    "a member that nobody certified": (
        lambda: [*WISHES.values(), uncertified()],
        IdentityRefused,
        "the certificate of eve is not signed",
    ),
    "a member of another federation's authority": (
        lambda: [*WISHES.values(), wish("west", party("eve", authority=STRANGER))],
        IdentityRefused,
        "the certificate of eve is not signed",
    ),
    "the server as a member": (
        lambda: [*WISHES.values(), wish("west", SERVER)],
        IdentityRefused,
        "server is certified as a server of federation 'hospitals', not as a site",
    ),
    "declared rows are changed": (
        lambda: [*OTHERS[:2], replace(WISHES["west"], declared_rows=9), WISHES["north"]],
        IdentityRefused,
        "not west's, for this message and purpose",
    ),
    "this site's own rows are changed": (
        lambda: [*OTHERS, replace(WISHES["north"], declared_rows=9)],
        IdentityRefused,
        "not north's, for this message and purpose",
    ),
    "two members": (lambda: [WISHES["north"], WISHES["west"]], MembershipRefused, "has 2 members, fewer than 3"),
    "two members with one key": (
        lambda: [*FIRST_THREE, twin()],
        MembershipRefused,
        "two members of the run share a key",
    ),
    "this site is not in it": (lambda: OTHERS, MembershipRefused, "does not hold the number that this site drew"),
    "this site's number is an earlier one": (
        lambda: [*OTHERS, wish("north", nonce=b"yesterday's number, of 32 bytes.")],
        MembershipRefused,
        "it is of another time",
    ),
    "somebody takes part in this site's name": (
        lambda: [*OTHERS, wish("north", party("north"))],
        MembershipRefused,
        "somebody takes part in this site's name",
    ),
}


@pytest.mark.parametrize("lie", list(LIES))
def test_a_membership_that_lies_is_neither_drawn_for_nor_joined(lie: str) -> None:
    wishes, error, match = LIES[lie]
    false = membership(*wishes())
    refuses_to_join(member(), order_to_join(false.to_text(), digest=false.digest), error, match)
    site = member()
    body = Draw(membership=false.to_text())
    with pytest.raises(error, match=match):
        site.draw(signed_order("draw", body, members=false.digest, cohort=()), body)
    assert memory_of(site).writes == 0


def test_a_site_that_is_named_twice_does_not_make_two_members() -> None:
    text = membership_text([WISHES[name].to_text() for name in ("east", "north", "north")])
    refuses_to_join(member(), order_to_join(text), MembershipRefused, "names a site twice")


def test_a_membership_of_another_run_or_plan_is_not_joined() -> None:
    for changes in ({"run": "78"}, {"plan": "b" * 64}):
        false = membership(*(wish(name, **changes) for name in SITES), **changes)  # type: ignore[arg-type]
        order = order_to_join(false.to_text(), digest=false.digest)
        refuses_to_join(member(), order, MembershipRefused, "the membership is for another run or plan")


def test_an_order_for_another_membership_than_it_shows_is_refused() -> None:
    """The site would sign that it holds a model as a member of a membership that it never saw."""
    refuses_to_join(
        member(), order_to_join(MEMBERS.to_text(), digest="b" * 64), OrderRefused, "for another membership than"
    )
    body = Draw(membership=MEMBERS.to_text())
    with pytest.raises(OrderRefused, match="for another membership than"):
        member().draw(signed_order("draw", body, members="b" * 64, cohort=()), body)


def test_an_older_epoch_is_refused_for_ever() -> None:
    site = member()
    for epoch in (1, 3):
        newer = membership(epoch=epoch)
        order = join_order(newer, draw_secret(newer, SOUTH))
        assert isinstance(order.body, Join)
        site.join(order, order.body)
    memory_of(site).writes = 0
    for epoch in (1, 2):
        older = membership(epoch=epoch)
        order = join_order(older, draw_secret(older, SOUTH))
        refuses_to_join(site, order, OrderRefused, f"shows membership {epoch}, but this site has joined 3")
        with pytest.raises(OrderRefused, match="an older membership may hold sites that have left"):
            site.draw(order, Draw(membership=older.to_text()))


def test_the_same_epoch_with_other_members_is_refused() -> None:
    site, fewer = joined_member(), membership(*(WISHES[name] for name in SITES[:3]))
    refuses_to_join(site, join_order(fewer, draw_secret(fewer, SOUTH)), OrderRefused, "this site has joined 1")


def test_to_join_the_same_again_changes_nothing() -> None:
    """The server may have missed the first answer."""
    site, order = member(), join_order()
    assert isinstance(order.body, Join)
    assert site.join(order, order.body).digest == site.join(order, order.body).digest
    assert memory_of(site).writes == 1


def test_an_order_for_a_membership_that_the_site_has_not_joined_is_refused() -> None:
    for site in (member(), joined_member(Joined(membership=membership(epoch=2), secret=SECRET))):
        with pytest.raises(NotJoined, match="a membership that this site has not joined: ask it to enrol anew"):
            site.joined(signed_order())
