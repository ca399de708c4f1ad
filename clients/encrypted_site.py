"""A site in an encrypted run: what it releases leaves as ciphertexts, and it keeps the model that no server sees.

Training, metrics and statistics are `Site`'s own, with the ledger before and after; this file decides from which model
they start, encrypts what comes of them, and takes the sums. P is the length of the layout's vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from clients.encrypted_wrap import wrap_sums, wrapped
from clients.kept_model import Keep, KeptModel, keep_nothing
from clients.member import Member
from clients.run_memory import Joined, Remembered
from clients.site import Site
from clients.wrap import Price, Wrapped
from federation import private_metrics, statistics
from federation.encrypted_orders import (
    Confirmation,
    EncryptedOrder,
    EncryptedReport,
    HandedOver,
    HandOver,
    Join,
    Receive,
    Release,
    ReleasedModel,
    Statements,
    Take,
    Work,
    teller,
)
from federation.encrypted_replies import digest_of_confirmation, digest_of_handover, digest_of_model
from federation.membership import FEWEST_MEMBERS
from federation.orders import Order, SumsReport
from federation.run_secret import handover_key
from federation.shared_model import SharedModel
from federation.sum_parts import SumKeys
from privacy.entries import Purpose
from privacy.errors import OrderRefused
from privacy.noise import RandomStream
from privacy.packing import Ranges
from privacy.sealing import SealBroken, context, seal, unseal


@dataclass(slots=True, kw_only=True)
class EncryptedSite:
    """A site and its membership of one run.

    keep: is handed each model that the site comes to hold
    """

    site: Site
    member: Member
    keep: Keep = keep_nothing

    @property
    def name(self) -> str:
        """What people call it."""
        return self.site.name

    def train(self, order: EncryptedOrder, body: Work) -> EncryptedReport:
        """This round's update, encrypted. Raises as `Site.make_update`, and OrderRefused, ModelDiffers."""
        known, keys = self._ready(order, body, "update")
        model, started = known.model, order.address.round
        if model.round != started - 1:
            raise OrderRefused(
                f"round {started} is to be trained, but this site holds the model of round {model.round}"
            )

        def wrap(update: NDArray[np.float32], price: Price) -> Wrapped[EncryptedReport]:
            began = perf_counter()
            fed_back = update if known.residual is None else update + known.residual
            part = keys.encrypt_update(self.name, fed_back, self._ranges(model, order), self._stream(order))
            if part.residual is not None:
                self.member.memory.write(replace(known, residual=part.residual))
            return wrapped(self.member, order, "update", model, part, price, began)

        return self.site.make_update(self._plain(order, body, model, model.state.vector), wrap)

    def evaluate(self, order: EncryptedOrder, body: Work) -> EncryptedReport:
        """Noisy metric sums of the model that this site holds, encrypted. Raises as `Site.make_metrics`."""
        known, keys = self._ready(order, body, "metrics")
        model = known.model
        return self.site.make_metrics(
            self._plain(order, body, model, model.state.average), wrap_sums(self.member, order, model, keys)
        )

    def evaluate_plainly(self, order: EncryptedOrder, body: Work) -> SumsReport:
        """Exact metric sums in the clear, because the plan says metrics = "plain". Raises as `Site.make_metrics`."""
        known, _ = self._ready(order, body, "metrics")
        return self.site.evaluate(self._plain(order, body, known.model, known.model.state.average))

    def release_statistics(self, order: EncryptedOrder, body: Work) -> EncryptedReport:
        """The noisy sums that the task asks for, encrypted. Raises as `Site.make_statistics`."""
        known, keys = self._ready(order, body, "statistics")
        model = known.model
        plain = self._plain(order, body, model, model.state.vector)
        return self.site.make_statistics(plain, wrap_sums(self.member, order, model, keys))

    def join(self, order: EncryptedOrder, body: Join) -> Confirmation:
        """Accepts a membership; says which model this site holds. Raises as `Member.join`."""
        return self._confirmed(order, self.member.join(order, body), {}, 0.0)

    def take(self, order: EncryptedOrder, body: Take) -> Confirmation:
        """Decrypts a sum of at least three members' reports and goes on with it.

        Raises:
            OrderRefused: the sum is not the next one, or its contributors are too few, or no members of the cohort.
            ModelDiffers: a contributor started from another model.
            ReportRefused, SumRefused: the ciphertexts are not those of these contributors.
        """
        began = perf_counter()
        known, joined = self.member.joined(order)
        keys = self._keys(order, joined, body.purpose)
        contributors = self._contributors(order, body, known.model, joined)
        told: dict[str, float]
        match body.purpose:
            case "update":
                model, told = self._advanced(order, body, known, keys, contributors)
                self.member.memory.write(replace(known, model=model))
                self._keep(model, order)
            case "statistics":
                width = statistics.width(self.site.task.statistics)
                sums, clipped = keys.decrypt_sums(body.values, body.tally, contributors, width)
                if known.model.round or known.model.statistics:
                    raise OrderRefused("statistics are taken once, before the first round")
                model, told = known.model.informed(tuple(sums.tolist())), {"clipped": clipped}
                self.member.memory.write(replace(known, model=model))
            case "metrics":
                model, told = known.model, self._totals(order, body, known, keys, contributors)
                self.member.memory.write(replace(known, told=order.address.round))
        said = told if self.name == teller(order.cohort) else {}
        return self._confirmed(order, model, said, perf_counter() - began)

    def hand_over(self, order: EncryptedOrder, body: HandOver) -> HandedOver:
        """The model that this site holds, sealed to every member of the run. Raises OrderRefused, ModelDiffers."""
        known, joined = self.member.joined(order)
        self.member.refuse_other_model(known.model, body.confirmed, joined)
        plain = b"".join(bytes(piece) for piece in known.model.pieces())
        sealed = seal(handover_key(joined.secret, order.membership, known.model.round), _about_handover(order), plain)
        statement = self.member.statement("handover", order, digest_of_handover(sealed), known.model)
        return HandedOver(statement=statement, sealed=sealed)

    def receive(self, order: EncryptedOrder, body: Receive) -> Confirmation:
        """Goes on with the model that another member sealed, and that enough members confirm.

        Raises:
            OrderRefused: it does not open, or is older than what this site holds.
            ModelDiffers: it is not the model that the members confirm.
        """
        known, joined = self.member.joined(order)
        if body.statement.payload != digest_of_handover(body.sealed):
            raise OrderRefused("the sealed model is another than the one that its sender signed")
        key = handover_key(joined.secret, order.membership, order.address.round)
        try:
            plain = unseal(key, _about_handover(order), body.sealed)
        except SealBroken:
            raise OrderRefused("the sealed model does not open: it is for another run, round or membership") from None
        model = SharedModel.read(memoryview(bytearray(plain)), self.member.layout)
        self.member.signers(Statements.of([body.statement]), "handover", model, joined)
        self.member.refuse_other_model(model, body.confirmed, joined)
        if model.round < known.model.round or model.round != order.address.round:
            raise OrderRefused(
                f"the sealed model is of round {model.round}, this site holds that of {known.model.round}"
            )
        self.member.memory.write(replace(known, model=model, residual=None))
        self._keep(model, order)
        return self._confirmed(order, model, {}, 0.0)

    def release(self, order: EncryptedOrder, body: Release) -> ReleasedModel:
        """The run's model, for the server to read, where the plan says so and the site's newest budget allows it.

        Raises:
            OrderRefused: the plan keeps the model with the sites, or the budget does not allow its release.
        """
        known, joined = self.member.joined(order)
        if self.member.plan.release != "server":
            raise OrderRefused("the plan says release = 'sites': no model leaves this site")
        self.site.refuse_plan()
        self.member.refuse_other_model(known.model, body.confirmed, joined)
        vector = known.model.state.average
        return ReleasedModel(
            statement=self.member.statement("release", order, digest_of_model(vector), known.model), vector=vector
        )

    def _keep(self, model: SharedModel, order: EncryptedOrder) -> None:
        """Keeps the run's model so far for the site's own people."""
        kept = KeptModel(
            run=order.address.run, round=model.round, vector=model.state.average, statistics=model.statistics
        )
        self.keep(kept, self.member.layout, self.member.plan)

    def _ready(self, order: EncryptedOrder, body: Work, purpose: Purpose) -> tuple[Remembered, SumKeys]:
        """What this site knows, and the keys of the sum that it is asked to add to."""
        known, joined = self.member.joined(order)
        self.member.refuse_cohort(order, joined)
        self.member.refuse_other_model(known.model, body.confirmed, joined)
        return known, self._keys(order, joined, purpose)

    def _contributors(self, order: EncryptedOrder, body: Take, model: SharedModel, joined: Joined) -> tuple[str, ...]:
        """The sites whose signed reports of this round and cohort are in a sum, all from this site's model."""
        names = self.member.signers(body.heads, "report", model, joined, order)
        if len(set(names)) != len(names) or not set(names) <= set(order.cohort) or len(names) < FEWEST_MEMBERS:
            raise OrderRefused(
                f"the sum holds the reports of {len(names)} sites; at least {FEWEST_MEMBERS} different ones of the "
                "cohort are needed, so that no member reads another's update"
            )
        return names

    def _advanced(
        self, order: EncryptedOrder, body: Take, known: Remembered, keys: SumKeys, contributors: tuple[str, ...]
    ) -> tuple[SharedModel, dict[str, float]]:
        model, layout = known.model, self.member.layout
        if order.address.round != model.round + 1:
            raise OrderRefused(
                f"the sum is of round {order.address.round}, but this site holds the model of round {model.round}"
            )
        ranges = self._ranges(model, order)
        mean, clipped = keys.decrypt_update(body.values, body.tally, contributors, ranges, layout.length)
        return model.advanced(mean, self.member.plan, layout), {"clipped": clipped}

    def _totals(
        self, order: EncryptedOrder, body: Take, known: Remembered, keys: SumKeys, contributors: tuple[str, ...]
    ) -> dict[str, float]:
        """The cohort's noisy metrics, which one site tells the server, once a round."""
        if self.name != teller(order.cohort) or order.address.round <= known.told:
            raise OrderRefused(
                "one site of a cohort tells the server a round's metrics, once: from two sums of different reports the "
                "server would learn what one site reported"
            )
        sums, _ = keys.decrypt_sums(body.values, body.tally, contributors, len(private_metrics.NAMES))
        return dict(zip(private_metrics.NAMES, sums.tolist(), strict=True))

    def _confirmed(
        self, order: EncryptedOrder, model: SharedModel, told: Mapping[str, float], seconds: float
    ) -> Confirmation:
        statement = self.member.statement("confirmation", order, digest_of_confirmation(told, seconds), model)
        return Confirmation(statement=statement, told=told, decrypted_in_seconds=seconds)

    def _keys(self, order: EncryptedOrder, joined: Joined, purpose: Purpose) -> SumKeys:
        return SumKeys(
            plan=self.member.plan,
            membership=joined.membership,
            secret=joined.secret,
            round=order.address.round,
            purpose=purpose,
            cohort=order.cohort,
        )

    def _plain(self, order: EncryptedOrder, body: Work, model: SharedModel, vector: NDArray[np.float32]) -> Order:
        """The order as a site in the clear would get it, on a vector of this site's model."""
        return Order(
            address=order.address,
            cohort=len(order.cohort),
            vector=vector,
            shown=body.shown,
            statistics=model.statistics,
        )

    def _ranges(self, model: SharedModel, order: EncryptedOrder) -> Ranges:
        return model.ranges(self.member.plan, self.member.layout, len(order.cohort))

    def _stream(self, order: EncryptedOrder) -> RandomStream:
        """What stochastic rounding draws from."""
        return self.site.stream("rounding", order.address.round)


def _about_handover(order: EncryptedOrder) -> bytes:
    return context("handover", order.address.run.encode(), order.membership.encode())
