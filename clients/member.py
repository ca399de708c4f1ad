"""A site as a member of an encrypted run: it joins, checks who orders and with whom it sums, and signs what it says.

Nothing is believed because the server says so: an order must be signed by a server that the authority certified, the
members by the sites that it certified; a membership must hold the number that this site drew for the run, and be newer
than the last; and the members' confirmations must show that all hold this site's model.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache

from clients.declaration import declared_rows
from clients.run_memory import Joined, Remembered, RunMemory
from federation.credentials import Credentials
from federation.encrypted_orders import Draw, EncryptedOrder, Join, Statements, digest_of_cohort
from federation.layout import Layout
from federation.membership import FEWEST_MEMBERS, Enrolment, Membership, enrol
from federation.plan import Plan
from federation.run_secret import SealedSecrets, draw_secret, open_secret
from federation.shared_model import SharedModel
from federation.site_info import SiteInfo
from federation.statements import Kind, Statement
from federation.sum_parts import encryption_of
from privacy.certificates import checked
from privacy.errors import ModelDiffers, NotJoined, OrderRefused


@dataclass(slots=True, kw_only=True)
class Member:
    """A site's part in one run's membership.

    first: makes the model before round 1, which the plan's public seed draws
    """

    credentials: Credentials
    memory: RunMemory
    info: SiteInfo
    plan: Plan
    layout: Layout
    first: SharedModel

    def refuse_stranger(self, order: EncryptedOrder) -> None:
        """Passes an order that a certified server of this federation signed, under this plan.

        Raises:
            IdentityRefused: it is signed by nobody whom the authority certified as a server.
            OrderRefused: the statement is of another order, the order is under another plan, or the plan would encrypt
                nothing outside a simulation.
        """
        said, address = order.statement, order.address
        said.verify(checked(order.server, self.credentials.trust, "server"))
        named = (said.kind, said.run, said.round, said.plan, said.layout, said.membership, said.cohort)
        asked = ("order", address.run, address.round, address.plan, address.layout)
        if named != (*asked, order.membership, digest_of_cohort(order.cohort)):
            raise OrderRefused("the server signed another order than the one that came")
        self.info.refuse_other_plan(self.plan)
        if self.plan.encryption.simulate == "sizes" and self.info.simulation_seed is None:
            raise OrderRefused(
                "the plan says encryption.simulate = 'sizes', which encrypts nothing and is for simulations: set it to "
                "'ciphertexts'"
            )
        if address.plan != self.plan.digest:
            raise OrderRefused(
                f"the order is under plan {address.plan[:12]}…, the run's settings are plan {self.plan.digest[:12]}…"
            )

    def enrol(self, order: EncryptedOrder) -> Enrolment:
        """This site's signed wish to take part, with a number that only this run's membership will hold."""
        run = order.address.run
        known = self.memory.read(run)
        if known is None:
            known = Remembered(run=run, nonce=os.urandom(32), joined=None, model=self.first)
            self.memory.write(known)
        return enrol(
            self.credentials.identity,
            self.credentials.certificate,
            run=run,
            plan=self.plan.digest,
            nonce=known.nonce,
            declared_rows=declared_rows(self.info, self.plan),
        )

    def draw(self, order: EncryptedOrder, body: Draw) -> SealedSecrets:
        """A new run secret, sealed to every member of a membership that this site accepts."""
        return draw_secret(self._acceptable(order, body.membership, self._known(order)), self.credentials.identity)

    def join(self, order: EncryptedOrder, body: Join) -> SharedModel:
        """Accepts a membership and its secret; from now on older ones are refused. Returns the model that it holds.

        To join the same again, with the same secret, changes nothing: the server may have missed the first answer.

        Raises:
            MembershipRefused, IdentityRefused: a member or the secret can't be believed, or this site's own number is
                another.
            OrderRefused: a newer one is known, another secret of the same one, or the order is for another.
        """
        known = self._known(order)
        before = known.joined
        if before is not None and (before.membership.digest, before.membership.to_text()) == (
            order.membership,
            body.membership,
        ):
            if open_secret(body.secret, before.membership, self.credentials.identity) != before.secret:
                raise OrderRefused("the server shows a second secret of the membership that this site has joined")
            return known.model
        membership = self._acceptable(order, body.membership, known)
        secret = open_secret(body.secret, membership, self.credentials.identity)
        self.memory.write(replace(known, joined=Joined(membership=membership, secret=secret)))
        return known.model

    def joined(self, order: EncryptedOrder) -> tuple[Remembered, Joined]:
        """What this site knows of the run, once the order is for the membership that it joined.

        Raises:
            NotJoined: it joined another, or none.
        """
        known = self._known(order)
        if known.joined is None or known.joined.membership.digest != order.membership:
            raise NotJoined("the order is for a membership that this site has not joined: ask it to enrol anew")
        return known, known.joined

    def refuse_cohort(self, order: EncryptedOrder, joined: Joined) -> None:
        """Passes a cohort of enough, and not too many, members, this site among them.

        Raises:
            OrderRefused: it is none.
        """
        cohort, most = order.cohort, encryption_of(self.plan).most_sites
        if (
            self.info.name not in cohort
            or len(set(cohort)) != len(cohort)
            or set(cohort) - set(joined.membership.names)
        ):
            raise OrderRefused("the cohort names a site twice, one that is no member, or not this site")
        if not FEWEST_MEMBERS <= len(cohort) <= most:
            raise OrderRefused(
                f"the cohort has {len(cohort)} sites: a sum of fewer than {FEWEST_MEMBERS} tells a member the others' "
                f"updates, and the plan's encryption adds at most {most} exactly"
            )

    def refuse_other_model(self, model: SharedModel, confirmed: Statements, joined: Joined) -> None:
        """Passes confirmations of enough members that they all hold this very model.

        Raises:
            ModelDiffers: one holds another, or too few confirmed.
            IdentityRefused, OrderRefused: a confirmation is not its member's, or for another run.
        """
        names = self.signers(confirmed, "confirmation", model, joined)
        if len(set(names)) < FEWEST_MEMBERS:
            raise ModelDiffers(
                f"only {len(set(names))} members confirm the model of round {model.round}; {FEWEST_MEMBERS} are needed"
            )

    def signers(
        self,
        statements: Statements,
        kind: Kind,
        model: SharedModel,
        joined: Joined,
        order: EncryptedOrder | None = None,
    ) -> tuple[str, ...]:
        """The members who signed these statements, all about this site's very model.

        order: the order whose round and cohort they must be for; None: any

        Raises:
            ModelDiffers: one is about another model.
            OrderRefused: one is of another kind, run, plan, membership, round or cohort, or no member's.
            IdentityRefused: a member did not sign its own.
        """
        membership = joined.membership
        wanted = _Wanted(
            kind=kind,
            run=membership.run,
            plan=self.plan.digest,
            layout=self.layout.digest,
            model=model.digest,
            round=None if order is None else order.address.round,
            cohort=None if order is None else order.statement.cohort,
        )
        return _signers(statements, membership, wanted)

    def statement(self, kind: Kind, order: EncryptedOrder, payload: str, model: SharedModel) -> Statement:
        """What this site says about a model, signed; `payload`: digest of the message that says it."""
        unsigned = Statement(
            kind=kind,
            run=order.address.run,
            round=order.address.round,
            plan=self.plan.digest,
            layout=self.layout.digest,
            membership=order.membership,
            cohort=digest_of_cohort(order.cohort),
            payload=payload,
            model=model.digest,
            name=self.credentials.identity.name,
        )
        return unsigned.signed(self.credentials.identity)

    def _acceptable(self, order: EncryptedOrder, text: str, known: Remembered) -> Membership:
        membership = Membership.read(text, self.credentials.trust)
        if membership.digest != order.membership:
            raise OrderRefused("the order is for another membership than the one that it shows")
        membership.refuse_unless_mine(self.credentials.identity.public(), known.run, self.plan.digest, known.nonce)
        before = known.joined
        if before is not None and membership.epoch <= before.membership.epoch:
            raise OrderRefused(
                f"the server shows membership {membership.epoch}, but this site has joined {before.membership.epoch}: "
                "an older membership may hold sites that have left"
            )
        return membership

    def _known(self, order: EncryptedOrder) -> Remembered:
        known = self.memory.read(order.address.run)
        if known is None:
            raise NotJoined("this site was not asked to take part in this run, or has forgotten it: ask it to enrol")
        return known


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What a statement must be about; None: anything."""

    kind: Kind
    run: str
    plan: str
    layout: str
    model: str
    round: int | None
    cohort: str | None


@lru_cache(maxsize=16)
def _signers(statements: Statements, membership: Membership, wanted: _Wanted) -> tuple[str, ...]:
    """Remembered, because all sites of a simulation read the same statements."""
    for said in statements.all():
        if said.name not in membership.names:
            raise OrderRefused(f"{said.name!r} signed a statement, but is no member of this run")
        said.verify(membership.identity(said.name))
        about = (said.kind, said.run, said.plan, said.layout, said.membership)
        if about != (wanted.kind, wanted.run, wanted.plan, wanted.layout, membership.digest):
            raise OrderRefused(f"the statement of {said.name} is for another run, plan or membership")
        if wanted.round not in (None, said.round) or wanted.cohort not in (None, said.cohort):
            raise OrderRefused(f"the statement of {said.name} is for another round or cohort")
        if said.model != wanted.model:
            raise ModelDiffers(
                f"{said.name} holds another model than this site: whoever missed a round is brought up to date before "
                "the next, so it will be asked again"
            )
    return tuple(said.name for said in statements.all())
