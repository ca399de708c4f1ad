"""A safe's certificate: what the federation's authority says of the safe's owner, and whom the owner believes.

It lies in the safe, sealed, so that nobody puts another authority in its place who can't open the safe.
"""

from __future__ import annotations

import json

from privacy.certificates import Certificate, Trust, checked
from privacy.errors import IdentityRefused, ObjectMissing
from privacy.identity import PublicIdentity
from privacy.safe import Safe
from privacy.vault import Label

_OWN = Label("certificate", "own")


def certify(safe: Safe, certificate: Certificate, trust: Trust) -> None:
    """Keeps a certificate of the safe's own identity.

    Raises:
        IdentityRefused: it is another's, or the authority did not sign it.
        StorageFailed, StorageBusy: it could not be kept.
    """
    if checked(certificate, trust, certificate.role) != safe.public_identity():
        raise IdentityRefused(f"the certificate is for another identity than that of {safe.folder}: ask for it anew")
    text = json.dumps({"certificate": certificate.to_json(), "authority": trust.authority.to_json()})
    with safe.changing() as vault:
        vault.seal(_OWN, [text.encode()])


def certificate_of(safe: Safe) -> tuple[Certificate, Trust]:
    """The certificate, and whom the owner believes.

    Raises:
        IdentityRefused: the safe was never certified.
        ObjectDamaged, KeyRefused: it does not open.
    """
    try:
        found = json.loads(bytes(safe.vault.open(_OWN)))
    except ObjectMissing:
        raise IdentityRefused(
            f"{safe.folder} has no certificate, which encrypted runs need: write a request with `fedseal site request` "
            "(`fedseal server request`), have the authority sign it, and install what it answers with `certify`"
        ) from None
    certificate = Certificate.from_json(found["certificate"])
    authority = PublicIdentity.from_json(found["authority"])
    return certificate, Trust(federation=certificate.federation, authority=authority)
