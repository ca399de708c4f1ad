"""Ciphertexts from outside: whatever is sent, a named error or a valid frame, never a crash, never SEAL's loader."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from privacy.ciphertext_sum import CiphertextSum
from privacy.encryption import decrypt_numbers, encrypt_numbers, encrypt_vector
from privacy.encryption_parameters import COEFFICIENT_MODULUS, RING_DEGREE
from privacy.errors import ForeignCiphertext, MalformedCiphertext
from privacy.frames import Wire
from tests.privacy.encryption_builders import ABOUT, KEY, encryption, numbered, scale, summed

HEAD_BYTES = 128
LENGTH = 20_000  # two ciphertexts of three fields


def upload(scheme: str = "bfv", bits: int = 16) -> tuple[bytes, ...]:
    values = np.linspace(-1, 1, LENGTH, dtype=np.float32)
    return encrypt_vector(encryption(bits, scheme), values, scale(LENGTH, 3), KEY, numbered(0)).frames


def check(frames: tuple[bytes, ...], scheme: str = "bfv", bits: int = 16, about: object = None) -> None:
    wire = Wire(encryption=encryption(bits, scheme), length=LENGTH, whole=False)
    wire.check_uploads(frames, about or numbered(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["bfv", "ckks", "sizes"])
def test_an_honest_part_passes(scheme: str) -> None:
    check(upload(scheme), scheme)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"round": 4}, "round"),
        ({"run": "2"}, "run or membership"),
        ({"membership": "cd" * 32}, "run or membership"),
        ({"purpose": "metrics"}, "purpose"),
        ({"site": "site-1"}, "site"),
    ],
)
def test_a_part_made_for_something_else_is_refused_by_name(change: dict[str, object], what: str) -> None:
    with pytest.raises(ForeignCiphertext, match=f"another {what}$"):
        check(upload(), about=replace(numbered(0), **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(("scheme", "bits"), [("bfv", 12), ("bfv", 24), ("sizes", 16)])
def test_a_part_of_other_parameters_is_refused(scheme: str, bits: int) -> None:
    with pytest.raises((ForeignCiphertext, MalformedCiphertext)):
        check(upload(scheme, bits))


def test_a_sum_is_no_part_and_a_part_is_no_sum() -> None:
    frames = upload()
    wire = Wire(encryption=encryption(), length=LENGTH, whole=False)
    with pytest.raises(MalformedCiphertext):
        wire.check_sums(frames, ABOUT)
    with pytest.raises(MalformedCiphertext):
        check(summed(encryption(), [frames], LENGTH))


@pytest.mark.parametrize("frames", [(), upload() * 2, (upload()[0][:-1],), (upload()[0] + b"0",), (b"",)])
def test_missing_cut_and_extended_parts_are_refused(frames: tuple[bytes, ...]) -> None:
    with pytest.raises(MalformedCiphertext):
        check(frames)


@pytest.mark.parametrize(("scheme", "width"), [("bfv", 7), ("ckks", 8)])
@pytest.mark.parametrize("place", [0, 1, RING_DEGREE - 1])
def test_a_coefficient_that_is_not_below_the_modulus_is_refused(scheme: str, width: int, place: int) -> None:
    (frame,) = upload(scheme)
    least = COEFFICIENT_MODULUS if width == 8 else (COEFFICIENT_MODULUS >> 4) + 1
    start = HEAD_BYTES + width * place
    for value in (least, 2 ** (8 * width) - 1):
        changed = frame[:start] + value.to_bytes(width, "little") + frame[start + width :]
        with pytest.raises(MalformedCiphertext, match="not below the modulus"):
            check((changed,), scheme)
    largest = frame[:start] + (least - 1).to_bytes(width, "little") + frame[start + width :]
    check((largest,), scheme)


def test_a_transparent_sum_is_refused() -> None:
    used = encryption()
    (frame,) = summed(used, [encrypt_numbers(used, np.array([1]), KEY, numbered(0))], 1, whole=True)
    start = HEAD_BYTES + 7 * RING_DEGREE
    with pytest.raises(MalformedCiphertext, match="transparent"):
        decrypt_numbers(used, (frame[:start] + bytes(8 * RING_DEGREE),), 1, KEY, ABOUT)


def test_a_sum_with_a_coefficient_too_large_is_refused() -> None:
    used = encryption()
    (frame,) = summed(used, [encrypt_numbers(used, np.array([1]), KEY, numbered(0))], 1, whole=True)
    changed = frame[:-8] + COEFFICIENT_MODULUS.to_bytes(8, "little")
    with pytest.raises(MalformedCiphertext, match="not below the modulus"):
        decrypt_numbers(used, (changed,), 1, KEY, ABOUT)


def test_ten_thousand_malformed_parts_are_each_refused_or_change_coefficients_only() -> None:
    """A flip in a seed or a coefficient is another valid ciphertext: the site's signature is what catches that."""
    rng = Random(5)
    frames = {scheme: upload(scheme)[0] for scheme in ("bfv", "ckks")}
    outcomes = {"refused": 0, "valid": 0}
    for _ in range(10_000):
        scheme = rng.choice(["bfv", "ckks"])
        frame = bytearray(frames[scheme])
        kind = rng.randrange(5)
        flipped: int | None = None
        if kind == 0:
            del frame[rng.randrange(len(frame)) :]
        elif kind == 1:
            frame += rng.randbytes(rng.randrange(1, 300))
        elif kind == 2:
            flipped = rng.randrange(HEAD_BYTES)
            frame[flipped] ^= 1 << rng.randrange(8)
        elif kind == 3:
            flipped = rng.randrange(HEAD_BYTES, len(frame))
            frame[flipped] ^= 1 << rng.randrange(8)
        else:
            start = rng.randrange(len(frame) - 64)
            frame[start : start + 64] = rng.randbytes(64)
            flipped = start
        try:
            check((bytes(frame),), scheme)
        except (MalformedCiphertext, ForeignCiphertext):
            outcomes["refused"] += 1
        else:
            assert flipped is not None
            assert flipped >= HEAD_BYTES
            outcomes["valid"] += 1
    assert outcomes["refused"] > 5000
    assert outcomes["valid"] > 1000


def test_flipped_bits_that_pass_never_crash_the_sum() -> None:
    rng, used = Random(6), encryption()
    honest = encrypt_numbers(used, np.arange(10), KEY, numbered(0))[0]
    for _ in range(100):
        frame = bytearray(honest)
        frame[rng.randrange(HEAD_BYTES, len(frame))] ^= 1 << rng.randrange(8)
        total = CiphertextSum(used, ABOUT, 10, whole=True)
        try:
            total.add("site-0", (bytes(frame),))
        except MalformedCiphertext:
            continue
        decrypt_numbers(used, total.frames(), 10, KEY, ABOUT)
