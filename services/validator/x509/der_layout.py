"""Where the parts of a certificate are in its DER form (RFC 5280, 4.1).

It serves what the library does not show as it is written.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from services.validator.x509 import der
from services.validator.x509.der import DerElement, NotDer

_EXTENSIONS_TAG = 0xA3


class CertificateLayout(NamedTuple):
    """The elements of a certificate.

    ``signed_algorithm`` is the copy of ``algorithm`` inside the part that is signed.
    ``extensions`` is None when there are none.
    """

    serial: DerElement
    signed_algorithm: DerElement
    issuer: DerElement
    validity: DerElement
    subject: DerElement
    public_key: DerElement
    extensions: DerElement | None
    algorithm: DerElement


@lru_cache(maxsize=64)
def read_layout(data: bytes) -> CertificateLayout:
    """Read the layout of a certificate; raises NotDer when a part is missing or out of order."""
    outer = der.read_sequence(data)
    if len(outer) != 3:
        raise NotDer("not the three parts of a certificate")
    parts = der.read_children(data, outer[0])
    if parts and parts[0].tag == der.CONTEXT_0:  # the version
        del parts[0]
    if len(parts) < 6:
        raise NotDer("parts of the certificate are missing")
    extensions = None
    for part in parts[6:]:
        if part.tag == _EXTENSIONS_TAG:
            extensions = part
            break
    return CertificateLayout(
        serial=parts[0],
        signed_algorithm=parts[1],
        issuer=parts[2],
        validity=parts[3],
        subject=parts[4],
        public_key=parts[5],
        extensions=extensions,
        algorithm=outer[1],
    )


def has_named_curve(data: bytes) -> bool:
    """Check that a certificate's EC key names its curve (RFC 5480, 2.1.1).

    ``data`` is a certificate that the library has read. OpenSSL refuses a curve whose parameters
    are written out, and the library does not show the difference.
    """
    # Every EC leaf passes here, so elements are skipped without the checks of der.read_element:
    # the library has checked this DER already. The public key is the sixth part of what is signed,
    # or the seventh after a version.
    at = _content_start(data, _content_start(data, 0))
    for _ in range(6 if data[at] == der.CONTEXT_0 else 5):
        at = _element_end(data, at)
    algorithm = _content_start(data, at)
    parameters = _element_end(data, _content_start(data, algorithm))
    return parameters < _element_end(data, algorithm) and data[parameters] == der.OID


def _content_start(data: bytes, at: int) -> int:
    length = data[at + 1]
    if length < 0x80:
        return at + 2
    return at + 2 + (length & 0x7F)


def _element_end(data: bytes, at: int) -> int:
    length = data[at + 1]
    if length < 0x80:
        return at + 2 + length
    start = at + 2 + (length & 0x7F)
    return start + int.from_bytes(data[at + 2 : start], "big")


class RawExtension(NamedTuple):
    """An extension as it is written. ``writes_default``: it says that it is not critical."""

    oid: str
    is_critical: bool
    writes_default: bool
    value: bytes


def read_raw_extensions(data: bytes) -> list[tuple[str, bytes]]:
    """Read the OID and the value bytes of every extension, in order; raises NotDer."""
    extensions = read_extension_list(data, read_layout(data))
    return [(extension.oid, extension.value) for extension in extensions]


def read_extension_list(data: bytes, layout: CertificateLayout) -> list[RawExtension]:
    """Read every extension of a certificate, in order; raises NotDer."""
    if layout.extensions is None:
        return []
    extension_list = der.read_element(data, layout.extensions.start, layout.extensions.end)
    elements = der.read_children(data, extension_list)
    return [_read_extension(data[element.start : element.end]) for element in elements]


@lru_cache(maxsize=1024)
def _read_extension(content: bytes) -> RawExtension:
    """Read the content of one extension. Many are the same in nearly all certificates of a CA."""
    parts = der.read_children(content, DerElement(der.SEQUENCE, 0, len(content)))
    if len(parts) < 2 or parts[-1].tag != der.OCTET_STRING:
        raise NotDer("not an extension")
    critical = b""
    if len(parts) == 3:
        critical = content[parts[1].start : parts[1].end]
    return RawExtension(
        oid=der.read_oid(content, parts[0]),
        is_critical=critical not in (b"", b"\0"),
        writes_default=critical == b"\0",
        value=content[parts[-1].start : parts[-1].end],
    )
