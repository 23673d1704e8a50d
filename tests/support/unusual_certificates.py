"""Certificates that no library would write: parts of a sound one's DER form are replaced.

odd = alter_certificate(leaf.certificate, issuing.key, serial=encode_integer(-5))
encode_pem(odd) + issuing.pem
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


def encode_tlv(tag: int, *parts: bytes) -> bytes:
    return der.encode_element(tag, b"".join(parts))


def encode_sequence(*parts: bytes) -> bytes:
    return encode_tlv(der.SEQUENCE, *parts)


def encode_integer(value: int) -> bytes:
    return encode_tlv(
        der.INTEGER, value.to_bytes((value + (value < 0)).bit_length() // 8 + 1, "big", signed=True)
    )


def encode_oid(dotted: str) -> bytes:
    first, second, *others = map(int, dotted.split("."))
    body = b""
    for arc in (first * 40 + second, *others):
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(0x80 | arc & 0x7F)
        body += bytes(reversed(digits))
    return encode_tlv(der.OID, body)


def encode_name(*parts: tuple[str, int, str | bytes]) -> bytes:
    """Encode a Name of parts (OID, tag of its string, value)."""
    encoded = (
        (kind, tag, value.encode() if isinstance(value, str) else value)
        for kind, tag, value in parts
    )
    return encode_sequence(
        *(
            encode_tlv(der.SET, encode_sequence(encode_oid(kind), encode_tlv(tag, value)))
            for kind, tag, value in encoded
        )
    )


def encode_extension(kind: str, value: bytes, critical: bytes | bool = False) -> bytes:
    """Encode an extension. ``critical``: its BOOLEAN byte for byte, or whether it is critical."""
    flag = (b"\x01\x01\xff" if critical else b"") if isinstance(critical, bool) else critical
    return encode_sequence(encode_oid(kind), flag, encode_tlv(der.OCTET_STRING, value))


def encode_general_name(kind: int, value: str | bytes) -> bytes:
    """Encode a GeneralName by its context tag: 1 e-mail, 2 DNS, 4 directory, 6 URI, 7 address."""
    body = value.encode() if isinstance(value, str) else value
    return encode_tlv((0xA0 if kind in (0, 3, 4, 5) else 0x80) | kind, body)


def encode_alternative_names(*names: bytes) -> bytes:
    return encode_extension("2.5.29.17", encode_sequence(*names))


def encode_constraints(permitted: list[bytes]) -> bytes:
    """Encode name constraints of GeneralNames, or of whole subtrees that begin with a SEQUENCE."""
    trees = (one if one[0] == der.SEQUENCE else encode_sequence(one) for one in permitted)
    return encode_extension("2.5.29.30", encode_sequence(encode_tlv(0xA0, *trees)), critical=True)


def alter_certificate(
    certificate: x509.Certificate, signer: Any, *, more: tuple[bytes, ...] = (), **parts: bytes
) -> bytes:
    """Return the DER form of ``certificate`` with some parts replaced, signed again.

    ``parts``: by the fields of ``CertificateLayout``. ``more``: extensions to add. ``signer``
    signs with SHA-256."""
    data = der_of(certificate)
    found = read_layout(data)
    tbs = der.read_children(data, der.read_sequence(data)[0])
    own = {
        element_bytes(data, getattr(found, field)): value
        for field, value in parts.items()
        if field != "algorithm"
    }
    pieces = []
    for part in tbs:
        piece = element_bytes(data, part)
        if part == found.extensions:
            kept = [
                element_bytes(data, one)
                for one in der.read_children(data, der.read_element(data, part.start))
            ]
            piece = encode_tlv(0xA3, encode_sequence(*kept, *more))
        pieces.append(own.get(element_bytes(data, part), piece))
    signed = encode_sequence(*pieces)
    algorithm = parts.get("algorithm", element_bytes(data, found.algorithm))
    return encode_sequence(
        signed, algorithm, encode_tlv(der.BIT_STRING, b"\0" + sign_bytes(signer, signed))
    )


def sign_bytes(signer: Any, data: bytes) -> bytes:
    if isinstance(signer, ec.EllipticCurvePrivateKey):
        return signer.sign(data, ec.ECDSA(hashes.SHA256()))
    return bytes(signer.sign(data, padding.PKCS1v15(), hashes.SHA256()))


def element_bytes(data: bytes, element: der.DerElement) -> bytes:
    """Return the element with its tag and length."""
    return encode_tlv(element.tag, data[element.start : element.end])


def encode_pem(*certificates: bytes | x509.Certificate) -> str:
    return "".join(
        pem_text.encode_block("CERTIFICATE", c if isinstance(c, bytes) else der_of(c))
        for c in certificates
    )


def explicit_curve_spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the SPKI of a P-256 key with explicit curve parameters (SEC 1, C.2)."""
    field = encode_sequence(encode_oid("1.2.840.10045.1.1"), encode_integer(_P))
    curve = encode_sequence(
        encode_tlv(der.OCTET_STRING, (_P - 3).to_bytes(32, "big")),
        encode_tlv(der.OCTET_STRING, _B.to_bytes(32, "big")),
    )
    base = b"\x04" + _X.to_bytes(32, "big") + _Y.to_bytes(32, "big")
    parameters = encode_sequence(
        encode_integer(1),
        field,
        curve,
        encode_tlv(der.OCTET_STRING, base),
        encode_integer(_N),
        encode_integer(1),
    )
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return encode_sequence(
        encode_sequence(encode_oid("1.2.840.10045.2.1"), parameters),
        encode_tlv(der.BIT_STRING, b"\0" + point),
    )


def compressed_point_spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = encode_sequence(encode_oid("1.2.840.10045.2.1"), encode_oid("1.2.840.10045.3.1.7"))
    return encode_sequence(algorithm, encode_tlv(3, b"\0" + point))
