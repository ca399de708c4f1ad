"""Randomness that privacy rests on: Gaussian noise and sampling draws from a cryptographic stream.

The stream is AES-256 in counter mode (NIST SP 800-38A 6.5) under a 32-byte key from the operating system; normals are
Box and Muller (1958) on 53-bit uniforms. In simulations and tests the key is derived from a seed instead (HKDF-SHA256,
RFC 5869), and `seeded` says so, because a run whose noise can be recomputed protects nobody.

Not claimed: resistance to attacks on floating-point noise (Mironov 2012, "On significance of the least significant
bits"). The samples are floats, not an exact discrete Gaussian.
"""

from __future__ import annotations

import json
import os

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray


class RandomStream:
    """An endless stream of uniforms, normals and coin tosses. Not safe for use from two threads at once."""

    def __init__(self, key: bytes, *, seeded: bool) -> None:
        self.seeded = seeded
        self._keystream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def from_system(cls) -> RandomStream:
        """A stream that nobody can repeat."""
        return cls(os.urandom(32), seeded=False)

    @classmethod
    def from_seed(cls, seed: int, *labels: str | int) -> RandomStream:
        """The same stream for the same seed and labels: simulations and tests only."""
        info = json.dumps(["fedseal simulation stream", *labels]).encode()
        key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(str(seed).encode())
        return cls(key, seeded=True)

    def __repr__(self) -> str:
        return f"RandomStream(seeded={self.seeded})"

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """`count` uniforms in [0, 1), each of 53 random bits, shape (count,)."""
        words = np.frombuffer(self._keystream.update(bytes(8 * count)), dtype=np.uint64)  # (count,)
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normals(self, count: int) -> NDArray[np.float32]:
        """`count` standard normals, shape (count,), float32."""
        pairs = (count + 1) // 2
        uniforms = self.uniforms(2 * pairs)
        radius = np.sqrt(-2.0 * np.log(1.0 - uniforms[:pairs]))  # (pairs,)
        angle = 2.0 * np.pi * uniforms[pairs:]
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])  # (2 * pairs,)
        return both[:count].astype(np.float32)

    def coins(self, count: int, probability: float) -> NDArray[np.bool_]:
        """`count` independent coins, True with `probability`, shape (count,): a Poisson sample of positions."""
        return self.uniforms(count) < probability
