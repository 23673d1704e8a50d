"""Which part of a certificate cannot be read.

Each part is tried alone, in a certificate that is otherwise sound.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator

from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from services.validator.x509 import der
from services.validator.x509.der import NotDer
from services.validator.x509.der_layout import (
    CertificateLayout,
    read_layout,
    read_raw_extensions,
)

NOT_A_CERTIFICATE = "it is not an X.509 certificate in DER"
FAULTY_CERTIFICATE = "it is an X.509 certificate, but"
MAX_TRIED_EXTENSIONS = 64
MIN_CERTIFICATE_BYTES = 64
_VERSION_3 = bytes.fromhex("a003020102")
# The sound parts, in the order of RFC 5280, 4.1: a P-256 key, ECDSA with SHA-256, empty names.
_SOUND_PARTS = {
    "serial": bytes.fromhex("020101"),
    "signed_algorithm": bytes.fromhex("300a06082a8648ce3d040302"),
    "issuer": bytes.fromhex("3000"),
    "validity": bytes.fromhex("301e170d3236303130313030303030305a170d3237303130313030303030305a"),
    "subject": bytes.fromhex("3000"),
    "public_key": bytes.fromhex("3019301306072a8648ce3d020106082a8648ce3d03010703020002"),
}
_PART_NAMES = {
    "serial": "its serial number",
    "signed_algorithm": "the algorithm that it is signed with",
    "issuer": "its issuer",
    "validity": "its period of validity",
    "subject": "its subject",
}
_SIGNATURE = bytes.fromhex("030200ff")


def diagnose_unreadable(data: bytes) -> str:
    """Describe why the library does not read a certificate (DER), as a clause for a finding."""
    cut = _describe_length(data)
    if cut:
        return cut
    try:
        layout = read_layout(data)
        extensions = read_raw_extensions(data)
        part = next(_unreadable_parts(data, layout), None)
    except NotDer:
        return NOT_A_CERTIFICATE
    if part:
        return f"{FAULTY_CERTIFICATE} {part} cannot be read"
    counts = Counter(oid for oid, _ in extensions)
    for oid, count in counts.items():
        if count > 1:
            return f"{FAULTY_CERTIFICATE} has the extension {_describe_oid(oid)} more than once"
    return NOT_A_CERTIFICATE


def _describe_length(data: bytes) -> str | None:
    """Describe a certificate that was cut short, or that something follows; None for any other."""
    if len(data) < MIN_CERTIFICATE_BYTES or data[:2] != b"\x30\x82" or data[4] != der.SEQUENCE:
        return None
    announced = 4 + int.from_bytes(data[2:4], "big")
    if announced > len(data):
        return f"it is cut short: {len(data):,} of its {announced:,} bytes are there"
    if announced < len(data):
        return f"{len(data) - announced:,} bytes follow the end of the certificate"
    return None


def _unreadable_parts(data: bytes, layout: CertificateLayout) -> Iterator[str]:
    for field, name in _PART_NAMES.items():
        part = der.copy_element(data, getattr(layout, field))
        if not _is_readable(build_certificate(**{field: part})):
            yield name
    if layout.extensions is None:
        return
    extension_list = der.read_element(data, layout.extensions.start, layout.extensions.end)
    for element in der.read_children(data, extension_list)[:MAX_TRIED_EXTENSIONS]:
        if not _is_readable(build_certificate(extension=der.copy_element(data, element))):
            oid = der.read_oid(data, der.read_element(data, element.start, element.end))
            yield f"its extension {_describe_oid(oid)}"


def _describe_oid(oid: str) -> str:
    name = ObjectIdentifier(oid)._name
    return oid if name == "Unknown OID" else f"{oid} ({name})"


def build_certificate(extension: bytes = b"", **parts: bytes) -> bytes:
    """Return a sound certificate with ``parts`` and ``extension`` in place of its own."""
    used_parts = {**_SOUND_PARTS, **parts}
    extensions = b""
    if extension:
        extensions = der.encode_element(0xA3, der.encode_element(der.SEQUENCE, extension))
    signed = der.encode_element(
        der.SEQUENCE, _VERSION_3 + b"".join(used_parts.values()) + extensions
    )
    return der.encode_element(der.SEQUENCE, signed + used_parts["signed_algorithm"] + _SIGNATURE)


def _is_readable(data: bytes) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = x509.load_der_x509_certificate(data)
            _ = parsed.subject, parsed.issuer, parsed.serial_number, parsed.extensions
        _ = parsed.not_valid_before_utc, parsed.not_valid_after_utc, parsed.signature_algorithm_oid
    except Exception:  # as in ParsedCertificate.from_der
        return False
    return True
