"""What is added to an encrypted sum: reports that members of the cohort signed, from the model that most hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import Message

from federation.encrypted_orders import EncryptedReport, digest_of_cohort
from federation.encrypted_replies import read_report
from federation.orders import Expectation, Refusal
from federation.wire import refuse_other_address
from privacy.errors import DuplicateReport, MalformedReceipt, MalformedReport, UnknownSite, WrongShape
from privacy.shown import Shown
from server.admission import Admitted
from server.ceremony import Ceremony, content_of
from server.encrypted_sum import EncryptedSum
from server.witness import Witness


@dataclass(slots=True, kw_only=True)
class EncryptedAdmission:
    """The door of one sum: what each node was shown, who has answered, and what a report must match."""

    expected: Expectation
    total: EncryptedSum
    ceremony: Ceremony
    witness: Witness
    asked: Mapping[int, tuple[Shown, ...]]
    answered: set[int] = field(default_factory=set)

    def admit(self, node: int, reply: Message) -> Admitted[EncryptedReport] | Refusal:
        """Adds a report whose site's ledger proves its price; or hands on a site's refusal.

        Raises:
            ReportRefused: one of its kinds; the round goes on without this reply.
        """
        content = content_of(reply)
        if node not in self.asked:
            raise UnknownSite(f"node {node} was not asked in this round")
        if node in self.answered:
            raise DuplicateReport(f"node {node} has answered this round already")
        report = read_report(content, self.expected, self.total.purpose)
        if isinstance(report, Refusal):
            return report
        self._refuse_other_report(node, report)
        self.answered.add(node)
        self.total.check(report)
        reserved = self.witness.judge(node, report, self.asked[node], self.expected)
        self.total.add(report)
        return Admitted(report, reserved)

    def _refuse_other_report(self, node: int, report: EncryptedReport) -> None:
        said = report.statement
        self.ceremony.refuse_other_statement(said, "report", node)
        refuse_other_address(said.address, self.expected.address)
        if said.cohort != digest_of_cohort(self.total.cohort):
            raise MalformedReport("the report is for another cohort")
        if said.model != self.ceremony.model:
            raise WrongShape("the report starts from another model than most sites hold")
        if report.receipt.verifying != self.ceremony.membership.identity(said.name).verifying:
            raise MalformedReceipt("the receipt is of another ledger than the certified site's own")
