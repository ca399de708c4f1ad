"""The one way in which FedSeal encrypts at rest: Cobblestone-256 under a context that is demanded and never stored.

Cobblestone-256 is C2SP chunked-encryption (https://c2sp.org/chunked-encryption) with SHA-512 and AES-256-GCM, from
`cryptography`: a fresh random salt, a key commitment, 16 KiB chunks, and an end that is bound. A sealed value that was
changed, cut, extended, or sealed under another key or context does not open.

Random access (`SealedRange`) is ours until the library has it (pyca/cryptography#15322): the specification's own
procedure, held to its published vectors and to the library by tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.utils import Buffer

from privacy.secret import Secret

CHUNK_BYTES = 16 * 1024
_SALT_BYTES, _COMMITMENT_BYTES, _TAG_BYTES, _KEY_BYTES, _NONCE_BYTES = 24, 32, 16, 32, 12
_HEADER_BYTES = _SALT_BYTES + _COMMITMENT_BYTES
_SEALED_CHUNK_BYTES = CHUNK_BYTES + _TAG_BYTES
_INFO = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00"
_BLOCK_BYTES = 64 * CHUNK_BYTES


class SealBroken(Exception):
    """What was to be opened was changed, cut, or sealed under another key or context; callers name the object."""


def context(purpose: str, *parts: bytes) -> bytes:
    """The one spelling of a context: purpose and parts, each with its length (8 bytes, big-endian) before it."""
    named = (b"fedseal/" + purpose.encode() + b"/1", *parts)
    return b"".join(len(part).to_bytes(8, "big") + part for part in named)


def seal(key: Secret, about: bytes, plain: bytes) -> bytes:
    """A small value sealed in one piece."""
    sealer = Cobblestone256Encryptor(key.reveal(), about)
    return sealer.update(plain) + sealer.finalize()


def unseal(key: Secret, about: bytes, sealed: bytes) -> bytes:
    """The value that `seal` sealed under the same key and context.

    Raises:
        SealBroken: there is none.
    """
    opener = Cobblestone256Decryptor(key.reveal(), about)
    try:
        return opener.update(sealed) + opener.finalize()
    except InvalidTag:
        raise SealBroken from None


class Sealer:
    """Seals a stream of any length in memory that does not grow; the pieces go to `write`."""

    def __init__(self, key: Secret, about: bytes, write: Callable[[Buffer], None]) -> None:
        self._sealer = Cobblestone256Encryptor(key.reveal(), about)
        self._sealed = memoryview(bytearray(_HEADER_BYTES + _BLOCK_BYTES // CHUNK_BYTES * _SEALED_CHUNK_BYTES * 2))
        self._write = write

    def write(self, data: Buffer) -> None:
        """Seals all of `data`."""
        plain = memoryview(data).cast("B")
        for start in range(0, len(plain), _BLOCK_BYTES):
            length = self._sealer.update_into(plain[start : start + _BLOCK_BYTES], self._sealed)
            self._write(self._sealed[:length])

    def finish(self) -> None:
        """Seals the end; without it nothing opens."""
        self._write(self._sealer.finalize())


def plain_length(sealed_length: int) -> int:
    """How many bytes a sealed value of this length holds.

    Raises:
        SealBroken: no value has that length.
    """
    chunks, last = divmod(sealed_length - _HEADER_BYTES, _SEALED_CHUNK_BYTES)
    if chunks < 0 or last < _TAG_BYTES:
        raise SealBroken
    return chunks * CHUNK_BYTES + last - _TAG_BYTES


def unseal_into(key: Secret, about: bytes, read_into: Callable[[memoryview], int], plain: memoryview) -> None:
    """Opens a stream into `plain`, which has exactly the length of the value. Until it returns, `plain` means nothing.

    read_into: fills a buffer with the next sealed bytes and returns how many; 0 at the end

    Raises:
        SealBroken: as `unseal`.
    """
    opener = Cobblestone256Decryptor(key.reveal(), about)
    block = memoryview(bytearray(_BLOCK_BYTES))
    done = 0
    try:
        while count := read_into(block):
            done += opener.update_into(block[:count], plain[done:])
        tail = opener.finalize()
        if done + len(tail) != len(plain):
            raise SealBroken
        plain[done:] = tail
    except (InvalidTag, ValueError):  # a ValueError: more sealed bytes than `plain` has room for
        raise SealBroken from None


class SealedRange:
    """Random access to a sealed value in an open file: any range, without opening the rest.

    The commitment and the last chunk, and with it the length, are checked at once, so that a cut value gives nothing.
    """

    def __init__(self, key: Secret, about: bytes, handle: int, start: int) -> None:
        """handle, start: the file, and where the sealed value begins in it; it ends with the file.

        Raises:
            SealBroken: wrong key or context, or the value was cut or extended.
        """
        self._handle, self._start = handle, start
        self.length = plain_length(os.fstat(handle).st_size - start)
        header = os.pread(handle, _HEADER_BYTES, start)
        secret = key.reveal()
        if len(secret) != _KEY_BYTES or len(header) != _HEADER_BYTES:
            raise SealBroken
        derived = HKDFExpand(
            algorithm=SHA512(),
            length=_KEY_BYTES + _NONCE_BYTES + _COMMITMENT_BYTES,
            info=_INFO + header[:_SALT_BYTES] + about,
        ).derive(secret)
        if not bytes_eq(derived[_KEY_BYTES + _NONCE_BYTES :], header[_SALT_BYTES:]):
            raise SealBroken
        self._cipher = AESGCM(derived[:_KEY_BYTES])
        self._nonce = int.from_bytes(derived[_KEY_BYTES : _KEY_BYTES + _NONCE_BYTES], "big")
        self._kept = (-1, b"")
        self._chunk(self.length // CHUNK_BYTES)

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer only where the value ends.

        Raises:
            SealBroken: a chunk of the range was changed; nothing of the range is given.
        """
        if offset < 0 or length < 0:
            raise ValueError("offset and length can't be negative")
        end = min(offset + length, self.length)
        if offset >= end:
            return b""
        first, last = offset // CHUNK_BYTES, (end - 1) // CHUNK_BYTES
        plain = b"".join([self._chunk(number) for number in range(first, last + 1)])
        return plain[offset - first * CHUNK_BYTES : end - first * CHUNK_BYTES]

    def _chunk(self, number: int) -> bytes:
        kept, plain = self._kept
        if kept == number:
            return plain
        nonce = (self._nonce ^ number).to_bytes(_NONCE_BYTES, "big")
        sealed = os.pread(self._handle, _SEALED_CHUNK_BYTES, self._start + _HEADER_BYTES + number * _SEALED_CHUNK_BYTES)
        try:
            plain = self._cipher.decrypt(nonce, sealed, None)
        except InvalidTag:
            raise SealBroken from None
        self._kept = (number, plain)
        return plain
