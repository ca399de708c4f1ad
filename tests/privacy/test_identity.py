"""Signatures and sealed messages: only from, only to, only for; everything else is refused, at every byte."""

from __future__ import annotations

import json
import random

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import IdentityRefused
from privacy.identity import Identity, PublicIdentity
from privacy.sealing import context
from privacy.secret import Secret
from tests.privacy.vault_builders import mutated

OWN, OTHER = Identity.create("own"), Identity.create("other")
MESSAGE = b"epsilon 3.0 at delta 1e-3"
FIXED = Secret(bytes(range(128)))
FINGERPRINT = "2314 5a8b ae19 aa3f 4d75 6fbc 93df 752d e230 91d0 6c4c 9261 a184 a03c 0a26 5df7"


@pytest.mark.parametrize(
    ("secret", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe"
            "24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302a"
            "eeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed2"
            "8dc027beceea1ec40a",
        ),
    ],
)
def test_ed25519_is_the_one_of_rfc_8032(secret: str, public: str, message: str, signature: str) -> None:
    """RFC 8032, section 7.1, tests 1 to 3: the primitive as we use it, and then our own use of the same keys."""
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    assert key.sign(bytes.fromhex(message)).hex() == signature
    identity = Identity.from_secret("own", Secret(bytes.fromhex(secret) + FIXED.reveal()[32:]))
    assert identity.public().verifying.hex() == public
    assert identity.sign("test", MESSAGE) == key.sign(context("signed test", b"own", MESSAGE))
    with pytest.raises(IdentityRefused):
        identity.public().verify(bytes.fromhex(signature), "test", bytes.fromhex(message))


def test_a_signature_is_over_purpose_signer_and_message() -> None:
    signature = OWN.sign("report", MESSAGE)
    checker = Ed25519PublicKey.from_public_bytes(OWN.public().verifying)
    checker.verify(signature, context("signed report", b"own", MESSAGE))
    with pytest.raises(InvalidSignature):
        checker.verify(signature, MESSAGE)
    OWN.public().verify(signature, "report", MESSAGE)


def test_a_signature_for_another_purpose_name_or_message_is_refused() -> None:
    signature = OWN.sign("report", MESSAGE)
    public = OWN.public()
    renamed = PublicIdentity("other", public.verifying, public.mlkem, public.x25519)
    for identity, purpose, message in (
        (public, "order", MESSAGE),
        (public, "report ", MESSAGE),
        (public, "", MESSAGE),
        (renamed, "report", MESSAGE),
        (OTHER.public(), "report", MESSAGE),
        (public, "report", MESSAGE + b"0"),
        (public, "report", b""),
    ):
        with pytest.raises(IdentityRefused, match="for this message and purpose"):
            identity.verify(signature, purpose, message)


def test_no_byte_of_a_signature_or_its_message_can_be_changed() -> None:
    signature, public = OWN.sign("report", MESSAGE), OWN.public()
    changes = [
        (changed, MESSAGE)
        for position in range(64)
        for bit in range(8)
        for changed in [signature[:position] + bytes([signature[position] ^ 1 << bit]) + signature[position + 1 :]]
    ]
    changes += [(signature[:length], MESSAGE) for length in range(64)] + [(signature + b"\x00", MESSAGE)]
    changes += [(signature, MESSAGE[:position] + b"?" + MESSAGE[position + 1 :]) for position in range(len(MESSAGE))]
    for forged, message in changes:
        with pytest.raises(IdentityRefused):
            public.verify(forged, "report", message)


@settings(max_examples=100, deadline=None)
@given(plain=st.binary(max_size=3000), purpose=st.text(max_size=20))
def test_what_is_sealed_to_a_party_opens_for_it(plain: bytes, purpose: str) -> None:
    try:
        purpose.encode()
    except UnicodeEncodeError:
        return
    sealed = OWN.public().seal("server", purpose, plain)
    assert len(sealed) == len(plain) + 1136
    assert OWN.open("server", purpose, sealed) == plain


def test_a_message_opens_for_no_other_sender_purpose_or_receiver() -> None:
    sealed = OWN.public().seal("server", "key", b"a key")
    renamed = Identity.from_secret("other", OWN.to_secret())
    for identity, sender, purpose in (
        (OWN, "other", "key"),
        (OWN, "", "key"),
        (OWN, "server", "model"),
        (OWN, "serverkey", ""),
        (OTHER, "server", "key"),
        (renamed, "server", "key"),
    ):
        with pytest.raises(IdentityRefused, match=f"not from {sender} to {identity.name} for this"):
            identity.open(sender, purpose, sealed)


