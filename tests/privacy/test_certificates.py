"""An authority's word holds for one party, one role and one federation, and for no other text of it."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.certificates import Authority, Certificate, Role, Trust, checked
from privacy.errors import FedSealError, IdentityRefused
from privacy.identity import Identity, PublicIdentity
from tests.privacy.vault_builders import mutated

AUTHORITY, STRANGER = Authority.create("hospitals"), Authority.create("hospitals")
TRUST = AUTHORITY.trust()
NORTH, SOUTH = Identity.create("north").public(), Identity.create("south").public()
SITE, SERVER = AUTHORITY.certify(NORTH, "site"), AUTHORITY.certify(NORTH, "server")
LINE = SITE.to_json()


def changed(**changes: object) -> str:
    return json.dumps({**json.loads(LINE), **changes}, sort_keys=True)


def test_who_trusts_the_authority_believes_its_certificates() -> None:
    assert checked(SITE, TRUST, "site") == NORTH
    assert checked(SERVER, TRUST, "server") == NORTH


@pytest.mark.parametrize(("certificate", "role"), [(SERVER, "site"), (SITE, "server")])
def test_a_certificate_for_one_role_serves_no_other(certificate: Certificate, role: Role) -> None:
    with pytest.raises(IdentityRefused, match=rf"north is certified as a \w+ of federation .* not as a {role}"):
        checked(certificate, TRUST, role)


def test_a_role_that_is_written_over_is_not_what_the_authority_signed() -> None:
    for line, role in ((changed(role="server"), "server"), (SERVER.to_json().replace('"server"', '"site"'), "site")):
        with pytest.raises(IdentityRefused, match="not signed by the authority"):
            checked(Certificate.from_json(line), TRUST, role)


def test_an_authority_of_the_same_name_with_another_key_is_not_believed() -> None:
    with pytest.raises(IdentityRefused, match="the certificate of north is not signed by the authority of this fed"):
        checked(STRANGER.certify(NORTH, "site"), TRUST, "site")


def test_the_certificate_of_another_federation_is_refused_even_from_the_same_authority() -> None:
    identity = Identity.create("authority")
    ours, theirs = Authority("hospitals", identity), Authority("banks", identity)
    certificate = theirs.certify(NORTH, "site")
    assert checked(certificate, theirs.trust(), "site") == NORTH
    with pytest.raises(IdentityRefused, match="of federation 'banks', not as a site of 'hospitals'"):
        checked(certificate, ours.trust(), "site")
    renamed = Certificate.from_json(certificate.to_json().replace("banks", "hospitals"))
    with pytest.raises(IdentityRefused, match="not signed"):
        checked(renamed, ours.trust(), "site")


@pytest.mark.parametrize(
    "identity",
    [
        SOUTH,
        PublicIdentity("south", NORTH.verifying, NORTH.mlkem, NORTH.x25519),
        PublicIdentity("north", SOUTH.verifying, NORTH.mlkem, NORTH.x25519),
        PublicIdentity("north", NORTH.verifying, SOUTH.mlkem, NORTH.x25519),
        PublicIdentity("north", NORTH.verifying, NORTH.mlkem, SOUTH.x25519),
    ],
    ids=["another", "name", "signing key", "ML-KEM key", "X25519 key"],
)
def test_a_key_or_name_that_is_swapped_breaks_the_certificate(identity: PublicIdentity) -> None:
    swapped = Certificate.from_json(changed(identity=identity.to_json()))
    with pytest.raises(IdentityRefused, match=f"the certificate of {identity.name} is not signed"):
        checked(swapped, TRUST, "site")


def test_a_party_certifies_nobody_with_its_own_key() -> None:
    north = Identity.create("north")
    impostor = Authority("hospitals", north).certify(SOUTH, "site")
    with pytest.raises(IdentityRefused, match="not signed"):
        checked(impostor, TRUST, "site")


@pytest.mark.parametrize("signature", [b"", bytes(64), SITE.signature[:63], SITE.signature + b"\x00"])
def test_a_signature_of_zeros_or_of_another_length_is_none(signature: bytes) -> None:
    with pytest.raises(IdentityRefused, match="not signed"):
        checked(Certificate.from_json(changed(signature=signature.hex())), TRUST, "site")


def test_an_authority_vouches_for_a_signature_under_the_purpose_of_certificates_only() -> None:
    identity = Identity.create("authority")
    honest = Authority("hospitals", identity)
    trust, right = honest.trust(), honest.certify(NORTH, "site")
    with pytest.raises(IdentityRefused):
        trust.authority.verify(right.signature, "statement", b"")
    other = Certificate(identity=NORTH, role="site", federation="hospitals", signature=identity.sign("statement", b""))
    with pytest.raises(IdentityRefused):
        checked(other, trust, "site")


def test_a_certificate_comes_back_from_its_line() -> None:
    assert "\n" not in LINE
    assert Certificate.from_json(LINE) == SITE
    assert Certificate.from_json(LINE).to_json() == LINE


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(LINE) - 1), character=st.characters(codec="utf-8"))
def test_any_changed_character_is_refused(position: int, character: str) -> None:
    text = LINE[:position] + character + LINE[position + 1 :]
    if text == LINE:
        return
    with pytest.raises(IdentityRefused):
        checked(Certificate.from_json(text), TRUST, "site")


def test_a_certificate_has_one_spelling() -> None:
    facts = json.loads(LINE)
    for text in (
        LINE + " ",
        LINE.replace(": ", ":"),
        json.dumps(dict(reversed(list(facts.items())))),
        changed(signature=SITE.signature.hex().upper()),
        changed(more=1),
        changed(identity=SITE.identity.to_json() + " "),
        changed(federation=3),
    ):
        with pytest.raises(IdentityRefused, match="no certificate of FedSeal, or it was cut or changed"):
            Certificate.from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "3",
        '"site"',
        "{}",
        "[" * 100_000,
        '{"identity":' * 1000,
        "9" * 5000,
        "1e999",
        "NaN",
        LINE[:-1],
        changed(identity=None),
        changed(identity=3),
        changed(identity="[" * 5000),
        changed(role="authority"),
        changed(role=["site"]),
        changed(role=None),
        changed(federation="No Name"),
        changed(federation="\ud800"),
        changed(federation=None),
        changed(signature=3),
        changed(signature="zz"),
        changed(signature=["00"]),
        changed(padding="0" * 20_000),
    ],
)
def test_what_is_no_certificate_is_refused(text: str) -> None:
    with pytest.raises(IdentityRefused, match=r"this is no (certificate|public identity) of FedSeal"):
        Certificate.from_json(text)


def test_two_thousand_wounded_lines_are_refused_by_name() -> None:
    rng, line = random.Random(5), LINE.encode()
    for _ in range(2000):
        text = mutated(line, rng).decode("utf-8", "replace")
        try:
            found = checked(Certificate.from_json(text), TRUST, "site")
        except FedSealError:
            continue
        assert (found, text) == (NORTH, LINE)


@pytest.mark.parametrize("name", ["", "Hospitals", "a b", "é", "-a", "a" * 101])
def test_a_federation_has_a_plain_name(name: str) -> None:
    with pytest.raises(IdentityRefused, match="can't name a federation"):
        Authority.create(name)


def test_trust_is_in_one_key() -> None:
    assert Trust(federation="hospitals", authority=AUTHORITY.trust().authority) == TRUST != STRANGER.trust()
