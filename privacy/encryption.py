"""Encrypts a site's part of a sum, and decrypts sums: BFV and CKKS, of SEAL.

BFV (Brakerski 2012; Fan and Vercauteren 2012): the decrypted sum is exact, whatever the noise, so that decrypting it
tells nothing of the key. CKKS (Cheon et al. 2017): values need no range, but decrypted sums carry an error that depends
on the key; whoever shows decrypted sums to others, the server above all, may give the key away (Li and Micciancio 2021,
"On the security of homomorphic encryption on approximate numbers"). Neither withstands chosen ciphertexts: keys are new
for every sum, and who sends what is signed elsewhere.

A key is a secret of 64 bytes (`privacy/seal_ring.py`). Calls hold Python's lock: processes, not threads, share the work
of large models.

In array comments: P values of a vector, C ciphertexts of a block, N = 4096 coefficients, m values of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from privacy.encryption_parameters import (
    DROPPED_BITS,
    RING_DEGREE,
    Encryption,
)
from privacy.errors import ValueTooLarge
from privacy.frames import SEED_BYTES, About, Wire, Words
from privacy.noise import RandomStream
from privacy.packing import Quantiser, Scale
from privacy.seal_ring import RINGS
from privacy.secret import Secret

# All weights add up to at most one, so that no weighted sum is larger; a coefficient may be sqrt(2) times that, for the
# imaginary half, and must stay below q / (2 scale), 2 ** 19.
_LARGEST_CKKS = 2.0**17


@dataclass(frozen=True, slots=True, kw_only=True)
class Encrypted:
    """A site's part of a sum.

    clipped:  how many values lay beyond their range
    residual: value minus what was encoded, float32 (P,); None where it was not asked for
    """

    frames: tuple[bytes, ...]
    clipped: int
    residual: NDArray[np.float32] | None


def encrypt_vector(
    encryption: Encryption,
    values: NDArray[np.float32],
    scale: Scale,
    key: Secret,
    about: About,
    *,
    processes: int = 1,
    stream: RandomStream | None = None,
    residual: bool = False,
) -> Encrypted:
    """A site's weighted values, (P,), encrypted, in memory that grows by its ciphertexts only.

    processes: how many share the work; more than one pays from some millions of values on
    stream:    what rounding by chance draws from
    residual:  whether to return what rounding and clipping left out

    Raises:
        ValueTooLarge: a value is NaN or infinite, or ckks can't hold it.
    """
    _refuse_large(values, _LARGEST_CKKS if encryption.scheme == "ckks" else float(np.finfo(np.float32).max))
    wire = Wire(encryption=encryption, length=len(values), whole=False)
    left_out = np.empty_like(values) if residual else None
    if encryption.scheme == "ckks":
        parts: Iterator[Words | NDArray[np.complex128]] = (
            _complex_slots(values[wire.block_values(block)] * np.float64(scale.weight), ciphertexts)
            for block, ciphertexts in enumerate(wire.blocks)
        )
        return Encrypted(frames=_frames(wire, parts, key, about, processes), clipped=0, residual=None)
    quantiser = Quantiser(packing=encryption.packing, scale=scale, stream=stream)

    def packed() -> Iterator[Words]:
        for block, ciphertexts in enumerate(wire.blocks):
            part = wire.block_values(block)
            fields = quantiser.encode(values[part], part.start)
            if left_out is not None:
                left_out[part] = values[part] - quantiser.decode(fields, part.start) / scale.weight
            yield encryption.packing.pack(fields, ciphertexts * RING_DEGREE).reshape(ciphertexts, RING_DEGREE)

    frames = _frames(wire, packed(), key, about, processes)
    return Encrypted(frames=frames, clipped=quantiser.clipped, residual=left_out)


def decrypt_vector(
    encryption: Encryption,
    frames: Sequence[bytes],
    length: int,
    scale: Scale,
    key: Secret,
    about: About,
    *,
    processes: int = 1,
) -> NDArray[np.float64]:
    """The sum of the sites' weighted values, (length,); `scale` is the cohort's, whatever its weight.

    Raises:
        MalformedCiphertext, ForeignCiphertext: the frames are not that sum's.
    """
    wire = Wire(encryption=encryption, length=length, whole=False)
    wire.check_sums(frames, about)
    quantiser = Quantiser(packing=encryption.packing, scale=scale)
    found = np.empty(length)
    for block, plain in enumerate(_decrypted(wire, frames, key, processes)):
        part = wire.block_values(block)
        if encryption.scheme == "ckks":
            found[part] = plain.reshape(-1)[: part.stop - part.start]
        else:
            sums = encryption.packing.unpack(plain.reshape(-1), part.stop - part.start)
            quantiser.decode_into(found[part], sums, part.start)
    return found


def encrypt_numbers(encryption: Encryption, numbers: NDArray[np.int64], key: Secret, about: About) -> tuple[bytes, ...]:
    """A site's whole numbers, (K,), encrypted; they add up modulo `encryption.number_modulus`."""
    wire = Wire(encryption=encryption, length=len(numbers), whole=True)
    parts = (
        encryption.numbers.pack(numbers[wire.block_values(block)], ciphertexts * RING_DEGREE).reshape(ciphertexts, -1)
        for block, ciphertexts in enumerate(wire.blocks)
    )
    return _frames(wire, parts, key, about, 1)


