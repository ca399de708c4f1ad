"""Who belongs to a run: only certified sites that signed for this run, and a text that nobody changes unseen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.membership import Enrolment, Membership
from privacy.certificates import Authority, Certificate
from privacy.errors import FedSealError, IdentityRefused, MembershipRefused
from privacy.identity import Identity
from tests.federation.membership_builders import AUTHORITY, IDENTITIES, NAMES, PLAN, membership, wish

TRUST = AUTHORITY.trust()
TEXT = membership().to_text()


def test_a_membership_reads_back_as_itself_in_whatever_order_sites_came() -> None:
    other = membership([wish(name) for name in reversed(NAMES)])
    assert other.names == NAMES
    assert Membership.read(TEXT, TRUST).digest == membership().digest == other.digest


@given(st.integers(0, len(TEXT) - 1), st.characters(min_codepoint=32, max_codepoint=126))
@settings(max_examples=300, deadline=None)
def test_no_character_of_a_membership_can_be_changed(place: int, character: str) -> None:
    changed = TEXT[:place] + character + TEXT[place + 1 :]
    try:
        found = Membership.read(changed, TRUST)
    except FedSealError:
        return
    assert changed == TEXT or found.digest != membership().digest
    assert found.names == NAMES


@given(st.text(max_size=60) | st.sampled_from(["null", "[]", "1", "[" * 10_000, '{"epoch": 1e999, "members": []}']))
@settings(max_examples=200, deadline=None)
def test_nonsense_is_refused_by_name(text: str) -> None:
    for read in (lambda: Membership.read(text, TRUST), lambda: Enrolment.from_text(text)):
        with pytest.raises(FedSealError):
            read()
    with pytest.raises(IdentityRefused):
        Certificate.from_json(text)


def test_a_site_that_another_authority_certified_is_refused() -> None:
    wishes = [wish("north"), wish("south"), wish("east", authority=Authority.create("clinics"))]
    with pytest.raises(IdentityRefused, match="not signed by the authority"):
        Membership.read(membership(wishes).to_text(), TRUST)


def test_a_wish_for_another_run_is_refused() -> None:
    wishes = [wish("north"), wish("south"), wish("east", run="2")]
    with pytest.raises(MembershipRefused, match="another run"):
        Membership.read(membership(wishes).to_text(), TRUST)


@pytest.mark.parametrize("change", [{"declared_rows": 11}, {"nonce": "00" * 32}])
def test_a_wish_changed_after_it_was_signed_is_refused(change: dict[str, object]) -> None:
    wishes = [wish("north"), wish("south"), replace(wish("east"), **change)]  # type: ignore[arg-type]
    with pytest.raises(IdentityRefused, match="signature"):
        Membership.read(membership(wishes).to_text(), TRUST)


def test_fewer_rows_than_none_are_refused() -> None:
    lying = replace(wish("east"), declared_rows=-1).signed(IDENTITIES["east"])
    with pytest.raises(MembershipRefused):
        lying.check(TRUST, "1", PLAN)


def test_two_members_are_too_few() -> None:
    with pytest.raises(MembershipRefused, match="fewer than 3"):
        Membership.read(membership([wish("north"), wish("south")]).to_text(), TRUST)


def test_a_site_named_twice_is_refused() -> None:
    text = TEXT.replace('"members": [', f'"members": [{TEXT.partition(chr(91))[2].partition(", ")[0]}, ')
    with pytest.raises(FedSealError):
        Membership.read(text, TRUST)


def test_two_names_with_one_key_are_refused() -> None:
    twin = Identity.from_secret("west", IDENTITIES["north"].to_secret())
    certificate = AUTHORITY.certify(twin.public(), "site")
    double = Enrolment(certificate=certificate, run="1", plan=PLAN, nonce="00" * 32, declared_rows=1).signed(twin)
    with pytest.raises(MembershipRefused, match="share a key"):
        Membership.read(membership([wish("north"), wish("south"), double]).to_text(), TRUST)


@pytest.mark.parametrize(
    ("run", "plan", "nonce"), [("2", PLAN, b"n" * 32), ("1", "1" * 64, b"n" * 32), ("1", PLAN, b"o" * 32)]
)
def test_a_membership_of_another_run_plan_or_time_is_not_mine(run: str, plan: str, nonce: bytes) -> None:
    mine = IDENTITIES["north"].public()
    membership().refuse_unless_mine(mine, "1", PLAN, b"n" * 32)
    with pytest.raises(MembershipRefused):
        membership().refuse_unless_mine(mine, run, plan, nonce)


def test_a_membership_in_which_somebody_uses_my_name_is_not_mine() -> None:
    with pytest.raises(MembershipRefused, match="in this site's name"):
        membership().refuse_unless_mine(Identity.create("north").public(), "1", PLAN, b"n" * 32)


def test_a_certificate_is_for_one_role_and_one_federation() -> None:
    from privacy.certificates import checked

    certificate = AUTHORITY.certify(IDENTITIES["north"].public(), "server")
    assert checked(certificate, TRUST, "server") == IDENTITIES["north"].public()
    with pytest.raises(IdentityRefused, match="not as a site"):
        checked(certificate, TRUST, "site")
    with pytest.raises(IdentityRefused, match="not signed"):
        checked(replace(certificate, role="site"), TRUST, "site")
    with pytest.raises(IdentityRefused, match="'banks'"):
        checked(certificate, Authority.create("banks").trust(), "server")


def test_a_certificate_reads_back_as_itself() -> None:
    certificate = AUTHORITY.certify(IDENTITIES["north"].public(), "site")
    assert Certificate.from_json(certificate.to_json()) == certificate
