"""The secret of a run comes from a member, for this membership and site, once; no other is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.encrypted_orders import Draw, Join
from federation.run_secret import draw_secret
from privacy.errors import (
    IdentityRefused,
    MembershipRefused,
    OrderRefused,
)
from tests.federation.membership_builders import (
    MEMBERS,
    PARTIES,
    SECRETS,
    SITES,
    WISHES,
    CountingMemory,
    join_order,
    joined_member,
    member,
    membership,
    order_to_join,
    party,
    refuses_to_join,
    remembered,
    signed_order,
    wish,
)

OTHERS = [WISHES[name] for name in SITES if name != "north"]
SOUTH, EVE = PARTIES["south"].identity, party("eve")


def test_a_secret_of_an_earlier_time_does_not_open_a_run_again() -> None:
    """The same run, but the site has lost its memory and drawn a new number: the old membership is of another time."""
    site = member(memory=CountingMemory(replace(remembered(), nonce=b"another number, also of 32 bytes")))
    refuses_to_join(site, join_order(), MembershipRefused, "it is of another time")
    anew = membership(*OTHERS, wish("north", nonce=b"another number, also of 32 bytes"))
    order = order_to_join(anew.to_text(), SECRETS, anew.digest)
    refuses_to_join(site, order, MembershipRefused, "drawn for another membership")


def test_a_second_secret_of_the_same_membership_is_refused() -> None:
    order = join_order(secrets=draw_secret(MEMBERS, SOUTH))
    refuses_to_join(joined_member(), order, OrderRefused, "a second secret of the membership that this site has joined")


def test_a_joined_site_draws_no_second_secret_of_its_membership() -> None:
    body = Draw(membership=MEMBERS.to_text())
    with pytest.raises(OrderRefused, match="this site has joined 1"):
        joined_member().draw(signed_order("draw", body, cohort=()), body)


def test_another_members_sealed_secret_is_refused() -> None:
    order = signed_order("join", Join(membership=MEMBERS.to_text(), secret=SECRETS.for_member("west")), cohort=())
    refuses_to_join(member(), order, IdentityRefused, "not south's, for this message and purpose")


def test_a_secret_that_no_member_drew_is_refused() -> None:
    order = join_order(secrets=draw_secret(MEMBERS, EVE.identity))
    refuses_to_join(member(), order, MembershipRefused, "by a site that is no member")


def test_a_secret_of_which_one_byte_is_changed_is_refused() -> None:
    part = SECRETS.for_member("north")
    for name in ("sealed", "signature"):
        right = bytes.fromhex(getattr(part, name))
        wrong = bytes([right[0] ^ 1]) + right[1:]
        body = Join(membership=MEMBERS.to_text(), secret=replace(part, **{name: wrong.hex()}))
        refuses_to_join(member(), signed_order("join", body, cohort=()), IdentityRefused, "not south's")
