"""An honest authority, four sites and a server, and what they say to each other; tests change one thing of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from clients.member import Member
from clients.run_memory import Joined, ProcessMemory, Remembered, RunMemory
from federation.credentials import Credentials
from federation.encrypted_messages import read_order, write_order
from federation.encrypted_orders import Action, Body, EncryptedOrder, Enrol, Join, Statements, digest_of_cohort
from federation.envelopes import signed_digest, signed_with
from federation.layout import Layout
from federation.membership import Enrolment, Membership, enrol
from federation.orders import Address
from federation.plan import Plan, Scalar
from federation.reading import read_plan
from federation.run_secret import SealedSecrets, draw_secret
from federation.shared_model import SharedModel
from federation.site_info import SiteInfo
from federation.statements import Kind, Statement
from privacy.certificates import Authority, Certificate, Role
from privacy.errors import FedSealError
from privacy.identity import Identity
from privacy.secret import Secret

SITES = ("east", "north", "south", "west")
RUN = "77"
LAYOUT = Layout(names=("weight", "bias"), shapes=((2,), (1,)))
PLAN = read_plan({"hardware.device": "cpu", "encryption.scheme": "bfv", "aggregation.weights": "uniform"})
FIRST = SharedModel.start(np.array([1.0, -2.5, 3e-8], dtype=np.float32), PLAN)
AUTHORITY, STRANGER = Authority.create("hospitals"), Authority.create("hospitals")  # of one name, with other keys
TRUST = AUTHORITY.trust()
ROWS = {name: 100 + place for place, name in enumerate(SITES)}


def party(name: str, role: Role = "site", authority: Authority = AUTHORITY) -> Credentials:
    """Somebody new, certified."""
    identity = Identity.create(name)
    return Credentials(identity=identity, certificate=authority.certify(identity.public(), role), trust=TRUST)


PARTIES = {name: party(name) for name in SITES}
SERVER = party("server", "server")
NONCES = {name: bytes([place]) * 32 for place, name in enumerate(SITES)}


def encrypted_plan(**changes: Scalar) -> Plan:
    """The plan with these dotted settings changed, dots as double underscores."""
    return read_plan({**PLAN.flat(), **{key.replace("__", "."): value for key, value in changes.items()}})


def wish(
    name: str = "north",
    of: Credentials | None = None,
    run: str = RUN,
    plan: str = PLAN.digest,
    nonce: bytes | None = None,
    declared_rows: int | None = None,
) -> Enrolment:
    """A site's signed wish to take part, by default that of an honest site."""
    site = of or PARTIES[name]
    return enrol(
        site.identity,
        site.certificate,
        run=run,
        plan=plan,
        nonce=NONCES[name] if nonce is None else nonce,
        declared_rows=ROWS[name] if declared_rows is None else declared_rows,
    )


WISHES = {name: wish(name) for name in SITES}


def membership(*wishes: Enrolment, epoch: int = 1, run: str = RUN, plan: str = PLAN.digest) -> Membership:
    """A membership of these wishes, by default of all four sites."""
    return Membership.of(run, plan, epoch, wishes or WISHES.values())


def membership_text(wishes: Sequence[str], epoch: object = 1, run: object = RUN, plan: object = PLAN.digest) -> str:
    """A membership's text of any parts, as an adversary writes it."""
    return json.dumps({"run": run, "plan": plan, "epoch": epoch, "members": list(wishes)})


MEMBERS = membership()
SECRETS = draw_secret(MEMBERS, PARTIES["south"].identity)
SECRET = Secret(bytes(range(32)))
JOINED = Joined(membership=MEMBERS, secret=SECRET)


