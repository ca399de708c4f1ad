"""Orders of encrypted runs, signed by the server's certified identity."""

from __future__ import annotations

from flwr.app import RecordDict

from federation.credentials import Credentials
from federation.encrypted_messages import order_head
from federation.encrypted_orders import digest_of_cohort
from federation.envelopes import signed_digest, signed_with
from federation.statements import Statement


def signed_order(credentials: Credentials, order: RecordDict) -> RecordDict:
    """The order with the server's statement of what it says, and the server's certificate."""
    address, membership, cohort = order_head(order)
    unsigned = Statement(
        kind="order",
        run=address.run,
        round=address.round,
        plan=address.plan,
        layout=address.layout,
        membership=membership,
        cohort=digest_of_cohort(cohort),
        payload=signed_digest(order),
        model="",
        name=credentials.identity.name,
    )
    return signed_with(order, unsigned.signed(credentials.identity), credentials.certificate)
