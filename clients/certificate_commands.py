"""`fedseal site request` and `fedseal site certify`: how a site is certified for encrypted runs."""

from __future__ import annotations

from federation import certificate_commands
from federation.certificate_commands import AuthorityFingerprint, CertificateFile, RequestFile
from federation.safe_options import PassphraseDescriptor, SiteOption, unlocked


def request(out: RequestFile, site: SiteOption = None, passphrase_fd: PassphraseDescriptor = None) -> None:
    """Write a request for a certificate, for the authority of the federation. Private keys never leave the site."""
    certificate_commands.request(unlocked(site, passphrase_fd), out)


def certify(
    file: CertificateFile,
    authority_fingerprint: AuthorityFingerprint = None,
    site: SiteOption = None,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Install the certificate that the authority answered; encrypted runs need it."""
    certificate_commands.install(unlocked(site, passphrase_fd), file, "site", authority_fingerprint)
