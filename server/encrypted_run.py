"""An encrypted run: the server adds what it can't read, hands the sum to the sites, and hears that they all agree.

It holds no key. Reports are added as they arrive; one sum is in memory, however many sites report. The sum goes to the
members with the signed statements of those who are in it; each decrypts it, computes the same next model, and confirms
which model it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from flwr.app import Message, MessageType
from numpy.typing import NDArray

from federation import private_metrics, statistics
from federation.contradictions import refuse_large_cohort
from federation.credentials import Credentials
from federation.encrypted_orders import Action, Confirmation, EncryptedReport, Work, teller
from federation.membership import FEWEST_MEMBERS
from federation.optimizers import ModelState
from federation.orders import Refusal
from federation.shared_model import SharedModel
from federation.wire import shown_with
from privacy.entries import Purpose
from privacy.errors import PlanInvalid, RunFailed
from privacy.shown import Shown
from server.admission import Admission, Admitted
from server.ceremony import Ceremony
from server.conduct import Seen
from server.desk import Desk, Tally
from server.encrypted_admission import EncryptedAdmission
from server.encrypted_sum import EncryptedSum
from server.figures import figures_of
from server.metric_pool import MetricPool
from server.model_release import released_model
from server.records import EncryptionRecord
from server.survey import wanted_statistics

_KINDS: Mapping[Purpose, tuple[Action, str]] = {
    "update": ("train", MessageType.TRAIN),
    "metrics": ("evaluate", MessageType.EVALUATE),
    "statistics": ("statistics", MessageType.QUERY),
}


class EncryptedRun:
    """The state that rounds hand on: the membership, and the sum under way.

    insight: the sites' own model, which only a simulator can see; None in deployments
    """

    def __init__(
        self,
        desk: Desk,
        vector: NDArray[np.float32],
        credentials: Credentials | None,
        insight: Callable[[], Seen] | None,
    ) -> None:
        if credentials is None:
            raise RunFailed(
                "this server has no certificate, without which sites take no order of an encrypted run: make its safe "
                "with `fedseal server init DIR`, have it certified, and start the server with FEDSEAL_SERVER=DIR"
            )
        self._desk, self._insight = desk, insight
        self._ceremony = Ceremony(desk, credentials, SharedModel.start(vector, desk.plan).digest)
        self._sum: EncryptedSum | None = None
        self._asked: list[int] = []
        self._rounds = 0
        self._released: NDArray[np.float32] | None = None

    def assemble(self, nodes: Sequence[int], number: int, tally: Tally) -> list[int]:
        """The nodes of certified sites; new ones become members first."""
        return self._ceremony.assemble(nodes, number, tally)

    def gather_statistics(self, nodes: Sequence[int], tally: Tally) -> None:
        """Hands the sum of the sites' noisy statistics to the sites."""
        wanted = wanted_statistics(self._desk.task, self._desk.plan)
        ready = self._ceremony.bring_up_to_date(nodes, 1, tally)
        total = self._collected("statistics", 0, ready, statistics.width(wanted), tally)
        self._refuse_few(len(total.heads), "sites released their statistics", tally)
        self._refuse_few(len(self._agreed(total, ready, tally)), "sites took the sum of statistics", tally)

    def train(self, number: int, asked: Sequence[int], tally: Tally) -> None:
        """Adds each admitted report's ciphertexts."""
        self._asked = self._ceremony.bring_up_to_date(asked, number, tally)
        self._sum = self._collected("update", number, self._asked, self._desk.layout.length, tally)

    def advance(self, number: int, tally: Tally) -> None:
        """Hands the sum to the cohort, whose sites make it the next model."""
        assert self._sum is not None, "a round's updates are added before the model advances"
        total, self._sum = self._sum, None
        members = [node for node in self._asked if node not in self._desk.lost]
        confirmed = self._agreed(total, members, tally)
        tally.encryption = EncryptionRecord(
            clipped_share=self._told(total, confirmed).get("clipped"),
            same_model=len(confirmed),
            encrypt_seconds=total.slowest,
            add_seconds=total.seconds,
            decrypt_seconds=max((said.decrypted_in_seconds for said in confirmed.values()), default=0.0),
        )
        self._refuse_few(len(confirmed), "sites hold the same model", tally)
        self._rounds = number

    def figures(self, number: int, asked: Sequence[int], tally: Tally) -> tuple[Mapping[str, float], str]:
        """What the plan has sites report of their held-out records; of noisy sums the server sees the total only."""
        desk = self._desk
        ready = self._ceremony.bring_up_to_date(asked, self._rounds + 1, tally)
        mechanism = desk.expectation(number).prices["metrics"]
        if mechanism is None:
            return figures_of(self._pooled(number, ready, tally), desk.task, desk.plan, None), "plain sums from sites"
        total = self._collected("metrics", number, ready, len(private_metrics.NAMES), tally)
        asked_to_tell = [node for node in ready if self._ceremony.name(node) == teller(total.cohort)]
        enough = len(total.heads) >= FEWEST_MEMBERS
        told = self._told(total, self._handed_out(total, asked_to_tell, tally)) if enough else {}
        sums = {name: torch.tensor(told[name], dtype=torch.float64) for name in private_metrics.NAMES if name in told}
        figures = private_metrics.private_figures(sums, len(total.heads), desk.plan, mechanism) if sums else {}
        return figures, "noisy sums from sites"

    def seen(self) -> Seen | None:
        """The sites' model in a simulation; in a deployment nothing, unless the plan had it released."""
        if self._insight is not None:
            return self._insight()
        if self._released is None:
            return None
        nothing = self._released[:0]
        state = ModelState(vector=self._released, first=nothing, second=nothing, average=self._released)
        return Seen(state=state, statistics=())

    def finish(self, nodes: Sequence[int], tally: Tally) -> str:
        """Brings every member that is online to the last model; has it released where the plan says so."""
        try:
            ready = self._ceremony.bring_up_to_date(self._ceremony.members(nodes), self._rounds + 1, tally)
            if self._desk.plan.release == "server":
                self._released = released_model(self._desk, self._ceremony, self._rounds, ready, tally)
        except RunFailed as error:
            return str(error)
        return ""

    def _collected(
        self, purpose: Purpose, number: int, nodes: Sequence[int], length: int, tally: Tally
    ) -> EncryptedSum:
        """The sum of the parts of these members that are admitted."""
        desk = self._desk
        self._refuse_many(len(nodes))
        cohort = self._ceremony.cohort(nodes)
        total = EncryptedSum(desk.plan, self._ceremony.membership, purpose, number, length, cohort)
        admission = EncryptedAdmission(
            expected=desk.expectation(number),
            total=total,
            ceremony=self._ceremony,
            witness=desk.witness,
            asked=desk.witness.shown_to(nodes),
        )
        replies = self._work(purpose, number, cohort, admission.asked, tally)
        if purpose == "update":
            replies = desk.watched(number, len(nodes), replies)
        for node, admitted in desk.admitted(replies, admission.admit, tally):
            self._count(node, admitted, purpose, tally)
        desk.witness.save()
        return total

    def _count(self, node: int, admitted: Admitted[EncryptedReport], purpose: Purpose, tally: Tally) -> None:
        roster = self._desk.roster
        tally.seeded |= admitted.report.seeded
        if purpose == "update":
            rows = self._ceremony.membership.declared_rows(admitted.report.site)
            tally.answered.append(roster.took_part(node, admitted, rows)[0])
        else:
            roster.spent(node, admitted)

    def _work(
        self,
        purpose: Purpose,
        number: int,
        cohort: tuple[str, ...],
        shown: Mapping[int, tuple[Shown, ...]],
        tally: Tally,
    ) -> Iterator[tuple[int, Message]]:
        action, kind = _KINDS[purpose]
        body = Work(shown=(), confirmed=self._ceremony.confirmations())
        signed = self._ceremony.order(action, number, cohort, body)
        orders = {node: shown_with(signed, each) for node, each in shown.items()}
        return self._desk.replies(orders, kind, number, tally)

    def _handed_out(self, total: EncryptedSum, nodes: Sequence[int], tally: Tally) -> dict[int, Confirmation]:
        """What the members say who took the sum."""
        ceremony, number = self._ceremony, total.round
        order = ceremony.order("take", number, total.cohort, total.handed_out())
        replies = ceremony.ask("take", number, dict.fromkeys(nodes, order), tally)
        confirmation: Callable[[int, Message], Confirmation | Refusal] = partial(ceremony.confirmation, number=number)
        return dict(self._desk.admitted(replies, confirmation, tally))

    def _agreed(self, total: EncryptedSum, nodes: Sequence[int], tally: Tally) -> dict[int, Confirmation]:
        """What the members say who took the sum and came to the same model as most."""
        confirmed = self._handed_out(total, nodes, tally)
        return {node: confirmed[node] for node in self._ceremony.agree(confirmed, tally)}

    def _pooled(self, number: int, nodes: Sequence[int], tally: Tally) -> MetricPool:
        """Exact metric sums, which the plan has sites report in the clear."""
        desk, pool = self._desk, MetricPool()
        witness = desk.witness
        admission = Admission(expected=desk.expectation(number), witness=witness, asked=witness.shown_to(nodes))
        replies = self._work("metrics", number, self._ceremony.cohort(nodes), admission.asked, tally)
        for node, admitted in desk.admitted(replies, partial(admission.admit_sums, purpose="metrics"), tally):
            desk.roster.spent(node, admitted)
            pool.add(node, admitted.report.sums)
        witness.save()
        return pool

    def _told(self, total: EncryptedSum, confirmed: Mapping[int, Confirmation]) -> Mapping[str, float]:
        """What the site that is to tell has read from a sum; nothing where it did not take it."""
        said = [each for node, each in confirmed.items() if self._ceremony.name(node) == teller(total.cohort)]
        return said[0].told if said else {}

    def _refuse_few(self, sites: int, did: str, tally: Tally) -> None:
        quorum = self._desk.plan.cohort.quorum
        if sites < quorum:
            reasons = "; ".join(f"{refused.site}: {refused.reason}" for refused in tally.refused[:3])
            raise RunFailed(f"only {sites} {did}, but the plan's quorum is {quorum}. {reasons}")

    def _refuse_many(self, sites: int) -> None:
        try:
            refuse_large_cohort(self._desk.plan, sites)
        except PlanInvalid as error:
            raise RunFailed(str(error)) from None
