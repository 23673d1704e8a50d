"""Where the parts of a certificate stand in its DER form (RFC 5280, 4.1): what the library does not
tell as it is. Pure."""

from __future__ import annotations

from typing import NamedTuple

from services.validator.x509 import der

_EXTENSIONS = 0xA3


class Layout(NamedTuple):
    """``signed_algorithm`` is the one inside of what is signed; ``extensions`` None when there are
    none."""

    serial: der.Element
    signed_algorithm: der.Element
    issuer: der.Element
    validity: der.Element
    subject: der.Element
    public_key: der.Element
    extensions: der.Element | None
    algorithm: der.Element


def layout(data: bytes) -> Layout:
    """NotDer when the parts are not there in their order."""
    outer = der.whole(data)
    if len(outer) != 3:
        raise der.NotDer("not the three parts of a certificate")
    parts = der.children(data, outer[0])
    if parts and parts[0].tag == der.CONTEXT_0:
        del parts[0]
    if len(parts) < 6:
        raise der.NotDer("parts of the certificate are missing")
    extensions = next((part for part in parts[6:] if part.tag == _EXTENSIONS), None)
    serial, algorithm, issuer, validity, subject, public_key = parts[:6]
    return Layout(serial, algorithm, issuer, validity, subject, public_key, extensions, outer[1])


def names_its_curve(data: bytes) -> bool:
    """Is the EC key of a certificate that the library has read on a curve that is named, not spelt
    out (RFC 5480, 2.1.1)? OpenSSL refuses the latter, and the library does not tell them apart.
    Asked of every leaf, so in a hurry."""
    at = _content(data, _content(data, 0))
    for _ in range(6 if data[at] == der.CONTEXT_0 else 5):
        at = _after(data, at)
    algorithm = _content(data, at)
    parameters = _after(data, _content(data, algorithm))
    return parameters < _after(data, algorithm) and data[parameters] == der.OID


def _content(data: bytes, at: int) -> int:
    length = data[at + 1]
    return at + 2 if length < 0x80 else at + 2 + (length & 0x7F)


def _after(data: bytes, at: int) -> int:
    length = data[at + 1]
    if length < 0x80:
        return at + 2 + length
    start = at + 2 + (length & 0x7F)
    return start + int.from_bytes(data[at + 2 : start], "big")


def raw_extensions(data: bytes) -> list[tuple[str, bytes]]:
    """OID and value of every extension, as they stand; NotDer."""
    found = layout(data).extensions
    if found is None:
        return []
    parts = (
        der.children(data, one)
        for one in der.children(data, der.read(data, found.start, found.end))
    )
    return [
        (der.oid(data, part[0]), data[part[-1].start : part[-1].end])
        for part in parts
        if len(part) > 1
    ]
