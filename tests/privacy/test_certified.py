"""A safe keeps its owner's certificate and the authority that it believes, sealed, and no other's."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy.certificates import Authority, Role, Trust, checked
from privacy.certified import certificate_of, certify
from privacy.errors import IdentityRefused, ObjectDamaged
from privacy.safe import Safe
from privacy.vault import Label
from tests.privacy.vault_builders import flipped, object_file, safe_in, unlocked, writable

OWN = Label("certificate", "own")
AUTHORITY, STRANGER = Authority.create("hospitals"), Authority.create("hospitals")
TRUST = AUTHORITY.trust()


@pytest.fixture
def north(tmp_path: Path) -> Safe:
    return safe_in(tmp_path / "north", "north")


@pytest.mark.parametrize("role", ["site", "server"])
def test_a_certificate_is_found_again_by_whoever_unlocks_the_safe(north: Safe, role: Role) -> None:
    certificate = AUTHORITY.certify(north.public_identity(), role)
    certify(north, certificate, TRUST)
    assert certificate_of(unlocked(north.folder)) == (certificate, TRUST)
    assert checked(*certificate_of(north), role) == north.identity().public()


def test_a_safe_without_a_certificate_says_how_to_get_one(north: Safe) -> None:
    with pytest.raises(IdentityRefused, match="has no certificate, which encrypted runs need: write a request"):
        certificate_of(north)


def test_anothers_certificate_is_not_kept(north: Safe, tmp_path: Path) -> None:
    south = safe_in(tmp_path / "south", "south")
    namesake = safe_in(tmp_path / "other-north", "north")
    for other in (south, namesake):
        certificate = AUTHORITY.certify(other.public_identity(), "site")
        with pytest.raises(IdentityRefused, match=r"for another identity than that of .*north: ask for it anew"):
            certify(north, certificate, TRUST)
    assert north.vault.list("certificate") == []


def test_a_certificate_that_the_named_authority_did_not_sign_is_not_kept(north: Safe) -> None:
    certificate = STRANGER.certify(north.public_identity(), "site")
    with pytest.raises(IdentityRefused, match="not signed by the authority"):
        certify(north, certificate, TRUST)
    banks = Trust(federation="banks", authority=TRUST.authority)
    with pytest.raises(IdentityRefused, match="of federation 'hospitals', not as a site of 'banks'"):
        certify(north, AUTHORITY.certify(north.public_identity(), "site"), banks)
    assert north.vault.list("certificate") == []


def test_a_refused_certificate_leaves_the_one_of_before(north: Safe) -> None:
    first = AUTHORITY.certify(north.public_identity(), "site")
    certify(north, first, TRUST)
    with pytest.raises(IdentityRefused):
        certify(north, STRANGER.certify(north.public_identity(), "site"), TRUST)
    assert certificate_of(north) == (first, TRUST)


def test_a_newer_certificate_takes_the_place_of_the_older(north: Safe) -> None:
    certify(north, AUTHORITY.certify(north.public_identity(), "site"), TRUST)
    newer = STRANGER.certify(north.public_identity(), "site")
    certify(north, newer, STRANGER.trust())
    assert certificate_of(north) == (newer, STRANGER.trust())


def test_whoever_can_not_open_the_safe_can_not_put_another_authority_in_it(north: Safe) -> None:
    certify(north, AUTHORITY.certify(north.public_identity(), "site"), TRUST)
    path = object_file(north.vault, OWN)
    sealed = path.read_bytes()
    assert TRUST.authority.verifying not in sealed
    assert TRUST.authority.verifying.hex().encode() not in sealed
    with (
        writable(path) as handle,
        flipped(handle, len(sealed) // 2),
        pytest.raises(ObjectDamaged, match="certificate/own/0"),
    ):
        certificate_of(north)


def test_the_certificate_of_another_safe_does_not_open_in_this_one(north: Safe, tmp_path: Path) -> None:
    certify(north, AUTHORITY.certify(north.public_identity(), "site"), TRUST)
    south = safe_in(tmp_path / "south", "north")
    certify(south, STRANGER.certify(south.public_identity(), "site"), STRANGER.trust())
    object_file(north.vault, OWN).write_bytes(object_file(south.vault, OWN).read_bytes())
    with pytest.raises(ObjectDamaged, match="changed, cut, or moved here"):
        certificate_of(north)
