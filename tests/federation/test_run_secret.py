"""The run secret opens for the members of one membership only, and every key that comes of it serves one sum."""

from __future__ import annotations

import hmac
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
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
from tests.federation.membership_builders import (
    MEMBERS,
    PARTIES,
    SECRET,
    SECRETS,
    SITES,
    WISHES,
    membership,
    party,
    wish,
)

NORTH = PARTIES["north"].identity
PART = SECRETS.for_member("north")
TEXT = PART.to_text()
HERE = MEMBERS.digest
KNOWN = ["bb0748ca105257c1", "cd9c9707cbba7375", "7fb9b1ac338ca4a6"]  # computed beside, with HMAC alone


def test_every_member_opens_the_same_32_bytes() -> None:
    opened = [open_secret(SECRETS.for_member(name), MEMBERS, PARTIES[name].identity) for name in SITES]
    assert all(secret == opened[0] for secret in opened)
    assert len(opened[0].reveal()) == 32


def test_a_secret_is_drawn_anew_each_time() -> None:
    again = draw_secret(MEMBERS, PARTIES["south"].identity).for_member("north")
    assert open_secret(again, MEMBERS, NORTH) != open_secret(PART, MEMBERS, NORTH)


def test_what_the_server_relays_does_not_hold_the_secret() -> None:
    secret, relayed = open_secret(PART, MEMBERS, NORTH).reveal(), SECRETS.to_text()
    assert secret.hex() not in relayed
    assert secret not in relayed.encode()
    assert secret not in bytes.fromhex(PART.sealed)


def test_one_member_can_not_open_what_another_gets() -> None:
    with pytest.raises(IdentityRefused, match="not south's, for this message and purpose"):
        open_secret(SECRETS.for_member("west"), MEMBERS, NORTH)
    with pytest.raises(IdentityRefused, match="the message does not open"):
        NORTH.open("south", f"run secret {HERE}", bytes.fromhex(SECRETS.for_member("west").sealed))


def test_the_secret_of_an_earlier_time_is_refused() -> None:
    later = membership(*(WISHES[name] for name in SITES if name != "north"), wish("north", nonce=bytes(32)))
    with pytest.raises(MembershipRefused, match="drawn for another membership"):
        open_secret(PART, later, NORTH)
    with pytest.raises(IdentityRefused, match="not south's"):
        open_secret(replace(PART, membership=later.digest), later, NORTH)


def test_the_secret_of_another_epoch_is_refused() -> None:
    second = membership(epoch=2)
    with pytest.raises(IdentityRefused, match="not south's"):
        open_secret(replace(PART, membership=second.digest), second, NORTH)


def test_a_secret_of_a_site_that_is_no_member_is_refused() -> None:
    eve = party("eve").identity
    with pytest.raises(MembershipRefused, match="by a site that is no member"):
        open_secret(draw_secret(MEMBERS, eve).for_member("north"), MEMBERS, NORTH)
    three = membership(*(WISHES[name] for name in SITES if name != "south"))
    with pytest.raises(MembershipRefused, match="by a site that is no member"):
        open_secret(draw_secret(three, PARTIES["south"].identity).for_member("north"), three, NORTH)


def test_a_secret_that_a_stranger_drew_in_a_members_name_is_refused() -> None:
    impostor = Identity.create("south")
    with pytest.raises(IdentityRefused, match="not south's"):
        open_secret(draw_secret(MEMBERS, impostor).for_member("north"), MEMBERS, NORTH)


def test_a_secret_that_one_member_drew_is_not_anothers() -> None:
    with pytest.raises(IdentityRefused, match="not west's"):
        open_secret(replace(PART, drawer="west"), MEMBERS, NORTH)


def test_a_server_that_seals_a_secret_of_its_own_is_refused() -> None:
    sealed = NORTH.public().seal("south", f"run secret {HERE}", bytes(32))
    with pytest.raises(IdentityRefused, match="not south's"):
        open_secret(replace(PART, sealed=sealed.hex()), MEMBERS, NORTH)


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_drawer_that_seals_another_length_is_refused(length: int) -> None:
    south = PARTIES["south"].identity
    sealed = NORTH.public().seal("south", f"run secret {HERE}", bytes(length))
    message = context("run secret", HERE.encode(), b"north", sealed)
    part = replace(PART, sealed=sealed.hex(), signature=south.sign("run secret", message).hex())
    with pytest.raises(IdentityRefused, match="the run secret that south drew has a wrong length"):
        open_secret(part, MEMBERS, NORTH)


def test_no_byte_of_a_sealed_secret_or_its_signature_can_be_changed_cut_or_added() -> None:
    for name in ("sealed", "signature"):
        right = bytes.fromhex(getattr(PART, name))
        wrong = [right[:at] + bytes([right[at] ^ 1 << at % 8]) + right[at + 1 :] for at in range(len(right))]
        for value in [*wrong, b"", right[:-1], right + b"\x00", right[1:]]:
            with pytest.raises(IdentityRefused):
                open_secret(replace(PART, **{name: value.hex()}), MEMBERS, NORTH)


def test_a_member_to_whom_nothing_was_sealed_is_told_so() -> None:
    with pytest.raises(MembershipRefused, match="south sealed no run secret to eve"):
        SECRETS.for_member("eve")


