"""What an encrypted sum can hold, from the scheme's parameters alone: nothing here encrypts.

Ring of 4,096 coefficients, one prime modulus q of 60 bits: 128-bit security for ternary secrets (the Homomorphic
Encryption Standard, Albrecht et al. 2018, allows 109 bits for this ring). BFV's plain modulus t is a power of two, so
that several fields share a coefficient; packing several values in one coefficient is known (FedBit, arXiv 2509.23091).

How many ciphertexts may be added: a coefficient decrypts right while its noise stays below q / (2 t) (Fan and
Vercauteren 2012). Each adds at most 29.5: 21 (SEAL's centred binomial error, 21 coins of each sign), 0.5 (SEAL rounds
q m / t, so that wrapping around t adds nothing), and 8 (the four lowest bits of c0 do not travel; 16 divides q - 1, so
that rounding c0 never reaches q). The sum's own c0 travels short, too: 8 more, once. Each is counted with 31.5: the 2
to spare cover those 8 from four ciphertexts on, and fewer are far from the bound.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from privacy.packing import Packing
from privacy.sealing import context

RING_DEGREE = 4096
COEFFICIENT_MODULUS = 1152921504606830593  # SEAL's CoeffModulus::Create(4096, {60})
DROPPED_BITS = 4
CKKS_SCALE = 2.0**40
_NOISE_OF_A_SITE = 31.5
_CKKS_NUMBER_BITS = 42

Scheme: TypeAlias = Literal["bfv", "ckks", "sizes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """How a run's sums are encrypted.

    scheme: bfv (exact); ckks (approximate, no range; whole numbers beside it are bfv); sizes (NOT encrypted, the same
            results and sizes as bfv, for simulations)
    bits:   of a value's field, 12, 14, 16 or 24; ckks has none and ignores it
    """

    scheme: Scheme
    bits: int

    @staticmethod
    def of(scheme: str, bits: int) -> Encryption:
        """The encryption of these settings of a plan."""
        return Encryption(scheme=cast(Scheme, scheme), bits=bits)

    @property
    def packing(self) -> Packing:
        """How values share a coefficient."""
        return Packing(self.bits)

    @property
    def numbers(self) -> Packing:
        """How whole numbers are held: one a coefficient, in the plain modulus of the values."""
        return Packing(_CKKS_NUMBER_BITS if self.scheme == "ckks" else self.packing.modulus_bits)

    @property
    def number_modulus(self) -> int:
        """What sums of whole numbers wrap around at."""
        return 1 << self.numbers.modulus_bits

    @property
    def largest_number(self) -> int:
        """The largest absolute value of a sum of whole numbers."""
        return self.number_modulus // 2 - 1

    @property
    def most_sites(self) -> int:
        """How many sites' ciphertexts add up without an error, whatever they hold."""
        return int(COEFFICIENT_MODULUS / (2 * self.number_modulus) / _NOISE_OF_A_SITE)

    def parameters_id(self, whole: bool) -> bytes:
        """16 bytes that only messages of the same parameters carry."""
        modulus = self.numbers if whole else self.packing
        named = (self.scheme, str(modulus.bits), str(RING_DEGREE), str(COEFFICIENT_MODULUS), str(whole))
        return hashlib.sha256(context("encryption", *(part.encode() for part in named))).digest()[:16]
