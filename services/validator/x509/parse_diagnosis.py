"""Which part of a certificate cannot be read: each is tried alone, in a certificate that is sound
otherwise. Pure."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator

from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from services.validator.x509 import der
from services.validator.x509.der_layout import Layout, layout, raw_extensions

NO_CERTIFICATE = "it is not an X.509 certificate in DER"
CERTIFICATE = "it is an X.509 certificate, but"
MAX_TRIED = 64
_VERSION_3 = bytes.fromhex("a003020102")
_PARTS = {
    "serial": bytes.fromhex("020101"),
    "signed_algorithm": bytes.fromhex("300a06082a8648ce3d040302"),
    "issuer": bytes.fromhex("3000"),
    "validity": bytes.fromhex("301e170d3236303130313030303030305a170d3237303130313030303030305a"),
    "subject": bytes.fromhex("3000"),
    "public_key": bytes.fromhex("3019301306072a8648ce3d020106082a8648ce3d03010703020002"),
}
_NAMES = {
    "serial": "its serial number",
    "signed_algorithm": "the algorithm that it is signed with",
    "issuer": "its issuer",
    "validity": "its period of validity",
    "subject": "its subject",
}
_SIGNATURE = bytes.fromhex("030200ff")


def why(data: bytes) -> str:
    """A clause for people on a certificate (DER) that the library does not read."""
    try:
        found, extensions = layout(data), raw_extensions(data)
        part = next(_culprits(data, found), None)
    except der.NotDer:
        return NO_CERTIFICATE
    if part:
        return f"{CERTIFICATE} {part} cannot be read"
    twice = [oid for oid, times in Counter(oid for oid, _ in extensions).items() if times > 1]
    if twice:
        return f"{CERTIFICATE} has the extension {_called(twice[0])} more than once"
    return NO_CERTIFICATE


def _culprits(data: bytes, found: Layout) -> Iterator[str]:
    for field, name in _NAMES.items():
        if not _reads(_with(**{field: _whole(data, getattr(found, field))})):
            yield name
    if found.extensions is None:
        return
    listed = der.children(data, der.read(data, found.extensions.start, found.extensions.end))
    for element in listed[:MAX_TRIED]:
        if not _reads(_with(extension=_whole(data, element))):
            yield (
                "its extension "
                f"{_called(der.oid(data, der.read(data, element.start, element.end)))}"
            )


def _called(oid: str) -> str:
    name = ObjectIdentifier(oid)._name
    return oid if name == "Unknown OID" else f"{oid} ({name})"


def _with(extension: bytes = b"", **parts: bytes) -> bytes:
    made = {**_PARTS, **parts}
    extensions = der.tlv(0xA3, der.tlv(der.SEQUENCE, extension)) if extension else b""
    signed = der.tlv(der.SEQUENCE, _VERSION_3 + b"".join(made.values()) + extensions)
    return der.tlv(der.SEQUENCE, signed + made["signed_algorithm"] + _SIGNATURE)


def _reads(data: bytes) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = x509.load_der_x509_certificate(data)
            _ = parsed.subject, parsed.issuer, parsed.serial_number, parsed.extensions
        _ = parsed.not_valid_before_utc, parsed.not_valid_after_utc, parsed.signature_algorithm_oid
    except Exception:  # as in Certificate.read
        return False
    return True


def _whole(data: bytes, element: der.Element) -> bytes:
    return der.tlv(element.tag, data[element.start : element.end])
