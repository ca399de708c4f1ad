"""The ways to sum updates that `fedseal bench encryption` compares: in the clear, CKKS as NVFlare uses it, and ours.

NVFlare's row is rebuilt from its sources (nvflare/lighter/impl/he.py and app_opt/he: TenSEAL `ckks_vector`, polynomial
modulus degree 8192, coefficient moduli 60, 40, 40, global scale 2^40, symmetric encryption, the context with its
relinearisation keys beside every vector, one division after the sum). It gets one vector for the whole model, which
flatters it: the original makes one for each tensor.

In array comments: P parameters.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import tenseal
from numpy.typing import NDArray

from privacy.ciphertext_sum import CiphertextSum
from privacy.encryption import decrypt_vector, encrypt_vector
from privacy.encryption_parameters import Encryption
from privacy.frames import About
from privacy.packing import Ranges, Scale
from privacy.secret import Secret

BOUND = 0.05  # public range of an update's values
Vector = NDArray[np.float32]
Upload = Sequence[bytes]


class Summing(Protocol):
    """One way to sum: what a site sends, what the server adds, what a site reads."""

    def encrypt(self, update: Vector) -> Upload:
        """A site's message for an update, (P,)."""

    def add(self, upload: Upload) -> None:
        """Takes one message into the sum."""

    def sum(self) -> Upload:
        """The server's message to the sites."""

    def decrypt(self, total: Upload) -> NDArray[np.float64]:
        """The mean that a site reads, (P,)."""


@dataclass(slots=True)
class InTheClear:
    """float32, added in float64."""

    sites: int
    _total: NDArray[np.float64] | None = None

    def encrypt(self, update: Vector) -> Upload:
        return [(update * np.float32(1 / self.sites)).tobytes()]

    def add(self, upload: Upload) -> None:
        values = np.frombuffer(upload[0], np.float32).astype(np.float64)  # (P,)
        self._total = values if self._total is None else self._total + values

    def sum(self) -> Upload:
        assert self._total is not None
        return [self._total.astype(np.float32).tobytes()]

    def decrypt(self, total: Upload) -> NDArray[np.float64]:
        return np.frombuffer(total[0], np.float32).astype(np.float64)


class NvflareStyle:
    """TenSEAL's `ckks_vector` with the parameters and the wire of NVFlare's filters."""

    def __init__(self, sites: int) -> None:
        self._sites = sites
        self._context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS,
            poly_modulus_degree=8192,
            coeff_mod_bit_sizes=[60, 40, 40],
            encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
            n_threads=1,
        )
        self._context.global_scale = 2**40
        self._shown = self._context.serialize(save_secret_key=False, save_galois_keys=False, save_relin_keys=True)
        self._total: tenseal.CKKSVector | None = None

    def encrypt(self, update: Vector) -> Upload:
        with _quiet():
            vector = tenseal.ckks_vector(self._context, update * np.float64(1 / self._sites))
        return [vector.serialize(), self._shown]

    def add(self, upload: Upload) -> None:
        with _quiet():
            vector = tenseal.ckks_vector_from(tenseal.context_from(upload[1], n_threads=1), upload[0])
        self._total = vector if self._total is None else self._total + vector

    def sum(self) -> Upload:
        assert self._total is not None
        return [(self._total * 1.0).serialize()]

    def decrypt(self, total: Upload) -> NDArray[np.float64]:
        with _quiet():
            return np.array(tenseal.ckks_vector_from(self._context, total[0]).decrypt())


class Ours:
    """FedSeal's BFV at one precision."""

    def __init__(self, sites: int, parameters: int, bits: int) -> None:
        self._encryption = Encryption(scheme="bfv", bits=bits)
        self._scale = Scale(ranges=Ranges((parameters,), (BOUND,)), sites=sites, weight=1 / sites, stochastic=False)
        self._key = Secret(b"k" * 64)
        self._parameters = parameters
        self._sent = 0
        self._total = self._empty()

    def encrypt(self, update: Vector) -> Upload:
        self._sent += 1
        return encrypt_vector(self._encryption, update, self._scale, self._key, self._about(f"s{self._sent}")).frames

    def add(self, upload: Upload) -> None:
        self._total.add(f"s{self._sent}", tuple(upload))

    def sum(self) -> Upload:
        total, self._total = self._total.frames(), self._empty()
        return total

    def decrypt(self, total: Upload) -> NDArray[np.float64]:
        about = self._about("sum")
        return decrypt_vector(self._encryption, tuple(total), self._parameters, self._scale, self._key, about)

    def _empty(self) -> CiphertextSum:
        return CiphertextSum(self._encryption, self._about("sum"), self._parameters, whole=False)

    def _about(self, site: str) -> About:
        return About(run="bench", membership="0" * 64, round=1, purpose="update", site=site)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what TenSEAL prints of every vector that needs several ciphertexts; it writes past Python."""
    sys.stdout.flush()
    printed, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(printed, 1)
        os.close(printed)
        os.close(nowhere)


def summing(name: str, sites: int, parameters: int) -> Summing:
    """The way to sum of that name: "plain", "nvflare", "12", "16" or "24"."""
    ways: dict[str, Callable[[], Summing]] = {
        "plain": lambda: InTheClear(sites),
        "nvflare": lambda: NvflareStyle(sites),
    }
    return ways[name]() if name in ways else Ours(sites, parameters, int(name))
