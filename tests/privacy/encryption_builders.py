"""Small encrypted sums: keys, scales and vectors that hurt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privacy.ciphertext_sum import CiphertextSum
from privacy.encryption import decrypt_vector, encrypt_vector
from privacy.encryption_parameters import Encryption
from privacy.frames import About
from privacy.packing import Ranges, Scale
from privacy.secret import Secret

KEY = Secret(bytes(range(64)))
OTHER_KEY = Secret(bytes(64))
ABOUT = About(run="1", membership="ab" * 32, round=3, purpose="update", site="sum")


def encryption(bits: int = 16, scheme: str = "bfv") -> Encryption:
    return Encryption.of(scheme, bits)


def scale(length: int, sites: int, weight: float = 1.0, bound: float = 1.0, stochastic: bool = False) -> Scale:
    return Scale(ranges=Ranges((length,), (bound,)), sites=sites, weight=weight, stochastic=stochastic)


def numbered(site: int) -> About:
    return ABOUT.of(f"site-{site}")


def uploads(
    used: Encryption, vectors: NDArray[np.float32], weights: list[float], key: Secret = KEY
) -> list[tuple[bytes, ...]]:
    """What sites send of the rows of a matrix, (sites, P)."""
    sites, length = vectors.shape
    return [
        encrypt_vector(used, row, scale(length, sites, weight), key, numbered(place)).frames
        for place, (row, weight) in enumerate(zip(vectors, weights, strict=True))
    ]


def summed(used: Encryption, parts: list[tuple[bytes, ...]], length: int, whole: bool = False) -> tuple[bytes, ...]:
    """The sum of the parts of site 0, 1, 2, ..."""
    total = CiphertextSum(used, ABOUT, length, whole=whole)
    for place, part in enumerate(parts):
        total.add(f"site-{place}", part)
    return total.frames()


def mean_of(used: Encryption, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """The decrypted mean of the rows, (P,)."""
    sites, length = vectors.shape
    frames = summed(used, uploads(used, vectors, [1 / sites] * sites), length)
    return decrypt_vector(used, frames, length, scale(length, sites), KEY, ABOUT)
