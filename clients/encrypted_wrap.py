"""What a site releases in an encrypted run, signed and ready to be settled: ciphertexts, statement and price."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

import numpy as np
from torch import Tensor

from clients.member import Member
from clients.wrap import Price, Wrapped, WrapSums
from federation.encrypted_orders import EncryptedOrder, EncryptedReport, digest_of_statement
from federation.encrypted_replies import digest_of_part
from federation.shared_model import SharedModel
from federation.sum_parts import Part, SumKeys
from privacy.entries import Purpose


def wrap_sums(member: Member, order: EncryptedOrder, model: SharedModel, keys: SumKeys) -> WrapSums[EncryptedReport]:
    """Encrypts float64 sums, one after the other."""

    def wrap(sums: Mapping[str, Tensor], price: Price) -> Wrapped[EncryptedReport]:
        began = perf_counter()
        values = np.concatenate([tensor.numpy().astype(np.float64).ravel() for tensor in sums.values()])
        part = keys.encrypt_sums(member.info.name, values)
        return wrapped(member, order, keys.purpose, model, part, price, began)

    return wrap


def wrapped(
    member: Member,
    order: EncryptedOrder,
    purpose: Purpose,
    model: SharedModel,
    part: Part,
    price: Price,
    began: float,
) -> Wrapped[EncryptedReport]:
    """A part of a sum with the site's statement of it; `began`: when encrypting did."""
    payload = digest_of_part(part.values, part.tally, price.mechanism, price.seeded)
    statement = member.statement("report", order, payload, model)
    seconds = perf_counter() - began
    return Wrapped(
        digest=digest_of_statement(statement),
        with_receipt=lambda receipt: EncryptedReport(
            address=order.address,
            site=member.info.name,
            purpose=purpose,
            values=part.values,
            tally=part.tally,
            mechanism=price.mechanism,
            seeded=price.seeded,
            statement=statement,
            receipt=receipt,
            encrypted_in_seconds=seconds,
        ),
    )
