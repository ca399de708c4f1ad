"""The secret that members share: sealed to each, drawn by one of them, and never the same key for two sums."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.run_secret import (
    SealedSecret,
    SealedSecrets,
    contributor_checks,
    draw_secret,
    handover_key,
    open_secret,
    sum_key,
)
from privacy.errors import FedSealError, IdentityRefused, MembershipRefused
from privacy.identity import Identity
from privacy.sealing import context
from privacy.secret import Secret
from tests.federation.membership_builders import IDENTITIES, NAMES, membership

MEMBERS = membership()
SECRETS = draw_secret(MEMBERS, IDENTITIES["south"])
SECRET = Secret(bytes(range(32)))


def test_every_member_opens_the_same_secret_which_is_new_each_time() -> None:
    opened = {open_secret(SECRETS.for_member(name), MEMBERS, IDENTITIES[name]).reveal() for name in NAMES}
    again = draw_secret(MEMBERS, IDENTITIES["south"])
    assert len(opened) == 1
    assert open_secret(again.for_member("north"), MEMBERS, IDENTITIES["north"]).reveal() not in opened


def test_what_the_server_relays_holds_the_secret_nowhere() -> None:
    secret = open_secret(SECRETS.for_member("north"), MEMBERS, IDENTITIES["north"]).reveal()
    assert secret.hex() not in SECRETS.to_text()


@pytest.mark.parametrize(
    "change",
    [{"drawer": "north"}, {"membership": "1" * 64}, {"drawer": "eve"}],
    ids=["another drawer", "another membership", "a stranger"],
)
def test_a_secret_said_to_be_another_is_refused(change: dict[str, str]) -> None:
    part = replace(SECRETS.for_member("north"), **change)
    with pytest.raises((MembershipRefused, IdentityRefused)):
        open_secret(part, MEMBERS, IDENTITIES["north"])


@given(st.integers(0, 2335), st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_a_flipped_bit_of_a_sealed_secret_is_refused(place: int, bit: int) -> None:
    part = SECRETS.for_member("north")
    sealed = bytearray(bytes.fromhex(part.sealed))
    sealed[place % len(sealed)] ^= 1 << bit
    with pytest.raises(IdentityRefused):
        open_secret(replace(part, sealed=sealed.hex()), MEMBERS, IDENTITIES["north"])


def test_a_member_does_not_open_anothers_part() -> None:
    with pytest.raises(IdentityRefused):
        open_secret(SECRETS.for_member("south"), MEMBERS, IDENTITIES["north"])
    with pytest.raises(MembershipRefused, match="no run secret to eve"):
        SECRETS.for_member("eve")


def test_a_stranger_with_a_members_name_does_not_open_it() -> None:
    with pytest.raises(IdentityRefused):
        open_secret(SECRETS.for_member("north"), MEMBERS, Identity.create("north"))


def test_texts_read_back_and_nonsense_is_refused() -> None:
    assert SealedSecrets.from_text(SECRETS.to_text()) == SECRETS
    for text in ("", "[]", "{}", "null", "[1, 2, 3, 4]", '["a", "b", "zz", ""]', "[" * 10_000):
        with pytest.raises(FedSealError):
            SealedSecret.from_text(text)
        with pytest.raises(FedSealError):
            SealedSecrets.from_text(text)


def test_sum_keys_are_hkdf_of_rfc_5869() -> None:
    salt, info = bytes.fromhex("ab" * 32), context("sum key", b"7", b"update")
    extract = hmac.HMAC(salt, hashes.SHA256())
    extract.update(SECRET.reveal())
    expected = HKDFExpand(algorithm=hashes.SHA256(), length=64, info=info).derive(extract.finalize())
    assert sum_key(SECRET, "ab" * 32, 7, "update").reveal() == expected
    assert expected == HKDF(algorithm=hashes.SHA256(), length=64, salt=salt, info=info).derive(SECRET.reveal())


def test_no_two_sums_share_a_key() -> None:
    keys = {
        sum_key(SECRET, membership_digest, number, purpose).reveal()
        for membership_digest in ("ab" * 32, "cd" * 32)
        for number in (1, 2, 11)
        for purpose in ("update", "update-tally", "metrics", "statistics")
    }
    assert len(keys) == 24
    assert sum_key(Secret(bytes(32)), "ab" * 32, 1, "update").reveal() not in keys
    assert handover_key(SECRET, "ab" * 32, 1).reveal() not in {key[:32] for key in keys}


def test_a_contributors_check_is_its_own_and_the_rounds() -> None:
    checks = {check for number in (1, 2) for check in contributor_checks(SECRET, "ab" * 32, number, ["north", "south"])}
    assert len(checks) == 4
    assert all(0 <= check < 2**64 for check in checks)
    assert not checks & {*contributor_checks(Secret(bytes(32)), "ab" * 32, 1, ["north"])}
