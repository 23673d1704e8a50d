"""An account's own roots (rule D9): read from PEM, normalised. Pure; these certificates are public,
no key is here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from services.config.domain.commands import Settled
from services.config.domain.model import Cause
from shared.contracts.certificates import RootView
from shared.contracts.domains import Outcome
from shared.contracts.findings import Code, finding
from shared.errors import Refused

MOST, BYTES = 20, 64 * 1024
# What reading a certificate raises has no base of its own but Exception.
_UNREADABLE: Final = (
    ValueError,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)
_BLOCK: Final = re.compile(r"-----BEGIN ([^-]*)-----.*?-----END \1-----", re.DOTALL)


def read(text: str) -> list[RootView]:
    """Each root once, in their order; none for no text. Refused (roots.invalid) for anything but CA
    certificates."""
    if not text.strip():
        return []
    if len(text.encode()) > BYTES:
        raise _fault("the text is over 64 KiB")
    blocks = list(_BLOCK.finditer(text))
    if not blocks or len(blocks) > MOST:
        raise _fault(f"{len(blocks)} PEM blocks were found")
    if _BLOCK.sub("", text).count("-----"):
        raise _fault("a PEM block has no end")
    roots = [_root(match, index) for index, match in enumerate(blocks)]
    return list({root.fingerprint: root for root in roots}.values())


def settle(cause: Cause, text: str, before: Sequence[str]) -> tuple[Settled, list[RootView]]:
    """How setting them ends, and what is kept then. ``before``: each in PEM."""
    try:
        wanted = read(text)
    except Refused as refused:
        return Settled(cause, Outcome.REFUSED, tuple(refused.findings)), []
    same = list(before) == [root.pem for root in wanted]
    return Settled(cause, Outcome.UNCHANGED if same else Outcome.APPLIED), wanted


def _root(match: re.Match[str], index: int) -> RootView:
    if match[1] != "CERTIFICATE":
        raise _fault(f"block {index} is no certificate")
    try:
        certificate = x509.load_pem_x509_certificate(match[0].encode())
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        root = RootView(
            subject=certificate.subject.rfc4514_string()[:300],
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
            not_after=certificate.not_valid_after_utc.astimezone(UTC),
            pem=certificate.public_bytes(Encoding.PEM).decode(),
        )
    except _UNREADABLE:
        raise _fault(f"block {index} cannot be read as a CA certificate") from None
    if not constraints.ca:
        raise _fault(f"block {index} is not a CA's")
    return root


def _fault(why: str) -> Refused:
    return Refused(
        [finding(Code.ROOTS_INVALID, f"The roots cannot be taken: {why}.", field="request")]
    )
