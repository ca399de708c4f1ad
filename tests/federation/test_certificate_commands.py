"""`fedseal authority`, `site request|certify` and `server`: how parties come to trust one authority, by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from privacy.certificates import Certificate, Trust
from privacy.certified import certificate_of, certify
from privacy.errors import IdentityRefused
from privacy.passphrases import nobody_to_ask
from privacy.safe import Safe
from tests.command_builders import done, refused


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An authority, a site and a server, each with a key file on another volume."""
    monkeypatch.chdir(tmp_path)
    done("authority", "init", "authority", "--federation", "clinics", "--key-file", "usb/authority")
    done("site", "init", "north", "--key-file", "usb/north")
    done("server", "init", "hub", "--key-file", "usb/hub")
    return tmp_path


def safe(name: str) -> Safe:
    return Safe.unlock(Path(name), nobody_to_ask)


def fingerprint(name: str) -> str:
    return safe(name).public_identity().fingerprint


def answered(role: str, name: str) -> str:
    """What the authority prints when it signs a party's request."""
    done(role, "request", "--out", f"{name}.request", f"--{role}", name)
    return done(
        "authority", "sign", f"{name}.request", "--role", role, "--out", f"{name}.cert", "--authority", "authority"
    )


@pytest.mark.parametrize(("role", "name"), [("site", "north"), ("server", "hub")])
def test_a_party_is_certified_once_both_fingerprints_were_compared(desk: Path, role: str, name: str) -> None:
    signed = answered(role, name)
    assert f"certified {name} as a {role} of clinics" in signed
    assert fingerprint(name) in signed
    assert fingerprint("authority") in signed
    told = fingerprint("authority").upper()
    said = done(role, "certify", f"{name}.cert", "--authority-fingerprint", told, f"--{role}", name)
    assert f"{name} is a {role} of clinics" in said
    certificate, trust = certificate_of(safe(name))
    assert (certificate.role, certificate.identity) == (role, safe(name).public_identity())
    assert (trust.federation, trust.authority) == ("clinics", safe("authority").public_identity())


def test_a_request_and_a_certificate_hold_no_secret(desk: Path) -> None:
    answered("site", "north")
    private = safe("north").identity().to_secret().reveal()
    text = Path("north.request").read_text() + Path("north.cert").read_text()
    assert not any(private[start : start + 32].hex() in text for start in range(0, 128, 32))


def test_another_authoritys_fingerprint_stops_the_installation(desk: Path) -> None:
    answered("site", "north")
    said = refused("site", "certify", "north.cert", "--authority-fingerprint", fingerprint("north"), "--site", "north")
    assert "an authority with another fingerprint" in said
    with pytest.raises(IdentityRefused, match="has no certificate"):
        certificate_of(safe("north"))


def test_where_nobody_is_at_the_terminal_the_fingerprint_must_be_named(desk: Path) -> None:
    answered("site", "north")
    assert "--authority-fingerprint TEXT" in refused("site", "certify", "north.cert", "--site", "north")


def test_a_servers_certificate_is_no_sites(desk: Path) -> None:
    answered("server", "hub")
    told = fingerprint("authority")
    said = refused("site", "certify", "hub.cert", "--authority-fingerprint", told, "--site", "north")
    assert "certifies a server, not a site" in said


def test_a_certificate_of_another_site_is_refused(desk: Path) -> None:
    done("site", "init", "south", "--key-file", "usb/south")
    answered("site", "south")
    told = fingerprint("authority")
    said = refused("site", "certify", "south.cert", "--authority-fingerprint", told, "--site", "north")
    assert "for another identity" in said


@pytest.mark.parametrize("name", ["name", "keys"])
def test_a_certificate_changed_on_the_way_is_refused(desk: Path, name: str) -> None:
    answered("site", "north")
    found = json.loads(Path("north.cert").read_text())
    certificate = json.loads(found["certificate"])
    identity = json.loads(certificate["identity"])
    identity[name] = "south" if name == "name" else "00" * 32 + identity["keys"][64:]
    changed = {**certificate, "identity": json.dumps(identity)}
    Path("north.cert").write_text(json.dumps({**found, "certificate": json.dumps(changed)}))
    told = fingerprint("authority")
    refused("site", "certify", "north.cert", "--authority-fingerprint", told, "--site", "north")
    with pytest.raises(IdentityRefused, match="has no certificate"):
        certificate_of(safe("north"))


@pytest.mark.parametrize("content", ["", "{}", "[1]", "no JSON", "[" * 5000])
def test_files_that_hold_something_else_are_refused(desk: Path, content: str) -> None:
    Path("odd").write_text(content)
    told = ("--authority-fingerprint", fingerprint("authority"))
    assert "holds no certificate" in refused("site", "certify", "odd", *told, "--site", "north")
    assert "no public identity" in refused("authority", "sign", "odd", "--out", "x", "--authority", "authority")
    assert not Path("x").exists()


def test_a_certificate_stays_readable_under_new_keys_and_after_a_restore(desk: Path) -> None:
    answered("site", "north")
    certificate, trust = _installed()
    done("site", "rekey", "--site", "north", "--key-file", "usb/new")
    assert certificate_of(safe("north")) == (certificate, trust)
    done("site", "backup", "copy.tar", "--site", "north")
    done("site", "restore", "copy.tar", "again")
    assert certificate_of(safe("again")) == (certificate, trust)


def _installed() -> tuple[Certificate, Trust]:
    done("site", "certify", "north.cert", "--authority-fingerprint", fingerprint("authority"), "--site", "north")
    return certificate_of(safe("north"))


def test_a_safe_keeps_no_certificate_of_an_authority_that_did_not_sign_it(desk: Path) -> None:
    answered("site", "north")
    certificate, trust = _installed()
    other = replace(trust, authority=safe("hub").public_identity())
    with pytest.raises(IdentityRefused, match="not signed by the authority"):
        certify(safe("north"), certificate, other)
