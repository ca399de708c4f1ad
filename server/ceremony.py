"""Who belongs to an encrypted run: the server collects the sites' signed wishes and relays a secret that it can't read.

A site that comes later makes a new membership with a new secret; a member that is away stays one, and joins when it is
back. A member that holds an older model is brought up to date by another, through the server. What the server asserts
here the sites check for themselves (`clients/member.py`): it can refuse service, and learns nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from flwr.app import Message, RecordDict

from federation.credentials import Credentials
from federation.encrypted_messages import write_order
from federation.encrypted_orders import (
    Action,
    Body,
    Confirmation,
    Draw,
    Enrol,
    HandedOver,
    HandOver,
    Join,
    Receive,
    Statements,
)
from federation.encrypted_replies import read_confirmation, read_enrolment, read_handover, read_secrets
from federation.membership import FEWEST_MEMBERS, Enrolment, Membership
from federation.orders import Refusal
from federation.run_secret import SealedSecrets
from federation.statements import Statement
from privacy.errors import FedSealError, LateReport, MalformedReport, NotJoined, RunFailed, UnknownSite
from server.desk import Desk, Tally
from server.signing import signed_order

_MOST_CONFIRMATIONS = 64  # that an order carries: enough for a site to see that it is not alone


class Ceremony:
    """The membership of a run, and which model each member says that it holds.

    first: digest of the model before round 1
    """

    def __init__(self, desk: Desk, credentials: Credentials, first: str) -> None:
        self._desk, self._credentials = desk, credentials
        self._enrolled: dict[int, Enrolment] = {}
        self._membership: Membership | None = None
        self._secrets: SealedSecrets | None = None
        self._confirmed: dict[int, Statement] = {}
        self._behind: set[int] = set()
        self._handed: HandedOver | None = None
        self.model = first

    @property
    def membership(self) -> Membership:
        """The newest membership."""
        if self._membership is None:
            raise RuntimeError("a run has no membership before its sites are assembled")
        return self._membership

    def name(self, node: int) -> str:
        """The certified name of the site behind a node."""
        return self._enrolled[node].name

    def members(self, nodes: Sequence[int]) -> list[int]:
        """Those among these nodes whose sites are members."""
        return [node for node in nodes if node in self._enrolled]

    def cohort(self, nodes: Sequence[int]) -> tuple[str, ...]:
        """The names of the members behind these nodes, sorted."""
        return tuple(sorted(self.name(node) for node in nodes))

    def assemble(self, nodes: Sequence[int], number: int, tally: Tally) -> list[int]:
        """The nodes among these whose sites are members; new sites make a new membership and secret.

        Raises:
            RunFailed: too few sites are certified, or none could draw the secret.
        """
        self._forget(self._desk.lost)
        strangers = [node for node in nodes if node not in self._enrolled]
        if strangers and self._enrol(strangers, number, tally):
            self._draw(self.members(nodes), number, tally)
        if self._membership is None:
            self._refuse_few(tally)
        return self.members(nodes)

    def bring_up_to_date(self, nodes: Sequence[int], number: int, tally: Tally) -> list[int]:
        """Has these members join, and hold the model that round `number` starts from; returns those that do."""
        self._join([node for node in nodes if node not in self._confirmed], number, tally)
        behind = [node for node in nodes if node in self._confirmed and not self._holds(node)]
        if behind:
            self._receive(behind, number, tally)
        return [node for node in nodes if node in self._confirmed and self._holds(node)]

    def confirmations(self) -> Statements:
        """What members have signed about the model that the next round starts from."""
        holding = [said for node, said in self._confirmed.items() if self._holds(node)]
        return Statements.of(holding[:_MOST_CONFIRMATIONS])

    def agree(self, confirmed: Mapping[int, Confirmation], tally: Tally) -> list[int]:
        """Takes what members say that they hold after a sum; returns the nodes of the most, who alone go on.

        The others missed something, and are brought up to date before they are asked again.
        """
        self._confirmed |= {node: said.statement for node, said in confirmed.items()}
        self._behind -= confirmed.keys()
        self._handed = None
        if not confirmed:
            return []
        models = Counter(said.statement.model for said in confirmed.values())
        self.model = models.most_common(1)[0][0]
        for node in confirmed:
            if not self._holds(node):
                reason = "its model differs from the other sites' after the same sum"
                tally.refused.append(self._desk.roster.failed(node, "ModelDiffers", reason))
        return [node for node in confirmed if self._holds(node)]

    def order(self, action: Action, number: int, cohort: Sequence[str], body: Body) -> RecordDict:
        """An order for the newest membership, signed."""
        membership = "" if self._membership is None else self._membership.digest
        return signed_order(
            self._credentials, write_order(action, self._desk.address(number), membership, cohort, body)
        )

    def ask(
        self, action: Action, number: int, orders: Mapping[int, RecordDict], tally: Tally
    ) -> Iterator[tuple[int, Message]]:
        """Sends orders of what lies between training and evaluation, and yields the replies."""
        return self._desk.replies(orders, f"query.{action}", number, tally)

    def confirmation(self, node: int, reply: Message, number: int | None = None) -> Confirmation | Refusal:
        """A member's signed confirmation.

        number: the round that it must be for; None: any

        Raises:
            ReportRefused: it is malformed, not the member's, or for another run, membership or round.
        """
        found = read_confirmation(content_of(reply))
        if isinstance(found, Refusal):
            return found
        self.refuse_other_statement(found.statement, "confirmation", node)
        if number is not None and found.statement.round != number:
            raise LateReport(f"a confirmation of round {found.statement.round}, this is round {number}")
        return found

    def refuse_other_statement(self, said: Statement, kind: str, node: int) -> None:
        """Passes a statement that the member behind a node signed, in this run and membership.

        Raises:
            ReportRefused: it is another's, or for another run.
        """
        address = self._desk.address(said.round)
        wanted = (kind, address.run, address.plan, address.layout, self.membership.digest, self.name(node))
        if (said.kind, said.run, said.plan, said.layout, said.membership, said.name) != wanted:
            raise MalformedReport("the signed statement is of another kind, run, plan, membership or site")
        try:
            said.verify(self.membership.identity(said.name))
        except FedSealError as error:
            raise MalformedReport(f"the statement does not hold: {error}") from None

    def _holds(self, node: int) -> bool:
        return node not in self._behind and self._confirmed[node].model == self.model

    def _forget(self, lost: Mapping[int, str]) -> None:
        """Takes in what sites said when they refused: that they know nothing of the run, or hold another model."""
        for node, error in lost.items():
            if error == NotJoined.__name__:
                self._enrolled.pop(node, None)
                self._confirmed.pop(node, None)
            elif node in self._confirmed:
                self._behind.add(node)
        self._desk.lost.clear()

    def _enrol(self, nodes: Sequence[int], number: int, tally: Tally) -> bool:
        """Asks these sites to take part; whether one will."""
        order = self.order("enrol", number, (), Enrol())
        replies = self.ask("enrol", number, dict.fromkeys(nodes, order), tally)
        before = len(self._enrolled)
        for node, enrolment in self._desk.admitted(replies, self._enrolment, tally):
            self._enrolled[node] = enrolment
            self._desk.roster.enrolled(node, enrolment.name, enrolment.declared_rows)
        return len(self._enrolled) > before

    def _enrolment(self, node: int, reply: Message) -> Enrolment | Refusal:
        found = read_enrolment(content_of(reply))
        if isinstance(found, Refusal):
            return found
        address = self._desk.address(0)
        try:
            found.check(self._credentials.trust, address.run, address.plan)
        except FedSealError as error:
            raise UnknownSite(f"its wish to take part does not hold: {error}") from None
        if any(found.name == other.name for other_node, other in self._enrolled.items() if other_node != node):
            raise UnknownSite(f"another node takes part as {found.name} already")
        return found

    def _draw(self, online: Sequence[int], number: int, tally: Tally) -> None:
        """A new membership of all that are enrolled, and a secret that one of them draws."""
        self._refuse_few(tally)
        epoch = 1 if self._membership is None else self._membership.epoch + 1
        address = self._desk.address(number)
        self._membership = Membership.of(address.run, address.plan, epoch, self._enrolled.values())
        self._confirmed.clear()
        self._behind.clear()
        self._handed = None
        order = self.order("draw", number, (), Draw(membership=self._membership.to_text()))
        for node in online:
            replies = self.ask("draw", number, {node: order}, tally)
            for _, secrets in self._desk.admitted(replies, self._drawn, tally):
                self._secrets = secrets
                return
        raise RunFailed("no site could draw the run's secret; the reasons are in the sites' own logs and above")

    def _refuse_few(self, tally: Tally) -> None:
        fewest = max(FEWEST_MEMBERS, self._desk.plan.cohort.quorum)
        if len(self._enrolled) < fewest:
            reasons = "; ".join(f"{refused.site}: {refused.reason}" for refused in tally.refused[:3])
            raise RunFailed(
                f"{len(self._enrolled)} certified sites want to take part, but an encrypted run of this plan needs "
                f"{fewest}. {reasons}"
            )

    def _drawn(self, node: int, reply: Message) -> SealedSecrets | Refusal:
        found = read_secrets(content_of(reply))
        if isinstance(found, Refusal):
            return found
        if found.drawer != self.name(node) or found.membership != self.membership.digest:
            raise MalformedReport("the sealed secrets are another site's, or for another membership")
        return found

    def _join(self, nodes: Sequence[int], number: int, tally: Tally) -> None:
        if not nodes:
            return
        assert self._secrets is not None, "a membership has its secret drawn before anybody joins it"
        text = self.membership.to_text()
        orders = {}
        for node in nodes:
            secret = self._secrets.for_member(self.name(node))
            orders[node] = self.order("join", number, (), Join(membership=text, secret=secret))
        replies = self.ask("join", number, orders, tally)
        for node, said in self._desk.admitted(replies, self.confirmation, tally):
            self._confirmed[node] = said.statement

    def _receive(self, behind: Collection[int], number: int, tally: Tally) -> None:
        confirmed = self.confirmations()
        handed = self._handed or self._handed_over(behind, number, confirmed, tally)
        if handed is None:
            return
        self._handed = handed
        body = Receive(statement=handed.statement, sealed=handed.sealed, confirmed=confirmed)
        order = self.order("receive", number - 1, (), body)
        replies = self.ask("receive", number - 1, dict.fromkeys(behind, order), tally)
        for node, said in self._desk.admitted(replies, self.confirmation, tally):
            self._confirmed[node] = said.statement
            self._behind.discard(node)

    def _handed_over(
        self, behind: Collection[int], number: int, confirmed: Statements, tally: Tally
    ) -> HandedOver | None:
        """The model, sealed by the first member that holds it and answers."""
        order = self.order("hand_over", number - 1, (), HandOver(confirmed=confirmed))
        for node in [node for node in self._confirmed if self._holds(node) and node not in behind]:
            replies = self.ask("hand_over", number - 1, {node: order}, tally)
            for _, handed in self._desk.admitted(replies, self._sealed, tally):
                return handed
        return None

    def _sealed(self, node: int, reply: Message) -> HandedOver | Refusal:
        found = read_handover(content_of(reply))
        if not isinstance(found, Refusal):
            self.refuse_other_statement(found.statement, "handover", node)
            if found.statement.model != self.model:
                raise MalformedReport("the sealed model is another than the one that most sites hold")
        return found


def content_of(reply: Message) -> RecordDict:
    """What a reply says.

    Raises:
        MalformedReport: Flower reports an error in its place.
    """
    if reply.has_error():
        raise MalformedReport(f"Flower reports error {reply.error.code} from the site: {reply.error.reason}")
    return reply.content
