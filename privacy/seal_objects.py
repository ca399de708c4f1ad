"""SEAL's objects as bytes and back (SEAL 4.3, native/src/seal/serialization.h): what `tenseal.sealapi` can only load
from and save to a path. The path is that of a file in memory, so that nothing reaches a disk.

An object is a head of 16 bytes (magic, version, compression, size) and its members. SEAL saves compressed (zstd) and
loads uncompressed, too, which is how ours are made. Only bytes that `privacy/frames.py` has checked are loaded.

In array comments: N = 4096 coefficients.
"""

from __future__ import annotations

import os
import struct
from typing import Any, TypeAlias

import numpy as np
import zstandard
from cryptography.utils import Buffer
from numpy.typing import NDArray

from privacy.encryption_parameters import RING_DEGREE
from privacy.errors import StorageFailed

Words = NDArray[np.uint64]
Parts: TypeAlias = tuple[Buffer, ...]

_HEAD_BYTES = 16
_MAGIC = b"\x5e\xa1\x10"
_COMPRESSED = 2
_LARGEST_OBJECT_BYTES = 1 << 26
_CIPHERTEXT_HEAD_BYTES = 73  # parms_id 32, is_ntt 1, size, N, moduli, scale, correction 8 each
_PLAINTEXT_HEAD_BYTES = 48  # parms_id 32, coefficients 8, scale 8
_ARRAY_HEAD_BYTES = 24  # an object's head and a count
_SEED_HEAD_BYTES = 17  # an object's head and the type of the generator


class MemoryFile:
    """Two files without a disk (Linux memfd_create): one that SEAL saves to, one that it loads from."""

    def __init__(self) -> None:
        if not hasattr(os, "memfd_create"):
            raise StorageFailed("encryption needs files in memory, which only Linux has: run this site on Linux")
        self._saved, self._loaded = os.memfd_create("saved"), os.memfd_create("loaded")
        self._inflate = zstandard.ZstdDecompressor().decompress

    def __del__(self) -> None:
        os.close(self._saved)
        os.close(self._loaded)

    def saved(self, item: Any) -> bytes:
        """The members of an object of SEAL's, without its head."""
        content = self.raw(item)
        if content[5] == _COMPRESSED:
            return self._inflate(memoryview(content)[_HEAD_BYTES:], _LARGEST_OBJECT_BYTES)
        return content[_HEAD_BYTES:]

    def raw(self, item: Any) -> bytes:
        """An object as SEAL saves it."""
        item.save(f"/proc/self/fd/{self._saved}")
        return os.pread(self._saved, os.fstat(self._saved).st_size, 0)

    def load(self, item: Any, context: Any, content: Parts) -> Any:
        """Fills an object of SEAL's from bytes that were made here; they say their own length."""
        os.pwritev(self._loaded, content, 0)
        item.load(context, f"/proc/self/fd/{self._loaded}")
        return item


class SealFormat:
    """The members of ciphertexts and plaintexts under one context, learned from one of each that SEAL made."""

    def __init__(self, version: bytes, ciphertext: bytes, seeded: bytes, plaintext: bytes) -> None:
        """version: two bytes of an object's head; the others are members of a full and a seeded ciphertext, and of a
        plaintext."""
        self._version = version
        self._ciphertext_head = ciphertext[:_CIPHERTEXT_HEAD_BYTES]
        end = _CIPHERTEXT_HEAD_BYTES + _ARRAY_HEAD_BYTES + 8 * RING_DEGREE
        self._seed_head = seeded[end : end + _SEED_HEAD_BYTES]
        self._parameters = plaintext[:32]

    def seeded(self, seed: bytes, c0: Words) -> Parts:
        """A ciphertext of (N,) coefficients whose second polynomial SEAL draws from a seed."""
        return self._object(self._ciphertext_head, (c0,), self._seed_head + seed)

    def full(self, c0: Words, c1: Words) -> Parts:
        """A ciphertext of two polynomials, (N,) coefficients each."""
        return self._object(self._ciphertext_head, (c0, c1))

    def plaintext(self, coefficients: Words) -> Parts:
        """A plaintext of (N,) coefficients."""
        return self._object(self._parameters + struct.pack("<Qd", len(coefficients), 1.0), (coefficients,))

    def _object(self, members: bytes, arrays: tuple[Words, ...], tail: bytes = b"") -> Parts:
        """An object whose members end with an array of coefficients, and perhaps a tail, in parts."""
        count = sum(map(len, arrays))
        array = self._head(_ARRAY_HEAD_BYTES + 8 * count) + struct.pack("<Q", count)
        size = _HEAD_BYTES + len(members) + len(array) + 8 * count + len(tail)
        return (self._head(size) + members + array, *(np.ascontiguousarray(part).data for part in arrays), tail)

    def _head(self, size: int) -> bytes:
        return _MAGIC + self._version + b"\x00\x00\x00" + struct.pack("<Q", size)


def split_seeded(members: bytes) -> tuple[NDArray[np.uint8], Words]:
    """The 64-byte seed and (N,) coefficients of a seeded ciphertext's members."""
    start = _CIPHERTEXT_HEAD_BYTES + _ARRAY_HEAD_BYTES
    c0 = np.frombuffer(members, np.uint64, RING_DEGREE, start)
    seed = np.frombuffer(members, np.uint8, offset=start + 8 * RING_DEGREE + _SEED_HEAD_BYTES)
    return seed, c0


def split_full(members: bytes) -> Words:
    """(2, N) coefficients of a ciphertext's members."""
    start = _CIPHERTEXT_HEAD_BYTES + _ARRAY_HEAD_BYTES
    return np.frombuffer(members, np.uint64, 2 * RING_DEGREE, start).reshape(2, RING_DEGREE)


def split_plaintext(members: bytes) -> Words:
    """(N,) coefficients of a plaintext's members; SEAL leaves out the highest ones that are zero."""
    (count,) = struct.unpack_from("<Q", members, 32)
    held = np.frombuffer(members, np.uint64, count, _PLAINTEXT_HEAD_BYTES + _ARRAY_HEAD_BYTES)
    return held if count == RING_DEGREE else np.concatenate([held, np.zeros(RING_DEGREE - count, np.uint64)])
