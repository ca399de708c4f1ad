"""A sum that the server adds and can't read: the sites' values, their tally, and who signed what is in it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from federation.encrypted_orders import EncryptedReport, Statements, Take
from federation.membership import Membership
from federation.plan import Plan
from federation.statements import Statement
from federation.sum_parts import TALLY_LENGTH, encryption_of
from privacy.ciphertext_sum import CiphertextSum
from privacy.entries import Purpose
from privacy.frames import About


@dataclass(slots=True)
class EncryptedSum:
    """One sum of a round.

    length:  how many values are summed
    cohort:  names of the sites that were asked
    heads:   statements of the reports that are in it
    seconds: what adding took
    slowest: what encrypting took the slowest site
    """

    plan: Plan
    membership: Membership
    purpose: Purpose
    round: int
    length: int
    cohort: tuple[str, ...]
    heads: list[Statement] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0
    _values: CiphertextSum = field(init=False)
    _tally: CiphertextSum = field(init=False)

    def __post_init__(self) -> None:
        encryption = encryption_of(self.plan)
        whole = self.purpose != "update"
        self._values = CiphertextSum(encryption, self._about(""), self.length, whole=whole)
        self._tally = CiphertextSum(encryption, self._about("-tally"), TALLY_LENGTH, whole=True)

    def check(self, report: EncryptedReport) -> None:
        """Passes a report whose ciphertexts can be added.

        Raises:
            ReportRefused: they are malformed, foreign, the site's second, or one more than can be summed exactly.
        """
        self._values.check(report.site, report.values)
        self._tally.check(report.site, report.tally)

    def add(self, report: EncryptedReport) -> None:
        """Adds a report that was checked."""
        started = time.perf_counter()
        self._values.add(report.site, report.values)
        self._tally.add(report.site, report.tally)
        self.heads.append(report.statement)
        self.seconds += time.perf_counter() - started
        self.slowest = max(self.slowest, report.encrypted_in_seconds)

    def handed_out(self) -> Take:
        """The sum, for the members to read."""
        return Take(
            purpose=self.purpose,
            heads=Statements.of(self.heads),
            values=self._values.frames(),
            tally=self._tally.frames(),
        )

    def _about(self, part: str) -> About:
        return About(
            run=self.membership.run,
            membership=self.membership.digest,
            round=self.round,
            purpose=self.purpose + part,
            site="sum",
        )
