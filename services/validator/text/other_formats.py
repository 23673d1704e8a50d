"""File formats other than PEM: DER, PKCS#7, PKCS#12 and Java key stores.

They arrive as bytes, as base64, or as bytes that a program turned into text and damaged.
"""

from __future__ import annotations

import base64
import binascii
import re
from enum import StrEnum

_HEAD_LENGTH = 600
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_SIGNED_DATA = b"\r\x01\x07\x02"  # the end of 1.2.840.113549.1.7.2
_REPLACEMENT = "\ufffd"


class OtherFormat(StrEnum):
    """A format of certificates or keys that is not PEM. The value is its name in findings."""

    CERTIFICATE = "DER"
    KEY = "a DER private key"
    ENCRYPTED_KEY = "a DER private key with a password"
    REQUEST = "a certificate request"
    PUBLIC_KEY = "a public key"
    PKCS7 = "PKCS#7"
    PKCS12 = "PKCS#12"
    JKS = "a Java key store"


CERTIFICATE_HINTS = {
    OtherFormat.CERTIFICATE: "Convert it: openssl x509 -inform DER -in cert.der -out cert.pem",
    OtherFormat.PKCS7: "Convert it: openssl pkcs7 -in chain.p7b -print_certs -out chain.pem "
    "(a binary file: add -inform DER)",
    OtherFormat.PKCS12: "Convert it: openssl pkcs12 -in pair.pfx -nokeys -out chain.pem",
    OtherFormat.JKS: "Convert it: keytool -importkeystore -srckeystore pair.jks -destkeystore "
    "pair.pfx -deststoretype PKCS12, "
    "then openssl pkcs12 -in pair.pfx -nokeys -out chain.pem",
    OtherFormat.REQUEST: "This is the request. Upload the certificate that the CA issued for it.",
}
KEY_HINTS = {
    OtherFormat.KEY: "Convert it: openssl pkey -inform DER -in key.der -out key.pem",
    OtherFormat.ENCRYPTED_KEY: "Convert it: openssl pkey -inform DER -in key.der -out key.pem",
    OtherFormat.PKCS12: "Convert it: openssl pkcs12 -in pair.pfx -nocerts -nodes -out key.pem",
    OtherFormat.JKS: "Convert it: keytool -importkeystore -srckeystore pair.jks -destkeystore "
    "pair.pfx -deststoretype PKCS12, "
    "then openssl pkcs12 -in pair.pfx -nocerts -nodes -out key.pem",
}
OPENSSH_COMMAND = "ssh-keygen -p -m PKCS8 -f key.pem (it changes the file; an empty password)"
BASE64_HINTS = {
    OtherFormat.CERTIFICATE: "It is base64 without its BEGIN and END lines. "
    "Decode it first: base64 -d cert.b64 > cert.der. ",
    OtherFormat.PKCS7: "It is base64 without its BEGIN and END lines. "
    "Decode it first: base64 -d chain.b64 > chain.p7b. ",
    OtherFormat.PKCS12: "It is base64. Decode it first: base64 -d pair.b64 > pair.pfx. ",
    OtherFormat.JKS: "It is base64. Decode it first: base64 -d pair.b64 > pair.jks. ",
    OtherFormat.KEY: "It is base64 without its BEGIN and END lines. "
    "Decode it first: base64 -d key.b64 > key.der. ",
    OtherFormat.ENCRYPTED_KEY: "It is base64 without its BEGIN and END lines. "
    "Decode it first: base64 -d key.b64 > key.der. ",
}
_LABELS = {
    "PKCS7": OtherFormat.PKCS7,
    "CMS": OtherFormat.PKCS7,
    "PKCS #7 SIGNED DATA": OtherFormat.PKCS7,
    "PKCS#7": OtherFormat.PKCS7,
    "PKCS12": OtherFormat.PKCS12,
    "PKCS #12": OtherFormat.PKCS12,
    "PFX": OtherFormat.PKCS12,
    "CERTIFICATE REQUEST": OtherFormat.REQUEST,
    "NEW CERTIFICATE REQUEST": OtherFormat.REQUEST,
    "PUBLIC KEY": OtherFormat.PUBLIC_KEY,
}


def format_of_label(label: str) -> OtherFormat | None:
    """Return the format that a PEM label names; None for certificates and private keys."""
    return _LABELS.get(label)


