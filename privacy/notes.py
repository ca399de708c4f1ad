"""Signed checkpoints: a log's name, size and root on three lines of text, and below them who signed those lines.

Promises: what `opened` returns was signed, byte for byte, by the key that the caller named, and has one spelling:
`text()` gives back the bytes that were signed. Any other reading of a note is refused.

Never: no caller sees a text before its signature holds. Ed25519 only; no other key can vouch for the one asked for. A
key that signs notes may also sign what `privacy/identity.py` signs: a note's text holds no control character but the
newline, and a context there begins with a zero byte, so neither passes for the other. A signature says who wrote a
checkpoint, not that it is the newest or that its origin is the one wanted: the caller compares those.

Sources: C2SP signed-note (https://c2sp.org/signed-note: format, key ids, type 0x01 = Ed25519 of RFC 8032) and
tlog-checkpoint (https://c2sp.org/tlog-checkpoint). Extension lines, which the latter allows and advises against, are
refused. The text of a verifier key is that of golang.org/x/mod/sumdb/note.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privacy.errors import CheckpointInvalid, IdentityRefused
from privacy.merkle import HASH_BYTES

LONGEST_NOTE_BYTES = 16 * 1024  # room for the 16 signatures that a verifier must accept, whatever their names
LONGEST_NAME = 200  # characters of an origin or a key's name
_SIZES = 2**53  # every number below it is exact in any JSON reader
_ED25519, _KEY_ID_BYTES = b"\x01", 4
_DASH = "\u2014 "  # an em dash begins a signature line
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f]")  # "below U+0020, other than newline"
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode categories: controls, formats, surrogates, line and paragraph ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a log.

    origin: which log, one line of 1 to 200 visible characters or spaces
    size:   entries, 0 to 2^53 - 1
    root:   the Merkle root of that size, 32 bytes
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not _is_visible(self.origin):
            raise ValueError(f"an origin is one line of 1 to {LONGEST_NAME} characters that can be seen")
        if not 0 <= self.size < _SIZES:
            raise ValueError("a size is a whole number from 0 to 2^53 - 1")
        if len(self.root) != HASH_BYTES:
            raise ValueError(f"a root has {HASH_BYTES} bytes")

    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"

    @staticmethod
    def parse(text: str) -> Checkpoint:
        """The checkpoint whose `text()` this is.

        Raises:
            CheckpointInvalid: there is none.
        """
        try:
            origin, size, root, _ = text.split("\n")
            checkpoint = Checkpoint(origin=origin, size=int(size), root=b64decode(root))
        except ValueError:
            raise CheckpointInvalid("the checkpoint is not three lines of origin, size and root") from None
        if checkpoint.text() != text:  # "+1", "01", "1_0", loose bits and spaces in base64, something after the end
            raise CheckpointInvalid("the checkpoint is not spelled in the one way that is signed")
        return checkpoint


def signed(checkpoint: Checkpoint, key_name: str, sign: Callable[[bytes], bytes], verifying: bytes) -> str:
    """The checkpoint as a note with one signature.

    sign: gives the plain Ed25519 signature, 64 bytes, of the key whose public half, 32 bytes, is `verifying`
    """
    return signed_text(checkpoint.text(), key_name, sign, verifying)


def opened(note: str, key_name: str, verifying: bytes) -> Checkpoint:
    """The checkpoint of a note that this key signed, whoever else did.

    Raises:
        CheckpointInvalid: it is no note, or its text is no checkpoint.
        IdentityRefused: this key did not sign it.
    """
    return Checkpoint.parse(opened_text(note, key_name, verifying))


def verifier_key(key_name: str, verifying: bytes) -> str:
    """The public key in the text that other tools for signed notes read."""
    return f"{key_name}+{_key_id(key_name, verifying).hex()}+{_base64(_ED25519 + verifying)}"


def signed_text(text: str, key_name: str, sign: Callable[[bytes], bytes], verifying: bytes) -> str:
    """Any text, which ends with a newline, as a note with one signature; `signed` says what the others are."""
    message = text.encode()
    if not text.endswith("\n") or _CONTROL.search(text):
        raise ValueError("the text of a note ends with a newline and holds no other control character")
    key_id, signature = _key_id(key_name, verifying), sign(message)
    note = f"{text}\n{_DASH}{key_name} {_base64(key_id + signature)}\n"
    if len(note.encode()) > LONGEST_NOTE_BYTES:
        raise ValueError(f"a note has at most {LONGEST_NOTE_BYTES} bytes")
    return note


def opened_text(note: str, key_name: str, verifying: bytes) -> str:
    """The text of a note that this key signed; raises as `opened`."""
    key = key_name, _key_id(key_name, verifying)
    text, lines = _parts(note)
    # "Verifiers MUST ignore signatures from unknown keys, even if they share a name or ID (but not both)"
    ours = [signature for name, key_id, signature in map(_signature, lines) if (name, key_id) == key]
    # "If a signature from a known key fails to verify, clients SHOULD reject the whole note"
    if not ours or not all(_is_signature(signature, text.encode(), verifying) for signature in ours):
        raise IdentityRefused(f"the checkpoint is not signed by {key_name} with the key that is known of it")
    return text


def _parts(note: str) -> tuple[str, list[str]]:
    """The text, and the signature lines below the last empty line."""
    try:
        length = len(note.encode())
    except UnicodeEncodeError:
        raise CheckpointInvalid("the note is not UTF-8") from None
    if length > LONGEST_NOTE_BYTES:
        raise CheckpointInvalid(f"the note is longer than {LONGEST_NOTE_BYTES} bytes")
    if _CONTROL.search(note):
        raise CheckpointInvalid("the note holds a control character")
    end = note.rfind("\n\n") + 1
    text, lines = note[:end], note[end + 1 :].split("\n")
    if not text or len(lines) < 2 or lines.pop() != "":
        raise CheckpointInvalid("the note is not a text, an empty line and signature lines")
    return text, lines


def _signature(line: str) -> tuple[str, bytes, bytes]:
    """Key name, key id and signature of a line."""
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    try:
        value = b64decode(encoded)
    except ValueError:
        value = b""
    signature = value[_KEY_ID_BYTES:]
    if line != f"{_DASH}{name} {_base64(value)}" or not signature or not _is_key_name(name):
        raise CheckpointInvalid("a signature line is not a dash, a key's name and a signature in base64")
    return name, value[:_KEY_ID_BYTES], signature


def _key_id(key_name: str, verifying: bytes) -> bytes:
    if not _is_key_name(key_name) or len(key_name) > LONGEST_NAME or _CONTROL.search(key_name):
        raise ValueError(f"a key's name has 1 to {LONGEST_NAME} characters, and no space, plus or control among them")
    if len(verifying) != 32:
        raise ValueError("an Ed25519 public key has 32 bytes")
    return hashlib.sha256(key_name.encode() + b"\n" + _ED25519 + verifying).digest()[:_KEY_ID_BYTES]


@lru_cache(maxsize=4096)
def _is_visible(origin: str) -> bool:
    return 1 <= len(origin) <= LONGEST_NAME and not any(unicodedata.category(c) in _UNSEEN for c in origin)


@lru_cache(maxsize=4096)
def _is_key_name(name: str) -> bool:
    # "Key names MUST be non-empty and MUST NOT contain any Unicode spaces or plus"
    return name != "" and "+" not in name and not any(c.isspace() for c in name)


def _is_signature(signature: bytes, message: bytes, verifying: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(verifying).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _base64(value: bytes) -> str:
    return b64encode(value).decode()
