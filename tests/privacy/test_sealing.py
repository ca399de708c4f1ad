"""Sealing against the published vectors, against the library, and against whoever changes what was sealed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.sealing import (
    CHUNK_BYTES,
    SealBroken,
    SealedRange,
    Sealer,
    context,
    plain_length,
    seal,
    unseal,
    unseal_into,
)
from privacy.secret import Secret
from tests.privacy.vault_builders import SIZES, content

VECTORS = Path(__file__).parents[3] / "shared/data/wycheproof/c2sp_chunked_encryption_aes_256_gcm_test.json"
KEY, ABOUT = Secret(bytes(range(32))), context("test", b"object")
HEADER, SEALED_CHUNK = 56, CHUNK_BYTES + 16
MEBIBYTE = 1024 * 1024
AROUND_CHUNKS = [chunks * CHUNK_BYTES + more for chunks in range(4) for more in (-1, 0, 1)][1:]
sizes = st.sampled_from(AROUND_CHUNKS) | st.integers(0, 3 * CHUNK_BYTES + 100)


def published(*results: str) -> list[Any]:
    if not VECTORS.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"{VECTORS} (C2SP Wycheproof) is not on this machine"))]
    tests = [test for group in json.loads(VECTORS.read_text())["testGroups"] for test in group["tests"]]
    return [pytest.param(test, id=str(test["tcId"])) for test in tests if test["result"] in results]


@contextmanager
def file_of(sealed: bytes) -> Iterator[int]:
    handle = os.memfd_create("sealed")
    try:
        os.write(handle, sealed)
        yield handle
    finally:
        os.close(handle)


def whole(key: Secret, about: bytes, sealed: bytes) -> bytes:
    """Through `unseal_into`, as the vault opens."""
    plain = memoryview(bytearray(plain_length(len(sealed))))
    unseal_into(key, about, io.BytesIO(sealed).readinto, plain)
    return bytes(plain)


def by_range(key: Secret, about: bytes, sealed: bytes) -> bytes:
    with file_of(sealed) as handle:
        opened = SealedRange(key, about, handle, 0)
        return opened.read(0, opened.length)


def streamed(pieces: list[bytes], key: Secret = KEY, about: bytes = ABOUT) -> bytes:
    out = io.BytesIO()
    sealer = Sealer(key, about, out.write)
    for piece in pieces:
        sealer.write(piece)
    sealer.finish()
    return out.getvalue()


@pytest.mark.parametrize("vector", published("valid", "invalid"))
def test_every_published_vector_opens_or_is_refused_as_published(vector: dict[str, Any]) -> None:
    key, about = Secret(bytes.fromhex(vector["key"])), bytes.fromhex(vector["ctx"])
    sealed = zlib.decompress(bytes.fromhex(vector["ct"]))
    if vector["result"] == "valid":
        for open_ in (unseal, whole, by_range):
            plain = open_(key, about, sealed)
            assert len(plain) == vector["msgLength"]
            assert hashlib.sha512(plain).hexdigest() == vector["msgSha512"]
        return
    refusal = (SealBroken, ValueError) if "InvalidKeySize" in vector["flags"] else SealBroken
    for open_ in (unseal, whole, by_range):
        with pytest.raises(refusal):
            open_(key, about, sealed)


@pytest.mark.parametrize("vector", published("valid", "invalid"))
def test_a_range_opens_only_where_the_last_chunk_is_valid_and_gives_no_more_than_the_valid_prefix(
    vector: dict[str, Any],
) -> None:
    key, about = Secret(bytes.fromhex(vector["key"])), bytes.fromhex(vector["ctx"])
    sealed = zlib.decompress(bytes.fromhex(vector["ct"]))
    with file_of(sealed) as handle:
        if vector["result"] == "invalid" and "ValidFinalChunk" not in vector["flags"]:
            with pytest.raises(SealBroken):
                SealedRange(key, about, handle, 0)
            return
        opened = SealedRange(key, about, handle, 0)
        prefix = vector.get("msgLength", 0)
        known = vector.get("msgSha512", hashlib.sha512(b"").hexdigest())
        assert hashlib.sha512(opened.read(0, prefix)).hexdigest() == known
        if vector["result"] == "invalid":
            with pytest.raises(SealBroken):
                opened.read(prefix, 1)


@pytest.mark.parametrize("vector", published("valid"))
def test_the_published_chunk_keys_open_the_same_chunks_as_the_range_reader(vector: dict[str, Any]) -> None:
    sealed = zlib.decompress(bytes.fromhex(vector["ct"]))
    cipher, nonce = AESGCM(bytes.fromhex(vector["aeadKey"])), int(vector["baseNonce"], 16)
    with file_of(sealed) as handle:
        opened = SealedRange(Secret(bytes.fromhex(vector["key"])), bytes.fromhex(vector["ctx"]), handle, 0)
        for number in range(opened.length // CHUNK_BYTES + 1):
            chunk = sealed[HEADER + number * SEALED_CHUNK :][:SEALED_CHUNK]
            plain = cipher.decrypt((nonce ^ number).to_bytes(12, "big"), chunk, None)
            assert opened.read(number * CHUNK_BYTES, CHUNK_BYTES) == plain


@settings(max_examples=2000, deadline=None)
@given(
    size=sizes,
    reads=st.lists(st.tuples(sizes, st.sampled_from([0, 1, 16, CHUNK_BYTES]) | st.integers(0, 40000)), max_size=4),
    start=st.sampled_from([0, 12]),
)
def test_any_range_is_what_the_library_opens(size: int, reads: list[tuple[int, int]], start: int) -> None:
    sealer = Cobblestone256Encryptor(KEY.reveal(), ABOUT)
    sealed = sealer.update(content(size)) + sealer.finalize()
    opener = Cobblestone256Decryptor(KEY.reveal(), ABOUT)
    plain = opener.update(sealed) + opener.finalize()
    with file_of(bytes(start) + sealed) as handle:
        opened = SealedRange(KEY, ABOUT, handle, start)
        assert opened.length == size
        for offset, length in reads:
            assert opened.read(offset, length) == plain[offset : offset + length]


def test_a_kept_chunk_is_never_given_for_another() -> None:
    sealed = bytearray(seal(KEY, ABOUT, content(3 * CHUNK_BYTES)))
    sealed[HEADER + SEALED_CHUNK + 5] ^= 1
    with file_of(bytes(sealed)) as handle:
        opened = SealedRange(KEY, ABOUT, handle, 0)
        for _ in range(2):
            assert opened.read(3, 4) == content(4, 3)
            with pytest.raises(SealBroken):
                opened.read(CHUNK_BYTES, 1)
            with pytest.raises(SealBroken):
                opened.read(CHUNK_BYTES - 1, 2)
            assert opened.read(2 * CHUNK_BYTES, 2) == content(2, 2 * CHUNK_BYTES)


def test_a_range_reader_refuses_negative_numbers() -> None:
    with file_of(seal(KEY, ABOUT, b"abc")) as handle:
        opened = SealedRange(KEY, ABOUT, handle, 0)
        for offset, length in ((-1, 1), (0, -1)):
            with pytest.raises(ValueError):
                opened.read(offset, length)


@settings(max_examples=200, deadline=None)
@given(size=sizes, cuts=st.lists(st.integers(0, 3 * CHUNK_BYTES), max_size=6))
def test_a_stream_in_pieces_opens_as_one_piece_does(size: int, cuts: list[int]) -> None:
    plain = content(size)
    edges = [0, *sorted(cuts), size]
    sealed = streamed([plain[start:end] for start, end in pairwise(edges)])
    assert len(sealed) == len(seal(KEY, ABOUT, plain))
    assert unseal(KEY, ABOUT, sealed) == whole(KEY, ABOUT, sealed) == by_range(KEY, ABOUT, sealed) == plain


@settings(max_examples=200, deadline=None)
@given(size=sizes, lengths=st.lists(st.integers(1, 20000), min_size=1, max_size=5))
def test_a_stream_opens_however_the_system_cuts_its_reads(size: int, lengths: list[int]) -> None:
    sealed, plain = io.BytesIO(seal(KEY, ABOUT, content(size))), memoryview(bytearray(size))
    turn = iter(lengths * 60000)
    unseal_into(KEY, ABOUT, lambda block: sealed.readinto(block[: next(turn)]), plain)
    assert plain == content(size)


@pytest.mark.parametrize(
    "size", [MEBIBYTE - 1, MEBIBYTE, MEBIBYTE + 1, 2 * MEBIBYTE + CHUNK_BYTES + 3, 257 * CHUNK_BYTES]
)
def test_values_longer_than_the_working_memory_open(size: int) -> None:
    plain = os.urandom(size)
    sealed = streamed([b"", plain[:1], plain[1:]])
    assert unseal(KEY, ABOUT, sealed) == whole(KEY, ABOUT, sealed) == by_range(KEY, ABOUT, sealed) == plain


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
@pytest.mark.parametrize("more", [-1, 1, 16, SEALED_CHUNK])
def test_a_value_opens_into_its_own_length_only(size: int, more: int) -> None:
    if size + more < 0:
        return
    sealed, plain = io.BytesIO(seal(KEY, ABOUT, content(size))), memoryview(bytearray(size + more))
    with pytest.raises(SealBroken):
        unseal_into(KEY, ABOUT, sealed.readinto, plain)


def test_a_stream_without_its_end_does_not_open() -> None:
    out = io.BytesIO()
    Sealer(KEY, ABOUT, out.write).write(content(3 * CHUNK_BYTES))
    for open_ in (unseal, whole, by_range):
        with pytest.raises(SealBroken):
            open_(KEY, ABOUT, out.getvalue())


@pytest.mark.parametrize("size", SIZES)
def test_another_key_or_context_opens_nothing(size: int) -> None:
    sealed = seal(KEY, ABOUT, content(size))
    other_key = Secret(bytes(31) + b"\x01")
    for open_ in (unseal, whole, by_range):
        for key, about in ((other_key, ABOUT), (KEY, ABOUT + b"\x00"), (KEY, ABOUT[:-1]), (KEY, b"")):
            with pytest.raises(SealBroken):
                open_(key, about, sealed)


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_key_of_another_length_opens_nothing(length: int) -> None:
    sealed = seal(KEY, ABOUT, b"abc")
    for open_ in (unseal, whole, by_range):
        with pytest.raises((SealBroken, ValueError)):
            open_(Secret(bytes(length)), ABOUT, sealed)
    with pytest.raises(ValueError, match="32 bytes"):
        seal(Secret(bytes(length)), ABOUT, b"abc")


def test_a_range_is_not_opened_by_a_key_of_another_length_even_if_it_fits() -> None:
    """Our reader derives by itself: the length is its own to check."""
    for length in (31, 33):
        secret, salt = bytes(length), bytes(24)
        info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00" + salt + ABOUT
        derived = HKDFExpand(algorithm=SHA512(), length=76, info=info).derive(secret)
        sealed = salt + derived[44:] + AESGCM(derived[:32]).encrypt(derived[32:44], b"abc", None)
        with pytest.raises(SealBroken):
            by_range(Secret(secret), ABOUT, sealed)


def test_the_same_value_is_never_sealed_the_same_twice() -> None:
    sealed = [seal(KEY, ABOUT, b"the same") for _ in range(100)] + [streamed([b"the same"]) for _ in range(100)]
    assert len({value[:24] for value in sealed}) == 200
    assert len({value[HEADER:] for value in sealed}) == 200


def test_a_sealed_length_tells_its_value_length_and_no_other_length_exists() -> None:
    lengths = {HEADER + (size // CHUNK_BYTES + 1) * 16 + size: size for size in range(3 * CHUNK_BYTES)}
    assert [len(seal(KEY, ABOUT, bytes(size))) for size in SIZES[:5]] == [
        length for length, size in lengths.items() if size in SIZES
    ]
    for length in range(HEADER + 3 * SEALED_CHUNK):
        if length in lengths:
            assert plain_length(length) == lengths[length]
        else:
            with pytest.raises(SealBroken):
                plain_length(length)


@given(one=st.lists(st.binary(max_size=12), max_size=4), other=st.lists(st.binary(max_size=12), max_size=4))
def test_two_contexts_are_spelled_alike_only_if_they_are_the_same(one: list[bytes], other: list[bytes]) -> None:
    assert (context("p", *one) == context("p", *other)) == (one == other)
    assert context("p", *one) != context("q", *one)


def test_where_one_part_of_a_context_ends_can_not_be_moved() -> None:
    assert context("p", b"ab", b"c") != context("p", b"a", b"bc")
    assert context("p", b"ab", b"") != context("p", b"ab")
