"""What an auditor gets of a ledger: entries that the site chooses to reveal, each provable, in one signed file.

The file is JSON: the site's public identity, a receipt (signed checkpoint, entries, proofs; `privacy/receipts.py`), and
the signature (Ed25519) of the whole. It says nothing of the entries that are not in it but how many there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privacy import files
from privacy.entries import Entry
from privacy.errors import DataInvalid, IdentityRefused
from privacy.identity import Identity, PublicIdentity
from privacy.notes import Checkpoint
from privacy.receipts import Receipt, judged
from privacy.shown import checked

_PURPOSE = "auditor bundle"
_LARGEST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a bundle proves: whose ledger it is, its size and root, and entries by number."""

    identity: PublicIdentity
    checkpoint: Checkpoint
    entries: Mapping[int, Entry]


def write_bundle(path: Path, identity: Identity, receipt: Receipt) -> None:
    """Writes the file, durably.

    Raises:
        StorageFailed: the disk refused.
    """
    body = json.dumps({"format": 1, "identity": identity.public().to_json(), "receipt": receipt.to_json()})
    signature = identity.sign(_PURPOSE, body.encode()).hex()
    files.make_folder(path.parent)
    files.replace(path, json.dumps({"bundle": body, "signature": signature}).encode())


def read_bundle(path: Path) -> Bundle:
    """The bundle of a file, every signature and proof checked; whether the identity is the site's is for people to say.

    Raises:
        DataInvalid: the file is no bundle, or was cut.
        IdentityRefused: a signature does not hold, or the ledger is not signed by the bundle's identity.
        ReportRefused: a proof does not hold, or an entry can't be read.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ValueError
        outer = json.loads(path.read_bytes())
        body, signature = outer["bundle"], bytes.fromhex(outer["signature"])
        inner = json.loads(body)
        if inner["format"] != 1:
            raise ValueError
        identity_text, receipt_text, signed = str(inner["identity"]), str(inner["receipt"]), body.encode()
    except OSError as error:
        raise DataInvalid(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise DataInvalid(f"{path} is no auditor bundle of FedSeal, or was cut") from None
    identity = PublicIdentity.from_json(identity_text)
    identity.verify(signature, _PURPOSE, signed)
    receipt = Receipt.from_json(receipt_text, _LARGEST_BYTES)
    if receipt.verifying != identity.verifying:
        raise IdentityRefused(f"{path}: the ledger in it is not signed by {identity.name}'s key")
    shown, entries = judged(receipt, None)
    return Bundle(identity=identity, checkpoint=checked(shown), entries=entries)