def test_no_byte_of_a_sealed_message_can_be_changed_cut_or_added() -> None:
    sealed = OWN.public().seal("server", "key", b"a key")
    changes = [sealed[:at] + bytes([sealed[at] ^ 1 << at % 8]) + sealed[at + 1 :] for at in range(len(sealed))]
    changes += [sealed[:length] for length in range(0, len(sealed), 7)] + [sealed[:-1], sealed + b"\x00", sealed[1:]]
    for forged in changes:
        with pytest.raises(IdentityRefused):
            OWN.open("server", "key", forged)
    assert OWN.open("server", "key", sealed) == b"a key"


def test_the_same_message_is_never_sealed_the_same_twice() -> None:
    assert len({OWN.public().seal("server", "key", b"a key") for _ in range(20)}) == 20


def test_an_identity_comes_back_from_its_secret() -> None:
    secret = OWN.to_secret()
    assert len(secret.reveal()) == 128
    again = Identity.from_secret("own", secret)
    assert again.to_secret() == secret
    assert again.public() == OWN.public()
    assert again.sign("report", MESSAGE) == OWN.sign("report", MESSAGE)
    assert again.open("server", "key", OWN.public().seal("server", "key", b"a key")) == b"a key"


@pytest.mark.parametrize("length", [0, 32, 96, 127, 129, 256])
def test_a_secret_of_another_length_is_no_identity(length: int) -> None:
    with pytest.raises(IdentityRefused, match="wrong length"):
        Identity.from_secret("own", Secret(bytes(length)))


def test_two_identities_share_nothing() -> None:
    identities = [Identity.create("own") for _ in range(20)]
    for part in (
        lambda identity: identity.to_secret().reveal()[:32],
        lambda identity: identity.to_secret().reveal()[32:96],
        lambda identity: identity.to_secret().reveal()[96:],
        lambda identity: identity.public().verifying,
        lambda identity: identity.public().mlkem,
        lambda identity: identity.public().x25519,
        lambda identity: identity.public().fingerprint,
    ):
        assert len({part(identity) for identity in identities}) == 20


def test_a_fingerprint_stays_the_same_for_ever() -> None:
    assert Identity.from_secret("own", FIXED).public().fingerprint == FINGERPRINT


def test_a_fingerprint_is_of_the_name_and_of_every_key() -> None:
    public = OWN.public()
    other = OTHER.public()
    variants = [
        public,
        PublicIdentity("owm", public.verifying, public.mlkem, public.x25519),
        PublicIdentity("own", other.verifying, public.mlkem, public.x25519),
        PublicIdentity("own", public.verifying, other.mlkem, public.x25519),
        PublicIdentity("own", public.verifying, public.mlkem, other.x25519),
    ]
    assert len({variant.fingerprint for variant in variants}) == 5
    assert [len(group) for group in public.fingerprint.split(" ")] == [4] * 16


def test_a_public_identity_comes_back_from_its_line() -> None:
    line = OWN.public().to_json()
    assert "\n" not in line
    assert PublicIdentity.from_json(line) == OWN.public()
    assert PublicIdentity.from_json(line).to_json() == line


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "3",
        '"own"',
        "{}",
        '{"name": "own"}',
        '{"keys": "", "name": "own"}',
        '{"keys": 3, "name": "own"}',
        '{"keys": null, "name": "own"}',
        '{"keys": "zz", "name": "own"}',
        json.dumps({"keys": "00" * 1247, "name": "own"}),
        json.dumps({"keys": "00" * 1249, "name": "own"}),
        json.dumps({"keys": "00" * 1248}),
        "[" * 50,
        "9" * 5000,
    ],
)
def test_what_is_no_public_identity_is_refused(text: str) -> None:
    with pytest.raises(IdentityRefused, match="no public identity of FedSeal, or it was cut"):
        PublicIdentity.from_json(text)


def test_ten_thousand_wounded_lines_are_refused_or_are_identities_that_others_can_tell_apart() -> None:
    line, rng = OWN.public().to_json().encode(), random.Random(5)
    for _ in range(10_000):
        text = mutated(line, rng).decode("utf-8", "replace")
        try:
            found = PublicIdentity.from_json(text)
        except IdentityRefused:
            continue
        assert PublicIdentity.from_json(found.to_json()) == found
        assert (found == OWN.public()) == (found.fingerprint == OWN.public().fingerprint)
