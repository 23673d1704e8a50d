"""Certificates that no library would write: parts of a sound one's DER form are replaced.

odd = altered(leaf.certificate, issuing.key, serial=integer(-5))
text(odd) + issuing.pem
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.validator.text import pem as pem_text
from services.validator.x509 import der
from services.validator.x509.der_layout import read_layout
from tests.support.pki import der as der_of

NULL = b"\x05\x00"
PRINTABLE, UTF8, T61, IA5, BMP = 0x13, 0x0C, 0x14, 0x16, 0x1E
COMMON_NAME, ORGANISATION, COUNTRY, EMAIL = "2.5.4.3", "2.5.4.10", "2.5.4.6", "1.2.840.113549.1.9.1"

# P-256 (SEC 2, 2.4.2)
_P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_X = 0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296
_Y = 0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def tlv(tag: int, *parts: bytes) -> bytes:
    return der.encode_element(tag, b"".join(parts))


def sequence(*parts: bytes) -> bytes:
    return tlv(der.SEQUENCE, *parts)


def integer(value: int) -> bytes:
    return tlv(
        der.INTEGER, value.to_bytes((value + (value < 0)).bit_length() // 8 + 1, "big", signed=True)
    )


def oid(dotted: str) -> bytes:
    first, second, *others = map(int, dotted.split("."))
    body = b""
    for arc in (first * 40 + second, *others):
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(0x80 | arc & 0x7F)
        body += bytes(reversed(digits))
    return tlv(der.OID, body)


def name(*parts: tuple[str, int, str | bytes]) -> bytes:
    """Encode a Name of parts (OID, tag of its string, value)."""
    encoded = (
        (kind, tag, value.encode() if isinstance(value, str) else value)
        for kind, tag, value in parts
    )
    return sequence(
        *(tlv(der.SET, sequence(oid(kind), tlv(tag, value))) for kind, tag, value in encoded)
    )


def extension(kind: str, value: bytes, critical: bytes | bool = False) -> bytes:
    """Encode an extension. ``critical``: its BOOLEAN byte for byte, or whether it is critical."""
    flag = (b"\x01\x01\xff" if critical else b"") if isinstance(critical, bool) else critical
    return sequence(oid(kind), flag, tlv(der.OCTET_STRING, value))


def general(kind: int, value: str | bytes) -> bytes:
    """Encode a GeneralName by its context tag: 1 e-mail, 2 DNS, 4 directory, 6 URI, 7 address."""
    body = value.encode() if isinstance(value, str) else value
    return tlv((0xA0 if kind in (0, 3, 4, 5) else 0x80) | kind, body)


def subject_names(*names: bytes) -> bytes:
    return extension("2.5.29.17", sequence(*names))


def constraints(permitted: list[bytes]) -> bytes:
    """Encode name constraints of GeneralNames, or of whole subtrees that begin with a SEQUENCE."""
    trees = (one if one[0] == der.SEQUENCE else sequence(one) for one in permitted)
    return extension("2.5.29.30", sequence(tlv(0xA0, *trees)), critical=True)


def altered(
    certificate: x509.Certificate, signer: Any, *, more: tuple[bytes, ...] = (), **parts: bytes
) -> bytes:
    """Return the DER form of ``certificate`` with some parts replaced, signed again.

    ``parts``: by the fields of ``CertificateLayout``. ``more``: extensions to add. ``signer``
    signs with SHA-256."""
    data = der_of(certificate)
    found = read_layout(data)
    tbs = der.read_children(data, der.read_sequence(data)[0])
    own = {
        whole(data, getattr(found, field)): value
        for field, value in parts.items()
        if field != "algorithm"
    }
    pieces = []
    for part in tbs:
        piece = whole(data, part)
        if part == found.extensions:
            kept = [
                whole(data, one)
                for one in der.read_children(data, der.read_element(data, part.start))
            ]
            piece = tlv(0xA3, sequence(*kept, *more))
        pieces.append(own.get(whole(data, part), piece))
    signed = sequence(*pieces)
    algorithm = parts.get("algorithm", whole(data, found.algorithm))
    return sequence(signed, algorithm, tlv(der.BIT_STRING, b"\0" + signature(signer, signed)))


def signature(signer: Any, data: bytes) -> bytes:
    if isinstance(signer, ec.EllipticCurvePrivateKey):
        return signer.sign(data, ec.ECDSA(hashes.SHA256()))
    return bytes(signer.sign(data, padding.PKCS1v15(), hashes.SHA256()))


def whole(data: bytes, element: der.DerElement) -> bytes:
    """Return the element with its tag and length."""
    return tlv(element.tag, data[element.start : element.end])


def text(*certificates: bytes | x509.Certificate) -> str:
    return "".join(
        pem_text.encode_block("CERTIFICATE", c if isinstance(c, bytes) else der_of(c))
        for c in certificates
    )


def explicit(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the SPKI of a P-256 key with explicit curve parameters (SEC 1, C.2)."""
    field = sequence(oid("1.2.840.10045.1.1"), integer(_P))
    curve = sequence(
        tlv(der.OCTET_STRING, (_P - 3).to_bytes(32, "big")),
        tlv(der.OCTET_STRING, _B.to_bytes(32, "big")),
    )
    base = b"\x04" + _X.to_bytes(32, "big") + _Y.to_bytes(32, "big")
    parameters = sequence(
        integer(1), field, curve, tlv(der.OCTET_STRING, base), integer(_N), integer(1)
    )
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return sequence(
        sequence(oid("1.2.840.10045.2.1"), parameters), tlv(der.BIT_STRING, b"\0" + point)
    )


def compressed(key: ec.EllipticCurvePrivateKey) -> bytes:
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = sequence(oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7"))
    return sequence(algorithm, tlv(3, b"\0" + point))