def test_sealed_secrets_come_back_from_their_texts() -> None:
    assert SealedSecret.from_text(TEXT) == PART
    assert SealedSecrets.from_text(SECRETS.to_text()) == SECRETS
    assert SealedSecrets.from_text(SECRETS.to_text()).to_text() == SECRETS.to_text()


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(TEXT) - 1), character=st.characters(codec="utf-8"))
def test_any_changed_character_is_refused_or_opens_the_very_same(position: int, character: str) -> None:
    text = TEXT[:position] + character + TEXT[position + 1 :]
    if text == TEXT:
        return
    try:
        found = SealedSecret.from_text(text)
        opened = open_secret(found, MEMBERS, NORTH)
    except FedSealError:
        return
    assert found.to_text() != TEXT  # a capital in hexadecimal, and nothing else
    assert text.lower() == TEXT.lower()
    assert opened == open_secret(PART, MEMBERS, NORTH)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "3",
        '"text"',
        '"aa  "',
        '{"a": 1, "b": 2, "00": 3, "11": 4}',
        "[" * 100_000,
        "9" * 5000,
        "1e999",
        '["south", "m", "00"]',
        '["south", "m", "00", "00", "00"]',
        '["south", "m", "zz", "00"]',
        '["south", "m", "00", null]',
        '["south", "m", 3, "00"]',
        '["south", "m", ["00"], "00"]',
        '[null, "m", "00", "00"]',
        '["south", 3, "00", "00"]',
        '[["south"], "m", "00", "00"]',
    ],
)
def test_what_is_no_sealed_secret_is_refused(text: str) -> None:
    with pytest.raises(MembershipRefused, match="a sealed run secret can't be read: it was cut or changed"):
        SealedSecret.from_text(text)
    parts = json.dumps({"drawer": "south", "membership": HERE, "parts": {"north": text}})
    for several in (text, parts):
        with pytest.raises(MembershipRefused, match="can't be read"):
            SealedSecrets.from_text(several)


@pytest.mark.parametrize("parts", [None, [], 3, "parts", {"north": None}, {"north": 3}, {"north": []}, {"north": {}}])
def test_parts_of_another_kind_are_refused(parts: object) -> None:
    with pytest.raises(MembershipRefused, match="can't be read"):
        SealedSecrets.from_text(json.dumps({"drawer": "south", "membership": HERE, "parts": parts}))


def test_a_drawer_of_no_text_at_all_is_no_member() -> None:
    part = SealedSecret.from_text(json.dumps(["\ud800", HERE, PART.sealed, PART.signature]))
    with pytest.raises(MembershipRefused, match="by a site that is no member"):
        open_secret(part, MEMBERS, NORTH)


def test_a_key_of_a_sum_is_hkdf_of_the_secret_salted_with_the_membership() -> None:
    """RFC 5869, by `cryptography` called directly; info is FedSeal's one spelling of a context."""
    info = b"".join(len(part).to_bytes(8, "big") + part for part in (b"fedseal/sum key/1", b"3", b"update"))
    salt = bytes.fromhex(HERE)
    expected = HKDF(algorithm=hashes.SHA256(), length=64, salt=salt, info=info).derive(bytes(range(32)))
    assert sum_key(SECRET, HERE, 3, "update").reveal() == expected


def test_a_key_of_a_sum_is_rfc_5869_step_by_step() -> None:
    """RFC 5869, sections 2.2 and 2.3, with HMAC alone."""
    key = hmac.digest(bytes.fromhex(HERE), bytes(range(32)), "sha256")
    info = context("handover key", b"3")
    assert handover_key(SECRET, HERE, 3).reveal() == hmac.digest(key, info + b"\x01", "sha256")


def test_a_key_of_a_sum_stays_the_same_for_ever() -> None:
    found = [
        sum_key(SECRET, "ab" * 32, 1, "update").reveal()[:8].hex(),
        handover_key(SECRET, "ab" * 32, 1).reveal()[:8].hex(),
        f"{contributor_checks(SECRET, 'ab' * 32, 1, ['north'])[0]:016x}",
    ]
    assert found == KNOWN


def test_keys_of_other_sums_rounds_memberships_and_secrets_differ() -> None:
    other = Secret(bytes(32))
    keys = [
        sum_key(SECRET, HERE, 1, "update"),
        sum_key(SECRET, HERE, 2, "update"),
        sum_key(SECRET, HERE, 1, "metrics"),
        sum_key(SECRET, HERE, 1, "update-tally"),
        sum_key(SECRET, HERE, 11, "update"),
        sum_key(SECRET, membership(epoch=2).digest, 1, "update"),
        sum_key(other, HERE, 1, "update"),
        handover_key(SECRET, HERE, 1),
        handover_key(SECRET, HERE, 2),
        handover_key(SECRET, membership(epoch=2).digest, 1),
        handover_key(other, HERE, 1),
    ]
    assert len({key.reveal()[:32] for key in keys}) == len(keys)
    assert [len(key.reveal()) for key in keys] == [64] * 7 + [32] * 4


def test_a_check_is_hmac_under_a_key_of_its_own() -> None:
    info = context("contributor check", b"3")
    key = HKDF(algorithm=hashes.SHA256(), length=32, salt=bytes.fromhex(HERE), info=info).derive(bytes(range(32)))
    expected = int.from_bytes(hmac.digest(key, b"north", "sha256")[:8], "big")
    assert contributor_checks(SECRET, HERE, 3, ["north"])[0] == expected


def test_a_check_differs_by_site_round_membership_and_secret() -> None:
    checks = [contributor_checks(SECRET, HERE, round_number, [site])[0] for round_number in (1, 2, 3) for site in SITES]
    checks.append(contributor_checks(SECRET, membership(epoch=2).digest, 1, ["east"])[0])
    checks.append(contributor_checks(Secret(bytes(32)), HERE, 1, ["east"])[0])
    assert len(set(checks)) == 14
    assert all(0 <= check < 1 << 64 for check in checks)