def signed_order(
    action: Action = "enrol",
    body: Body | None = None,
    *,
    by: Credentials = SERVER,
    certificate: Certificate | None = None,
    run: str = RUN,
    round_number: int = 1,
    plan: str = PLAN.digest,
    layout: Layout = LAYOUT,
    members: str = MEMBERS.digest,
    cohort: tuple[str, ...] = SITES,
) -> EncryptedOrder:
    """An order as it arrives at a site."""
    address = Address(run=run, round=round_number, plan=plan, layout=layout.digest)
    content = write_order(action, address, members, cohort, body or Enrol())
    statement = Statement(
        kind="order",
        run=run,
        round=round_number,
        plan=plan,
        layout=layout.digest,
        membership=members,
        cohort=digest_of_cohort(cohort),
        payload=signed_digest(content),
        model="",
        name=by.identity.name,
    )
    signed = signed_with(content, statement.signed(by.identity), certificate or by.certificate)
    return read_order(signed, action, layout)


def join_order(members: Membership = MEMBERS, secrets: SealedSecrets = SECRETS, to: str = "north") -> EncryptedOrder:
    """The order to join."""
    body = Join(membership=members.to_text(), secret=secrets.for_member(to))
    return signed_order("join", body, members=members.digest, cohort=())


def said(name: str = "north", by: Credentials | None = None, **changes: object) -> Statement:
    """A site's signed confirmation of the first model, or what the changes make of it."""
    facts: dict[str, object] = {
        "kind": "confirmation",
        "run": RUN,
        "round": 1,
        "plan": PLAN.digest,
        "layout": LAYOUT.digest,
        "membership": MEMBERS.digest,
        "cohort": digest_of_cohort(SITES),
        "payload": "00" * 32,
        "model": FIRST.digest,
        "name": name,
    }
    site = by or PARTIES[name]
    return Statement(**{**facts, **changes}).signed(site.identity)  # type: ignore[arg-type]


def confirmations(kind: Kind = "confirmation", names: Sequence[str] = SITES, **changes: object) -> Statements:
    """The statements of these sites."""
    return Statements.of([said(name, kind=kind, **changes) for name in names])  # type: ignore[arg-type]


@dataclass(slots=True)
class CountingMemory(ProcessMemory):
    """A memory that tells how often it was written to."""

    writes: int = field(default=0)

    def write(self, remembered: Remembered) -> None:
        self.writes += 1
        ProcessMemory.write(self, remembered)


def member(name: str = "north", memory: RunMemory | None = None, plan: Plan = PLAN) -> Member:
    """A site that has asked to take part with its nonce, and joined nothing yet; or with this memory, as it stands."""
    if memory is None:
        memory = CountingMemory(remembered(name))
    info = SiteInfo(name=name, declared_rows=ROWS[name], plan=plan)
    return Member(credentials=PARTIES[name], memory=memory, info=info, plan=plan, layout=LAYOUT, first=FIRST)


def remembered(name: str = "north", joined: Joined | None = None, model: SharedModel = FIRST) -> Remembered:
    """What an honest site knows."""
    return Remembered(run=RUN, nonce=NONCES[name], joined=joined, model=model)


def joined_member(joined: Joined = JOINED, model: SharedModel = FIRST) -> Member:
    """The north after it joined."""
    return member(memory=CountingMemory(remembered(joined=joined, model=model)))


def memory_of(site: Member) -> CountingMemory:
    """What it remembers."""
    assert isinstance(site.memory, CountingMemory)
    return site.memory


def order_to_join(text: str, secrets: SealedSecrets = SECRETS, digest: str = MEMBERS.digest) -> EncryptedOrder:
    """An order to join the membership of any text."""
    return signed_order("join", Join(membership=text, secret=secrets.for_member("north")), members=digest, cohort=())


def refuses_to_join(site: Member, order: EncryptedOrder, error: type[FedSealError], match: str) -> None:
    """The site refuses to join what the order shows, and knows what it knew."""
    before = memory_of(site).known
    assert isinstance(order.body, Join)
    with pytest.raises(error, match=match):
        site.join(order, order.body)
    assert memory_of(site).known is before
    assert memory_of(site).writes == 0
