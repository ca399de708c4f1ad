"""The sum of the sites' ciphertexts, as the server keeps it: no key, one sum in memory.

In array comments: C ciphertexts of a block, N = 4096 coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.encryption_parameters import DROPPED_BITS, RING_DEGREE, Encryption
from privacy.errors import DuplicateReport, TooManySites
from privacy.frames import About, Wire, Words
from privacy.seal_ring import RINGS


class CiphertextSum:
    """Adds the sites' ciphertexts as they arrive, without a key. One sum is in memory.

    length: how many values are summed
    whole:  whether they are whole numbers
    """

    def __init__(self, encryption: Encryption, about: About, length: int, *, whole: bool) -> None:
        self._wire = Wire(encryption=encryption, length=length, whole=whole)
        self._about = about.of("sum")
        self._sites: set[str] = set()
        self._blocks = [_block_sum(self._wire, ciphertexts) for ciphertexts in self._wire.blocks]

    def check(self, site: str, frames: Sequence[bytes]) -> None:
        """Passes a site's part that can be added.

        Raises:
            MalformedCiphertext, ForeignCiphertext: a frame is not what was asked for.
            DuplicateReport: the site's part is in the sum already.
            TooManySites: one more could make the sum decrypt wrong.
        """
        if site in self._sites:
            raise DuplicateReport(f"the part of {site} is in the sum already")
        most = self._wire.encryption.most_sites
        if len(self._sites) >= most:
            raise TooManySites(f"the sum holds {most} parts, and one more could make it decrypt wrong")
        self._wire.check_uploads(frames, self._about.of(site))

    def add(self, site: str, frames: Sequence[bytes]) -> None:
        """Adds a site's part, all of it or nothing. Raises as `check`."""
        self.check(site, frames)
        for block, frame in zip(self._blocks, frames, strict=True):
            block.add(*self._wire.read_upload(frame))
        self._sites.add(site)

    def frames(self) -> tuple[bytes, ...]:
        """The sum, for the sites. At least one part is in it."""
        return tuple(
            self._wire.sum(self._about, number, *block.polynomials()) for number, block in enumerate(self._blocks)
        )


class _RingSum:
    """The sum of one block's ciphertexts, in SEAL."""

    def __init__(self, modulus_bits: int | None) -> None:
        self._modulus_bits = modulus_bits
        self._total: list[Any] = []

    def add(self, seeds: NDArray[np.uint8], c0: Words) -> None:
        """Adds (C, 64) seeds and (C, N) coefficients."""
        ring = RINGS.of(self._modulus_bits)
        loaded = (ring.ciphertext(seed, row) for seed, row in zip(seeds, c0, strict=True))
        if not self._total:
            self._total = list(loaded)
            return
        for total, ciphertext in zip(self._total, loaded, strict=True):
            ring.add(total, ciphertext)

    def polynomials(self) -> tuple[Words, Words]:
        """(C, N) coefficients of both."""
        ring = RINGS.of(self._modulus_bits)
        both = np.stack([ring.polynomials(ciphertext) for ciphertext in self._total])
        return both[:, 0], both[:, 1]


class _SizeSum:
    """The sum of one block of messages that are not encrypted: numbers modulo t."""

    def __init__(self, modulus_bits: int, ciphertexts: int) -> None:
        self._mask = np.uint64((1 << modulus_bits) - 1)
        self._total = np.zeros((ciphertexts, RING_DEGREE), np.uint64)

    def add(self, seeds: NDArray[np.uint8], c0: Words) -> None:
        """Adds (C, N) coefficients."""
        self._total += c0 >> np.uint64(DROPPED_BITS)
        self._total &= self._mask

    def polynomials(self) -> tuple[Words, Words]:
        """(C, N) coefficients, and ones in place of what only ciphertexts have."""
        return self._total << np.uint64(DROPPED_BITS), np.ones_like(self._total)


def _block_sum(wire: Wire, ciphertexts: int) -> _RingSum | _SizeSum:
    modulus_bits = wire.modulus_bits
    if wire.encryption.scheme == "sizes":
        assert modulus_bits is not None, "what is not encrypted is BFV's packing"
        return _SizeSum(modulus_bits, ciphertexts)
    return _RingSum(modulus_bits)
