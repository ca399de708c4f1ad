"""Ciphertexts on the wire: our own frames of fixed length, parsed by us alone.

A frame is a head of 128 bytes and a whole number of ciphertexts, at most 32, so that models of any size stream. An
upload's ciphertext is c0 and the 64-byte seed of c1; a sum's is c0 and c1. BFV's c0 travels without its four lowest
bits, 7 bytes a coefficient (`privacy/encryption_parameters.py` counts the noise), everything else as 8 bytes,
little-endian. The head says the version, the kind, the parameters, the run and membership, the round, the purpose, the
site, and which part of how many this is. What a frame says is checked against what was asked for, every coefficient
must lie below q, and a sum whose c1 is zero (a transparent ciphertext, which anybody reads) is refused: SEAL's loader
never sees bytes that came from outside.

In array comments: C ciphertexts of a frame, N = 4096 coefficients.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from privacy.encryption_parameters import COEFFICIENT_MODULUS, DROPPED_BITS, RING_DEGREE, Encryption
from privacy.errors import ForeignCiphertext, MalformedCiphertext
from privacy.sealing import context

MOST_CIPHERTEXTS = 32
SEED_BYTES = 64
_MAGIC = b"FEDSEAL\x02"
_HEAD = struct.Struct("<8s B 3x I I I I 4x Q 16s 32s 16s 16s 8x")
_UPLOAD, _SUM = 1, 2
_WORD_BYTES, _SHORT_BYTES, _BYTE_BITS = 8, 7, 8
_TOP_BYTE = 0xFF

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What frames belong to.

    membership: digest of the run's members, hex
    purpose:    what is summed
    site:       whose upload it is; "sum" for a sum
    """

    run: str
    membership: str
    round: int
    purpose: str
    site: str

    def of(self, site: str) -> About:
        """The same sum's frames of another site."""
        return replace(self, site=site)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """How the ciphertexts of one sum are framed.

    length: how many values are summed
    whole:  whether they are whole numbers
    """

    encryption: Encryption
    length: int
    whole: bool

    @property
    def values_a_ciphertext(self) -> int:
        """How many values a ciphertext holds."""
        single = self.whole or self.encryption.scheme == "ckks"
        return RING_DEGREE if single else RING_DEGREE * self.encryption.packing.fields

    @property
    def modulus_bits(self) -> int | None:
        """The plaintexts are numbers modulo 2 ** modulus_bits; None: they are CKKS's."""
        if self.whole:
            return self.encryption.numbers.modulus_bits
        return None if self.encryption.scheme == "ckks" else self.encryption.packing.modulus_bits

    @property
    def short(self) -> bool:
        """Whether c0 travels without its lowest bits."""
        return self.modulus_bits is not None

    @property
    def blocks(self) -> list[int]:
        """How many ciphertexts each frame has."""
        whole, rest = divmod(-(-self.length // self.values_a_ciphertext), MOST_CIPHERTEXTS)
        return [MOST_CIPHERTEXTS] * whole + ([rest] if rest else [])

    def block_values(self, block: int) -> slice:
        """Which values of the vector a frame holds."""
        values = self.values_a_ciphertext * MOST_CIPHERTEXTS
        return slice(block * values, min((block + 1) * values, self.length))

    def upload(self, about: About, block: int, seeds: NDArray[np.uint8], c0: Words) -> bytes:
        """A frame of a site's ciphertexts: (C, 64) seeds and (C, N) coefficients."""
        body = np.empty((len(c0), self._c0_bytes + SEED_BYTES), np.uint8)
        body[:, : self._c0_bytes] = self._written(c0)
        body[:, self._c0_bytes :] = seeds
        return self._head(about, _UPLOAD, block) + body.tobytes()

    def sum(self, about: About, block: int, c0: Words, c1: Words) -> bytes:
        """A frame of summed ciphertexts: (C, N) coefficients of each polynomial."""
        body = np.empty((len(c0), self._c0_bytes + _WORD_BYTES * RING_DEGREE), np.uint8)
        body[:, : self._c0_bytes] = self._written(c0)
        body[:, self._c0_bytes :] = c1.view(np.uint8).reshape(len(c1), -1)
        return self._head(about, _SUM, block) + body.tobytes()

    def check_uploads(self, frames: Sequence[bytes], about: About) -> None:
        """Passes all frames of a site's part of the sum.

        Raises:
            MalformedCiphertext, ForeignCiphertext: one is missing, cut, changed, or made for something else.
        """
        for body in self._bodies(frames, about, "upload"):
            self._refuse_large(body[:, : self._c0_bytes])

    def read_upload(self, frame: bytes) -> tuple[NDArray[np.uint8], Words]:
        """(C, 64) seeds and (C, N) coefficients of a frame that was checked."""
        seeds = self._body(frame, self._c0_bytes + SEED_BYTES)[:, self._c0_bytes :]
        return seeds, self._read(frame, self._c0_bytes + SEED_BYTES)

    def check_sums(self, frames: Sequence[bytes], about: About) -> None:
        """Passes heads and lengths of all frames of a sum; `read_sum` checks the rest. Raises as `check_uploads`."""
        self._bodies(frames, about, "sum")

    def read_sum(self, frame: bytes) -> tuple[Words, Words]:
        """(C, N) coefficients of each polynomial.

        Raises:
            MalformedCiphertext: one is not below the modulus, or a ciphertext is transparent.
        """
        ciphertext_bytes = self._c0_bytes + _WORD_BYTES * RING_DEGREE
        c0, c1 = self._read(frame, ciphertext_bytes), _words(frame, self._c0_bytes, ciphertext_bytes, _WORD_BYTES)
        largest = c1.max(axis=1)  # (C,)
        if max(int(c0.max()), int(largest.max())) >= COEFFICIENT_MODULUS:
            raise MalformedCiphertext(_TOO_LARGE)
        if not largest.all():
            raise MalformedCiphertext("a ciphertext is transparent: anybody could read it, and anybody made it")
        return c0, c1

    @property
    def _c0_bytes(self) -> int:
        return (_SHORT_BYTES if self.short else _WORD_BYTES) * RING_DEGREE

    def _head(self, about: About, kind: int, block: int) -> bytes:
        blocks = self.blocks
        return _HEAD.pack(
            _MAGIC,
            kind,
            about.round,
            block,
            len(blocks),
            blocks[block],
            self.length,
            self.encryption.parameters_id(self.whole),
            hashlib.sha256(context("frames", about.run.encode(), about.membership.encode())).digest(),
            hashlib.sha256(about.purpose.encode()).digest()[:16],
            hashlib.sha256(about.site.encode()).digest()[:16],
        )

    def _bodies(self, frames: Sequence[bytes], about: About, kind: Literal["upload", "sum"]) -> list[NDArray[np.uint8]]:
        """The ciphertexts of frames that are exactly those asked for, each (C, bytes of a ciphertext)."""
        blocks = self.blocks
        if len(frames) != len(blocks):
            raise MalformedCiphertext(f"{len(frames)} frames came, but the sum has {len(blocks)}")
        first = self._c0_bytes + (SEED_BYTES if kind == "upload" else _WORD_BYTES * RING_DEGREE)
        for block, (frame, ciphertexts) in enumerate(zip(frames, blocks, strict=True)):
            if len(frame) != _HEAD.size + ciphertexts * first:
                raise MalformedCiphertext(f"frame {block} has {len(frame)} bytes: it was cut, or something was added")
            wanted = self._head(about, _UPLOAD if kind == "upload" else _SUM, block)
            if frame[: _HEAD.size] != wanted:
                self._refuse_head(frame[: _HEAD.size], wanted)
        return [self._body(frame, first) for frame in frames]

    def _refuse_head(self, head: bytes, wanted: bytes) -> None:
        """Says in which respect a head is not the one that was asked for."""
        names = ("", "kind", "round", "number", "number of frames", "number of ciphertexts", "length")
        belongs = (*names, "encryption parameters", "run or membership", "purpose", "site")
        found, asked = _HEAD.unpack(head), _HEAD.unpack(wanted)
        if found[0] != _MAGIC:
            raise MalformedCiphertext("these bytes are no ciphertexts of this version of FedSeal")
        other = [name for name, one, two in zip(belongs, found, asked, strict=True) if one != two]
        if not other:
            raise MalformedCiphertext("a frame's padding is not empty: the ciphertext was changed")
        raise ForeignCiphertext(f"the ciphertexts were made for another {' and '.join(other)}")

    def _body(self, frame: bytes, ciphertext_bytes: int) -> NDArray[np.uint8]:
        return np.frombuffer(frame, np.uint8, offset=_HEAD.size).reshape(-1, ciphertext_bytes)

    def _written(self, c0: Words) -> NDArray[np.uint8]:
        """(C, N) coefficients as bytes, (C, c0 bytes)."""
        if not self.short:
            return np.ascontiguousarray(c0).view(np.uint8).reshape(len(c0), -1)
        rounded = (c0 + np.uint64(1 << (DROPPED_BITS - 1))) >> np.uint64(DROPPED_BITS)
        return (
            rounded.view(np.uint8).reshape(len(c0), RING_DEGREE, _WORD_BYTES)[:, :, :_SHORT_BYTES].reshape(len(c0), -1)
        )

    def _read(self, frame: bytes, ciphertext_bytes: int) -> Words:
        """(C, N) coefficients of c0. A short one is read as a word whose highest byte is the next one's."""
        if not self.short:
            return _words(frame, 0, ciphertext_bytes, _WORD_BYTES)
        found: Words = _words(frame, 0, ciphertext_bytes, _SHORT_BYTES) << np.uint64(_BYTE_BITS)
        found >>= np.uint64(_BYTE_BITS - DROPPED_BITS)
        return found

    def _refuse_large(self, written: NDArray[np.uint8]) -> None:
        """Passes coefficients below q."""
        if not self.short:
            large = int(np.ascontiguousarray(written).view(np.uint64).max(initial=0)) >= COEFFICIENT_MODULUS
        else:  # the largest short coefficient begins with six bytes of ones, as few others do
            parts = written.reshape(len(written), RING_DEGREE, _SHORT_BYTES)
            suspects = parts[(parts[:, :, -1] == _TOP_BYTE) & (parts[:, :, -2] == _TOP_BYTE)]  # (K, 7)
            words = np.zeros((len(suspects), _WORD_BYTES), np.uint8)
            words[:, :_SHORT_BYTES] = suspects
            large = int(words.view(np.uint64).max(initial=0)) > _LARGEST_SHORT
        if large:
            raise MalformedCiphertext(_TOO_LARGE)


def _words(frame: bytes, start: int, ciphertext_bytes: int, step: int) -> Words:
    """(C, N) words of a frame's ciphertexts, from `start` of each, `step` bytes apart; nothing is copied."""
    ciphertexts = (len(frame) - _HEAD.size) // ciphertext_bytes
    strides = (ciphertext_bytes, step)
    return np.ndarray((ciphertexts, RING_DEGREE), "<u8", frame, _HEAD.size + start, strides)


_TOO_LARGE = "a coefficient is not below the modulus: the ciphertext was changed"
_LARGEST_SHORT = (COEFFICIENT_MODULUS - 1) >> DROPPED_BITS
