"""An account's own roots (rule D9): read from PEM and normalised. These certificates are public.
Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from services.config.domain.events import Settled, applied, refused, unchanged
from services.config.domain.model import Cause
from shared.contracts.certificates import RootView
from shared.contracts.findings import Code, finding
from shared.errors import Refused

MAX_ROOTS: Final = 20
MAX_BYTES: Final = 64 * 1024
# What reading a certificate raises has no base of its own but Exception.
_UNREADABLE: Final = (
    ValueError,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)
_BLOCK: Final = re.compile(r"-----BEGIN ([^-]*)-----.*?-----END \1-----", re.DOTALL)


def read_roots(text: str) -> list[RootView]:
    """Return each root of a PEM text once, in order; none for an empty text.

    Refused with ``roots.invalid`` for anything but CA certificates."""
    if not text.strip():
        return []
    if len(text.encode()) > MAX_BYTES:
        raise _invalid("the text is over 64 KiB")
    blocks = list(_BLOCK.finditer(text))
    if not blocks or len(blocks) > MAX_ROOTS:
        raise _invalid(f"{len(blocks)} PEM blocks were found")
    if _BLOCK.sub("", text).count("-----"):
        raise _invalid("a PEM block has no end")
    roots = {}
    for index, match in enumerate(blocks):
        root = _read_root(match, index)
        roots[root.fingerprint] = root
    return list(roots.values())


def decide_roots(cause: Cause, text: str, before: Sequence[str]) -> tuple[Settled, list[RootView]]:
    """Return how setting an account's roots ends, and the roots that were asked for.

    ``before``: the roots that are kept now, each in PEM."""
    try:
        wanted = read_roots(text)
    except Refused as error:
        return refused(cause, *error.findings), []
    if list(before) == [root.pem for root in wanted]:
        return unchanged(cause), wanted
    return applied(cause), wanted


def _read_root(match: re.Match[str], index: int) -> RootView:
    if match[1] != "CERTIFICATE":
        raise _invalid(f"block {index} is no certificate")
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
        raise _invalid(f"block {index} cannot be read as a CA certificate") from None
    if not constraints.ca:
        raise _invalid(f"block {index} is not a CA's")
    return root


def _invalid(why: str) -> Refused:
    return Refused(
        [finding(Code.ROOTS_INVALID, f"The roots cannot be taken: {why}.", field="request")]
    )
