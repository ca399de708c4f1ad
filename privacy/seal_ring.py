"""SEAL's rings, keys and ciphertexts: TenSEAL's only home.

A key is 64 bytes that seed SEAL's key generation (Blake2xb); the seeded parameters serve key generation only, because
encrypting under them would repeat the noise. Ciphertexts are symmetric and seeded: c1 is the seed that SEAL draws from
the operating system for each.

Every call holds Python's lock, so that threads gain nothing. SEAL's objects belong to one thread of one process: others
that shared them, or their memory file, would mix ciphertexts up.

In array comments: N = 4096 coefficients.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from privacy.encryption_parameters import CKKS_SCALE, COEFFICIENT_MODULUS, RING_DEGREE
from privacy.seal_objects import MemoryFile, SealFormat, Words, split_full, split_plaintext, split_seeded

_KEYS_KEPT = 8


class Ring:
    """SEAL's objects for one plain modulus, or for CKKS (None); of one thread of one process."""

    def __init__(self, modulus_bits: int | None) -> None:
        self._modulus_bits = modulus_bits
        self._context = seal.SEALContext(self._parameters(), True, seal.SEC_LEVEL_TYPE.TC128)
        if not self._context.parameters_set():
            raise RuntimeError(f"SEAL refuses the parameters: {self._context.parameters_error_name()}")
        self._memory = MemoryFile()
        self._evaluator = seal.Evaluator(self._context)
        self._encoder = seal.CKKSEncoder(self._context) if modulus_bits is None else None
        self._format = self._learned_format()
        self._read, self._plain = seal.Ciphertext(), seal.Plaintext()  # made once: they keep their memory
        self._keys: OrderedDict[bytes, tuple[Any, Any]] = OrderedDict()

    def encrypted(self, values: NDArray[Any], key: bytes) -> tuple[NDArray[np.uint8], Words]:
        """A fresh ciphertext of (N,) coefficients below t, or (N / 2,) complex numbers for CKKS: 64-byte seed, (N,)."""
        made = self._keyed(key)[0].encrypt_symmetric(self._plaintext(values))
        return split_seeded(self._memory.saved(made))

    def decrypted(self, c0: Words, c1: Words, key: bytes) -> NDArray[Any]:
        """What a ciphertext of two polynomials, (N,) each, holds: (N,) coefficients, or (N,) numbers for CKKS."""
        self._memory.load(self._read, self._context, self._format.full(c0, c1))
        self._keyed(key)[1].decrypt(self._read, self._plain)
        if self._encoder is None:
            return split_plaintext(self._memory.saved(self._plain))
        return np.array(self._encoder.decode_complex(self._plain)).view(np.float64)

    def ciphertext(self, seed: NDArray[np.uint8], c0: Words) -> Any:
        """A ciphertext to add, from its 64-byte seed and (N,) coefficients."""
        return self._memory.load(seal.Ciphertext(), self._context, self._format.seeded(seed.tobytes(), c0))

    def add(self, total: Any, ciphertext: Any) -> None:
        """Adds to `total`."""
        self._evaluator.add_inplace(total, ciphertext)

    def polynomials(self, ciphertext: Any) -> Words:
        """(2, N) coefficients."""
        return split_full(self._memory.saved(ciphertext))

    def _plaintext(self, values: NDArray[Any]) -> Any:
        plain = seal.Plaintext()
        if self._encoder is None:
            return self._memory.load(plain, self._context, self._format.plaintext(values))
        self._encoder.encode(values.tolist(), CKKS_SCALE, plain)
        return plain

    def _keyed(self, key: bytes) -> tuple[Any, Any]:
        if key not in self._keys:
            secret = self._secret_key(key)
            self._keys[key] = (seal.Encryptor(self._context, secret), seal.Decryptor(self._context, secret))
            while len(self._keys) > _KEYS_KEPT:
                self._keys.popitem(last=False)
        self._keys.move_to_end(key)
        return self._keys[key]

    def _secret_key(self, key: bytes) -> Any:
        words = np.frombuffer(key, "<u8").tolist()
        parameters = self._parameters()
        parameters.set_random_generator(seal.Blake2xbPRNGFactory(words))
        made = seal.KeyGenerator(seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)).secret_key()
        return self._memory.load(seal.SecretKey(), self._context, (self._memory.raw(made),))

    def _parameters(self) -> Any:
        scheme = seal.SCHEME_TYPE.CKKS if self._modulus_bits is None else seal.SCHEME_TYPE.BFV
        parameters = seal.EncryptionParameters(scheme)
        parameters.set_poly_modulus_degree(RING_DEGREE)
        parameters.set_coeff_modulus(seal.CoeffModulus.Create(RING_DEGREE, [COEFFICIENT_MODULUS.bit_length()]))
        if self._modulus_bits is not None:
            parameters.set_plain_modulus(1 << self._modulus_bits)
        return parameters

    def _learned_format(self) -> SealFormat:
        encryptor = seal.Encryptor(self._context, seal.KeyGenerator(self._context).secret_key())
        plain = seal.Plaintext("1")
        if self._encoder is not None:
            self._encoder.encode([1.0], CKKS_SCALE, plain)
        full = seal.Ciphertext()
        encryptor.encrypt_symmetric(plain, full)
        return SealFormat(
            version=self._memory.raw(full)[3:5],
            ciphertext=self._memory.saved(full),
            seeded=self._memory.saved(encryptor.encrypt_symmetric(plain)),
            plaintext=self._memory.saved(plain),
        )


class _Rings(threading.local):
    """This thread's rings; a forked child makes its own."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int | None], Ring] = {}

    def of(self, modulus_bits: int | None) -> Ring:
        """The ring of a plain modulus; None: of CKKS."""
        place = (os.getpid(), modulus_bits)
        if place not in self._made:
            self._made = {known: ring for known, ring in self._made.items() if known[0] == place[0]}
            self._made[place] = Ring(modulus_bits)
        return self._made[place]


RINGS = _Rings()
