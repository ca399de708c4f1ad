"""What a site adds to an encrypted sum, and what the sites read from it: values, and a tally of who is in it.

The weight of a site in a sum is public: one, or its declared rows, over the whole cohort's, so that all weights add up
to at most one. A tally holds four whole numbers a site: its weight, one, how many of its values were clipped, and a
check that only members can compute (`federation.run_secret`). A sum whose tally does not come to what the signed
statements of its contributors say is refused: a report was left out, repeated, or is not theirs.

Sums of metrics and statistics are whole numbers of 1/256. P is the length of the layout's vector, V a number of sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.encrypted_orders import Frames
from federation.membership import Membership
from federation.plan import Plan
from federation.run_secret import contributor_checks, sum_key
from privacy.encryption import decrypt_numbers, decrypt_vector, encrypt_numbers, encrypt_vector
from privacy.encryption_parameters import Encryption
from privacy.entries import Purpose
from privacy.errors import SumRefused
from privacy.frames import About
from privacy.noise import RandomStream
from privacy.packing import Ranges, Scale
from privacy.secret import Secret

TALLY_LENGTH = 4
_WEIGHT_UNIT = 1 << 30
_SUM_UNIT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A site's part of a sum, encrypted.

    residual: what rounding left out, (P,); None where the plan does not feed it back
    """

    values: Frames
    tally: Frames
    residual: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SumKeys:
    """One sum of a run: who may be in it, and the keys of those who may read it.

    cohort: names of the sites that were asked
    """

    plan: Plan
    membership: Membership
    secret: Secret
    round: int
    purpose: Purpose
    cohort: tuple[str, ...]

    @property
    def encryption(self) -> Encryption:
        """How it is encrypted."""
        return encryption_of(self.plan)

    def encrypt_update(
        self,
        site: str,
        update: NDArray[np.float32],
        ranges: Ranges,
        stream: RandomStream,
    ) -> Part:
        """A site's weighted update, (P,)."""
        hardware, rounding = self.plan.hardware, self.plan.encryption.rounding
        scale = self._scale(ranges, self._weights([site])[0])
        made = encrypt_vector(
            self.encryption,
            update,
            scale,
            self._key(""),
            self._about(site, ""),
            processes=hardware.encryption_processes,
            stream=stream if rounding == "stochastic" else None,
            residual=rounding == "error-feedback",
        )
        return Part(values=made.frames, tally=self._tally(site, made.clipped), residual=made.residual)

    def encrypt_sums(self, site: str, sums: NDArray[np.float64]) -> Part:
        """A site's sums, (V,); values beyond what the cohort's sum can hold are clipped."""
        most = self.encryption.largest_number // len(self.cohort)
        numbers = np.rint(sums * _SUM_UNIT)
        clipped = int((np.abs(numbers) > most).sum())
        whole = np.clip(numbers, -most, most).astype(np.int64)
        frames = encrypt_numbers(self.encryption, whole, self._key(""), self._about(site, ""))
        return Part(values=frames, tally=self._tally(site, clipped))

    def decrypt_update(
        self, values: Frames, tally: Frames, contributors: Sequence[str], ranges: Ranges, length: int
    ) -> tuple[NDArray[np.float32], float]:
        """The weighted mean update of the contributors, (P,), and the share of their values that were clipped.

        Raises:
            ReportRefused: the frames are malformed or foreign, or the tally says that others are in the sum.
        """
        clipped = self._check_tally(tally, contributors)
        total = decrypt_vector(
            self.encryption,
            values,
            length,
            self._scale(ranges, 1.0),
            self._key(""),
            self._about("sum", ""),
            processes=self.plan.hardware.encryption_processes,
        )
        weight = math.fsum(self._weights(contributors))
        return (total / weight).astype(np.float32), clipped / (length * len(contributors))

    def decrypt_sums(
        self, values: Frames, tally: Frames, contributors: Sequence[str], length: int
    ) -> tuple[NDArray[np.float64], float]:
        """The sums of the contributors, (V,), and the share of their values that were clipped. Raises as the above."""
        clipped = self._check_tally(tally, contributors)
        numbers = decrypt_numbers(self.encryption, values, length, self._key(""), self._about("sum", ""))
        return numbers / _SUM_UNIT, clipped / (length * len(contributors))

    def _tally(self, site: str, clipped: int) -> Frames:
        (weight,), (check,) = self._weights([site]), self._checks([site])
        numbers = [_in_units(weight), 1, clipped, check]
        key, about = self._key("-tally"), self._about(site, "-tally")
        return encrypt_numbers(self.encryption, np.array(numbers, np.int64), key, about)

    def _check_tally(self, tally: Frames, contributors: Sequence[str]) -> int:
        """How many values were clipped, once the tally is that of these contributors."""
        key, about = self._key("-tally"), self._about("sum", "-tally")
        found = decrypt_numbers(self.encryption, tally, TALLY_LENGTH, key, about).tolist()
        weight, count, clipped, check = found
        expected = len(contributors), sum(map(_in_units, self._weights(contributors)))
        if (count, weight) != expected or (check - sum(self._checks(contributors))) % self.encryption.number_modulus:
            raise SumRefused(
                f"the sum of round {self.round} is not that of the {len(contributors)} reports that it came with: one "
                "was left out, repeated or replaced on the way, or it was encrypted under another key"
            )
        return int(clipped)

    def _checks(self, sites: Sequence[str]) -> list[int]:
        """The sites' checks, as signed numbers."""
        half = self.encryption.number_modulus // 2
        found = contributor_checks(self.secret, self.membership.digest, self.round, sites)
        return [(check + half) % (2 * half) - half for check in found]

    def _weights(self, sites: Sequence[str]) -> list[float]:
        """The sites' shares of the cohort's weight."""
        whole = sum(map(self._rows, self.cohort))
        return [self._rows(site) / whole for site in sites]

    def _rows(self, site: str) -> int:
        settings = self.plan.aggregation
        if settings.weights == "uniform":
            return 1
        return min(max(self.membership.declared_rows(site), 1), settings.weight_cap)

    def _scale(self, ranges: Ranges, weight: float) -> Scale:
        return Scale(
            ranges=ranges,
            sites=len(self.cohort),
            weight=weight,
            stochastic=self.plan.encryption.rounding == "stochastic",
        )

    def _key(self, part: str) -> Secret:
        return sum_key(self.secret, self.membership.digest, self.round, self.purpose + part)

    def _about(self, site: str, part: str) -> About:
        return About(
            run=self.membership.run,
            membership=self.membership.digest,
            round=self.round,
            purpose=self.purpose + part,
            site=site,
        )


def _in_units(weight: float) -> int:
    return round(weight * _WEIGHT_UNIT)


def encryption_of(plan: Plan) -> Encryption:
    """How a plan's sums are encrypted."""
    settings = plan.encryption
    return Encryption.of("sizes" if settings.simulate == "sizes" else settings.scheme, settings.bits)
