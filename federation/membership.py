"""Who takes part in an encrypted run.

Each site signs that it wants to take part, with a number drawn for this run alone (a nonce): a membership of another
time, or another's, does not hold it. A membership is the sites' signed wishes in one text, whose SHA-256 names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from privacy.certificates import Certificate, Trust, checked
from privacy.errors import MembershipRefused
from privacy.identity import Identity, PublicIdentity
from privacy.sealing import context

FEWEST_MEMBERS = 3  # from a sum of two, each reads the other's update

_LARGEST = 1 << 26  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """A site's signed wish to take part in one run.

    nonce:         what the site drew for this run, 32 bytes, hex
    declared_rows: public, rough number of training records; 0 where the site declares none
    """

    certificate: Certificate
    run: str
    plan: str
    nonce: str
    declared_rows: int
    signature: str = ""

    @property
    def name(self) -> str:
        """The site's certified name."""
        return self.certificate.identity.name

    def check(self, trust: Trust, run: str, plan: str) -> None:
        """Passes a wish of a certified site for this run and plan.

        Raises:
            IdentityRefused: the certificate or the signature does not hold.
            MembershipRefused: it is for another run or plan, or declares nonsense.
        """
        identity = checked(self.certificate, trust, "site")
        if (self.run, self.plan) != (run, plan):
            raise MembershipRefused(f"the wish of {self.name} to take part is for another run or plan")
        if self.declared_rows < 0:
            raise MembershipRefused(f"{self.name} declares {self.declared_rows} rows; no site holds fewer than none")
        identity.verify(bytes.fromhex(self.signature), "enrolment", self._message())

    def signed(self, identity: Identity) -> Enrolment:
        """The same with the site's signature."""
        return replace(self, signature=identity.sign("enrolment", self._message()).hex())

    def to_text(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {
                "certificate": self.certificate.to_json(),
                "run": self.run,
                "plan": self.plan,
                "nonce": self.nonce,
                "declared_rows": self.declared_rows,
                "signature": self.signature,
            },
            sort_keys=True,
        )

    @staticmethod
    def from_text(text: str) -> Enrolment:
        """The wish that `to_text` wrote; nothing is checked yet.

        Raises:
            MembershipRefused, IdentityRefused: the text holds none.
        """
        try:
            found = json.loads(text) if len(text) <= _LARGEST else None
            if not isinstance(found, dict) or type(found["declared_rows"]) is not int:
                raise ValueError
            texts = {name: found[name] for name in ("run", "plan", "nonce", "signature")}
            bytes.fromhex(texts["nonce"]), bytes.fromhex(texts["signature"])
            if not all(isinstance(value, str) for value in texts.values()) or len(found) != len(texts) + 2:
                raise ValueError
            certificate = Certificate.from_json(str(found["certificate"]))
            enrolment = Enrolment(certificate=certificate, declared_rows=found["declared_rows"], **texts)
            enrolment._message()  # lone surrogates are JSON, but can't be signed
            return enrolment
        except (ValueError, KeyError, TypeError, RecursionError):
            raise MembershipRefused("a site's wish to take part can't be read: it was cut or changed") from None

    def _message(self) -> bytes:
        parts = (self.run, self.plan, self.nonce, str(self.declared_rows), self.name)
        return context("enrolment", *(part.encode() for part in parts))


def enrol(
    identity: Identity, certificate: Certificate, *, run: str, plan: str, nonce: bytes, declared_rows: int
) -> Enrolment:
    """A site's wish to take part, signed."""
    unsigned = Enrolment(certificate=certificate, run=run, plan=plan, nonce=nonce.hex(), declared_rows=declared_rows)
    return unsigned.signed(identity)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Membership:
    """The sites of a run, by name.

    epoch:  which membership of the run this is, from 1; a new site makes a new one
    digest: SHA-256 of its text, hex
    """

    run: str
    plan: str
    epoch: int
    members: Mapping[str, Enrolment]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(self.to_text().encode()).hexdigest())

    @staticmethod
    def of(run: str, plan: str, epoch: int, enrolments: Iterable[Enrolment]) -> Membership:
        """The membership of these sites."""
        ordered = sorted(enrolments, key=lambda enrolment: enrolment.name)
        return Membership(run=run, plan=plan, epoch=epoch, members={each.name: each for each in ordered})

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, sorted."""
        return tuple(self.members)

    def identity(self, name: str) -> PublicIdentity:
        """A member's certified identity.

        Raises:
            MembershipRefused: there is no such member.
        """
        if name not in self.members:
            raise MembershipRefused(f"{name!r} is no member of this run")
        return self.members[name].certificate.identity

    def declared_rows(self, name: str) -> int:
        """What a member declared."""
        return self.members[name].declared_rows

    def refuse_unless_mine(self, identity: PublicIdentity, run: str, plan: str, nonce: bytes) -> None:
        """Passes a membership of this run in which this site has the number that it drew.

        Raises:
            MembershipRefused: it is of another run, plan or time, or this site is not in it.
        """
        mine = self.members.get(identity.name)
        if (self.run, self.plan) != (run, plan):
            raise MembershipRefused("the membership is for another run or plan")
        if mine is None or mine.certificate.identity != identity or mine.nonce != nonce.hex():
            raise MembershipRefused(
                "the membership does not hold the number that this site drew for this run: it is of another time, or "
                "somebody takes part in this site's name"
            )

    def to_text(self) -> str:
        """The membership's one spelling."""
        wishes = [enrolment.to_text() for enrolment in self.members.values()]
        return json.dumps({"run": self.run, "plan": self.plan, "epoch": self.epoch, "members": wishes})

    @staticmethod
    def read(text: str, trust: Trust) -> Membership:
        """The membership that `to_text` wrote, every member of it certified and willing.

        Raises:
            MembershipRefused, IdentityRefused: the text holds none, a member's certificate or signature does not hold,
                two members share a name or a key, or there are fewer than three.
        """
        return _read(text, trust)


@lru_cache(maxsize=16)
def _read(text: str, trust: Trust) -> Membership:
    """Remembered, because all sites of a simulation read the same one."""
    try:
        found = json.loads(text) if len(text) <= _LARGEST else None
        if not isinstance(found, dict) or type(found["epoch"]) is not int or not isinstance(found["members"], list):
            raise ValueError
        if found["epoch"] < 1:
            raise ValueError
        wishes = [Enrolment.from_text(str(each)) for each in found["members"]]
        membership = Membership.of(str(found["run"]), str(found["plan"]), found["epoch"], wishes)
        if membership.to_text() != text or len(membership.members) != len(wishes):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MembershipRefused("a membership can't be read, or names a site twice") from None
    for wish in wishes:
        wish.check(trust, membership.run, membership.plan)
    identities = [wish.certificate.identity for wish in wishes]
    for keys in ({each.verifying for each in identities}, {each.mlkem for each in identities}):
        if len(keys) != len(wishes):
            raise MembershipRefused("two members of the run share a key")
    if len(wishes) < FEWEST_MEMBERS:
        raise MembershipRefused(
            f"the run has {len(wishes)} members, fewer than {FEWEST_MEMBERS}: in a sum of two, each reads the other's "
            "update"
        )
    return membership