def format_of_text(text: str) -> OtherFormat | None:
    """Return the format of a text without PEM marks; None when it is not recognised.

    The text is base64, or bytes that were read as Latin-1, as UTF-8 or with replacements.
    """
    head = _head_of(text)
    if is_base64(text):
        encoded = _without_space(head).rstrip("=")
        try:
            return format_of_der(base64.b64decode(encoded[: len(encoded) // 4 * 4]))
        except (binascii.Error, ValueError):
            return None
    if _REPLACEMENT in head[:_HEAD_LENGTH]:
        return _format_of_damaged(_bytes_of_text(text[:_HEAD_LENGTH]))
    return format_of_der(_bytes_of_text(text[:_HEAD_LENGTH]))


def is_base64(text: str) -> bool:
    """Check whether ``text`` begins as base64 without armour."""
    encoded = _without_space(_head_of(text))
    return len(encoded) >= 16 and _BASE64.fullmatch(encoded) is not None


def _head_of(text: str) -> str:
    return text.strip("\ufeff \t\r\n")[: 2 * _HEAD_LENGTH]


def _without_space(head: str) -> str:
    return "".join(head.split())[:_HEAD_LENGTH]


def format_of_der(body: bytes) -> OtherFormat | None:
    """Return the format of DER or BER bytes; None when it is not recognised.

    The first elements decide (RFC 5280, 5958, 2986, 2315, 7292). The body may be cut, so lengths
    are not checked.
    """
    # A SEQUENCE, and inside it first:
    #   OBJECT IDENTIFIER         -> PKCS#7 ContentInfo
    #   INTEGER 3, SEQUENCE       -> PKCS#12 PFX
    #   INTEGER 0 or 1            -> a private key (PKCS#8, PKCS#1 or SEC 1)
    #   SEQUENCE of [0] or of a
    #     number and an algorithm -> a certificate (version 3, or 1 without its number)
    #   SEQUENCE of an OID        -> EncryptedPrivateKeyInfo or SubjectPublicKeyInfo
    #   SEQUENCE of a number and
    #     a name                  -> a certificate request
    if body[:4] == b"\xfe\xed\xfe\xed":
        return OtherFormat.JKS
    content = _content_start(body, 0)
    if content is None or body[0] != 0x30 or content >= len(body):
        return None
    first_tag = body[content]
    if first_tag == 0x06:
        is_signed_data = _SIGNED_DATA in body[content : content + 12]
        return OtherFormat.PKCS7 if is_signed_data else None
    if first_tag == 0x02:
        return _format_by_version(body, content)
    if first_tag == 0x30:
        return _format_by_inner_sequence(body, content)
    return None


def _format_by_version(body: bytes, at: int) -> OtherFormat | None:
    version = body[at : at + 3]
    following_tag = body[at + 3 : at + 4]
    if version == b"\x02\x01\x03" and following_tag == b"\x30":
        return OtherFormat.PKCS12
    is_key_version = version in (b"\x02\x01\x00", b"\x02\x01\x01")
    if is_key_version and following_tag in (b"\x02", b"\x04", b"\x30"):
        return OtherFormat.KEY
    return None


def _format_by_inner_sequence(body: bytes, at: int) -> OtherFormat | None:
    inner = _content_start(body, at)
    if inner is None or inner >= len(body):
        return None
    if body[inner] == 0xA0:
        return OtherFormat.CERTIFICATE
    if body[inner] == 0x06:
        # EncryptedPrivateKeyInfo (RFC 5958) and SubjectPublicKeyInfo (RFC 5280) differ by their
        # algorithm: PKCS#5 and PKCS#12 encryption are under 1.2.840.113549.1.5 and .12.
        is_pkcs = body[inner + 2 : inner + 9] == b"\x2a\x86\x48\x86\xf7\x0d\x01"
        if is_pkcs and body[inner + 9 : inner + 10] in (b"\x05", b"\x0c"):
            return OtherFormat.ENCRYPTED_KEY
        return OtherFormat.PUBLIC_KEY
    if body[inner] == 0x02:
        number = _content_start(body, inner)
        if number is None:
            return None
        after_number = number + body[inner + 1]
        second = _content_start(body, after_number)
        is_algorithm = second is not None and body[second : second + 1] == b"\x06"
        return OtherFormat.CERTIFICATE if is_algorithm else OtherFormat.REQUEST
    return None


def _content_start(body: bytes, at: int) -> int | None:
    """Return where the content of the element at ``at`` begins; None past the end."""
    if at + 2 > len(body):
        return None
    length = body[at + 1]
    if length > 0x80:
        return at + 2 + (length & 0x7F)
    return at + 2


def _format_of_damaged(head: bytes) -> OtherFormat | None:
    """Recognise DER whose bytes above 0x7F were replaced.

    Its lengths are lost; the tags and the object identifiers below 0x80 are left.
    """
    if head[:1] != b"0":
        return None
    if _SIGNED_DATA in head[:40]:
        return OtherFormat.PKCS7
    if b"\x02\x01\x03" in head[:12]:
        return OtherFormat.PKCS12
    if b"\x02\x01\x00" in head[:12] or b"\x02\x01\x01\x04" in head[:12]:
        return OtherFormat.KEY
    return OtherFormat.CERTIFICATE


def _bytes_of_text(text: str) -> bytes:
    """Encode as Latin-1; restore what ``surrogateescape`` kept, and write ``?`` for the rest."""
    result = bytearray()
    for character in text:
        code = ord(character)
        if code < 256:
            result.append(code)
        elif 0xDC80 <= code <= 0xDCFF:
            result.append(code - 0xDC00)
        else:
            result.append(0x3F)
    return bytes(result)
