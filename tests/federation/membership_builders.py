"""An authority, certified sites that want to take part in run 1, and their membership."""

from __future__ import annotations

from collections.abc import Sequence

from federation.membership import Enrolment, Membership, enrol
from privacy.certificates import Authority
from privacy.identity import Identity

NAMES = ("east", "north", "south")
PLAN = "0" * 64
AUTHORITY = Authority.create("clinics")
IDENTITIES = {name: Identity.create(name) for name in NAMES}


def wish(name: str, run: str = "1", nonce: bytes = b"n" * 32, authority: Authority = AUTHORITY) -> Enrolment:
    identity = IDENTITIES[name]
    certificate = authority.certify(identity.public(), "site")
    return enrol(identity, certificate, run=run, plan=PLAN, nonce=nonce, declared_rows=10)


def membership(wishes: Sequence[Enrolment] | None = None, epoch: int = 1) -> Membership:
    return Membership.of("1", PLAN, epoch, wishes if wishes is not None else [wish(name) for name in NAMES])