def decrypt_numbers(
    encryption: Encryption, frames: Sequence[bytes], length: int, key: Secret, about: About
) -> NDArray[np.int64]:
    """The sums of the sites' whole numbers, (length,), signed. Raises as `decrypt_vector`."""
    wire = Wire(encryption=encryption, length=length, whole=True)
    wire.check_sums(frames, about)
    found = np.empty(length, np.int64)
    for block, plain in enumerate(_decrypted(wire, frames, key, 1)):
        part = wire.block_values(block)
        found[part] = encryption.numbers.unpack(plain.reshape(-1), part.stop - part.start)
    return found


def _frames(wire: Wire, parts: Iterator[Any], key: Secret, about: About, processes: int) -> tuple[bytes, ...]:
    """A frame for each block's plaintexts."""
    if wire.encryption.scheme == "sizes":
        empty = np.zeros((1, SEED_BYTES), np.uint8)
        return tuple(
            wire.upload(about, block, empty, part << np.uint64(DROPPED_BITS)) for block, part in enumerate(parts)
        )
    encrypt = partial(_encrypted_block, wire, key.reveal(), about)
    return tuple(_shared_out(encrypt, enumerate(parts), processes))


def _decrypted(wire: Wire, frames: Sequence[bytes], key: Secret, processes: int) -> Iterator[NDArray[Any]]:
    """The plaintexts of each block of a sum that was checked."""
    if wire.encryption.scheme == "sizes":
        yield from (wire.read_sum(frame)[0] >> np.uint64(DROPPED_BITS) for frame in frames)
        return
    decrypt = partial(_decrypted_block, wire, key.reveal())
    yield from _shared_out(decrypt, frames, processes)


def _shared_out(act: Callable[[Any], Any], parts: Iterable[Any], processes: int) -> Iterator[Any]:
    """What `act` makes of each part, in order; never more than a few parts are under way.

    max_nbytes=None: joblib would otherwise write large arrays to a temporary folder, in the clear.
    """
    if processes == 1:
        yield from map(act, parts)
        return
    pool = Parallel(n_jobs=processes, return_as="generator", pre_dispatch="2*n_jobs", batch_size=1, max_nbytes=None)
    yield from pool(delayed(act)(part) for part in parts)


def _encrypted_block(wire: Wire, key: bytes, about: About, numbered: tuple[int, NDArray[Any]]) -> bytes:
    block, part = numbered
    ring = RINGS.of(wire.modulus_bits)
    c0 = np.empty((len(part), RING_DEGREE), np.uint64)
    seeds = np.empty((len(part), SEED_BYTES), np.uint8)
    for number, values in enumerate(part):
        seeds[number], c0[number] = ring.encrypted(values, key)
    return wire.upload(about, block, seeds, c0)


def _decrypted_block(wire: Wire, key: bytes, frame: bytes) -> NDArray[Any]:
    ring = RINGS.of(wire.modulus_bits)
    return np.stack([ring.decrypted(c0, c1, key) for c0, c1 in zip(*wire.read_sum(frame), strict=True)])


def _complex_slots(values: NDArray[np.float64], ciphertexts: int) -> NDArray[np.complex128]:
    """(m,) numbers -> (C, N / 2) complex ones, of which each holds two."""
    padded = np.zeros(ciphertexts * RING_DEGREE)
    padded[: len(values)] = values
    return padded.view(np.complex128).reshape(ciphertexts, RING_DEGREE // 2)


def _refuse_large(values: NDArray[np.float32], bound: float) -> None:
    """Passes values of at most the bound; NaN is none."""
    largest = np.maximum(values.max(initial=0.0), -values.min(initial=0.0))
    if not largest <= bound:
        raise ValueTooLarge(
            f"an update holds NaN, or a value beyond what its encryption carries ({bound:.6g}): the training has "
            "diverged; lower its learning rate"
        )
