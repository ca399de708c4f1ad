"""Who a party is: an identity that the federation's authority certified, and the authority that it believes."""

from __future__ import annotations

from dataclasses import dataclass

from privacy.certificates import Certificate, Trust
from privacy.identity import Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a site or server signs with, the certificate that says whose signatures these are, and whom it trusts."""

    identity: Identity
    certificate: Certificate
    trust: Trust
