"""What it is when it is not PEM: DER, PKCS#7, PKCS#12, Java key stores, as bytes, base64 or bytes
mangled to text."""

from __future__ import annotations

import base64
import binascii
import re
from enum import StrEnum

_HEAD = 600
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_SIGNED_DATA = b"\r\x01\x07\x02"  # the end of 1.2.840.113549.1.7.2
_REPLACEMENT = "\ufffd"


class Form(StrEnum):
    """A form of certificates or keys; the value is its name for people."""

    CERTIFICATE = "DER"
    KEY = "a DER private key"
    ENCRYPTED_KEY = "a DER private key with a password"
    REQUEST = "a certificate request"
    PUBLIC_KEY = "a public key"
    PKCS7 = "PKCS#7"
    PKCS12 = "PKCS#12"
    JKS = "a Java key store"


CONVERT_CERTIFICATE = {
    Form.CERTIFICATE: "Convert it: openssl x509 -inform DER -in cert.der -out cert.pem",
    Form.PKCS7: "Convert it: openssl pkcs7 -in chain.p7b -print_certs -out chain.pem (a binary "
    "file: add -inform DER)",
    Form.PKCS12: "Convert it: openssl pkcs12 -in pair.pfx -nokeys -out chain.pem",
    Form.JKS: "Convert it: keytool -importkeystore -srckeystore pair.jks -destkeystore "
    "pair.pfx -deststoretype PKCS12, "
    "then openssl pkcs12 -in pair.pfx -nokeys -out chain.pem",
    Form.REQUEST: "This is the request. Upload the certificate that the CA issued for it.",
}
CONVERT_KEY = {
    Form.KEY: "Convert it: openssl pkey -inform DER -in key.der -out key.pem",
    Form.ENCRYPTED_KEY: "Convert it: openssl pkey -inform DER -in key.der -out key.pem",
    Form.PKCS12: "Convert it: openssl pkcs12 -in pair.pfx -nocerts -nodes -out key.pem",
    Form.JKS: "Convert it: keytool -importkeystore -srckeystore pair.jks -destkeystore "
    "pair.pfx -deststoretype PKCS12, "
    "then openssl pkcs12 -in pair.pfx -nocerts -nodes -out key.pem",
}
CONVERT_OPENSSH = "ssh-keygen -p -m PKCS8 -f key.pem (it changes the file; an empty password)"
DECODE = {
    Form.CERTIFICATE: "It is base64 without its BEGIN and END lines. Decode it first: base64 "
    "-d cert.b64 > cert.der. ",
    Form.PKCS7: "It is base64 without its BEGIN and END lines. Decode it first: base64 -d "
    "chain.b64 > chain.p7b. ",
    Form.PKCS12: "It is base64. Decode it first: base64 -d pair.b64 > pair.pfx. ",
    Form.JKS: "It is base64. Decode it first: base64 -d pair.b64 > pair.jks. ",
    Form.KEY: "It is base64 without its BEGIN and END lines. Decode it first: base64 -d "
    "key.b64 > key.der. ",
    Form.ENCRYPTED_KEY: "It is base64 without its BEGIN and END lines. Decode it first: base64 "
    "-d key.b64 > key.der. ",
}
_LABELS = {
    "PKCS7": Form.PKCS7,
    "CMS": Form.PKCS7,
    "PKCS #7 SIGNED DATA": Form.PKCS7,
    "PKCS#7": Form.PKCS7,
    "PKCS12": Form.PKCS12,
    "PKCS #12": Form.PKCS12,
    "PFX": Form.PKCS12,
    "CERTIFICATE REQUEST": Form.REQUEST,
    "NEW CERTIFICATE REQUEST": Form.REQUEST,
    "PUBLIC KEY": Form.PUBLIC_KEY,
}


def by_label(label: str) -> Form | None:
    """The form that a PEM label names, if it is none that belongs here."""
    return _LABELS.get(label)


def by_text(text: str) -> Form | None:
    """The form of a text without PEM marks: base64 of it, or its bytes read as Latin-1, UTF-8 or
    with replacements."""
    head = _head(text)
    if is_base64(text):
        bare = _compact(head).rstrip("=")
        try:
            return by_body(base64.b64decode(bare[: len(bare) // 4 * 4]))
        except (binascii.Error, ValueError):
            return None
    if _REPLACEMENT in head[:_HEAD]:
        return _by_mangled(_bytes(text[:_HEAD]))
    return by_body(_bytes(text[:_HEAD]))


def is_base64(text: str) -> bool:
    """By its beginning."""
    compact = _compact(_head(text))
    return len(compact) >= 16 and _BASE64.fullmatch(compact) is not None


def _head(text: str) -> str:
    return text.strip("\ufeff \t\r\n")[: 2 * _HEAD]


def _compact(head: str) -> str:
    return "".join(head.split())[:_HEAD]


def by_body(body: bytes) -> Form | None:
    """The form of DER or BER bytes, by their first elements (RFC 5280, 5958, 2986, 2315, 7292)."""
    if body[:4] == b"\xfe\xed\xfe\xed":
        return Form.JKS
    outer = _enter(body, 0)
    if outer is None or body[0] != 0x30 or outer >= len(body):
        return None
    first = body[outer]
    if first == 0x06:
        return Form.PKCS7 if _SIGNED_DATA in body[outer : outer + 12] else None
    if first == 0x02:
        return _versioned(body, outer)
    return _nested(body, outer) if first == 0x30 else None


def _versioned(body: bytes, at: int) -> Form | None:
    version = body[at : at + 3]
    following = body[at + 3 : at + 4]
    if version == b"\x02\x01\x03":
        return Form.PKCS12 if following == b"\x30" else None
    if version in (b"\x02\x01\x00", b"\x02\x01\x01"):
        return Form.KEY if following in (b"\x02", b"\x04", b"\x30") else None
    return None


def _nested(body: bytes, at: int) -> Form | None:
    inner = _enter(body, at)
    if inner is None or inner >= len(body):
        return None
    if body[inner] == 0xA0:
        return Form.CERTIFICATE
    if body[inner] == 0x06:
        # RFC 5958 EncryptedPrivateKeyInfo and RFC 5280 SubjectPublicKeyInfo differ in what follows
        # the algorithm.
        return (
            Form.ENCRYPTED_KEY
            if body[inner + 2 : inner + 9] == b"\x2a\x86\x48\x86\xf7\x0d\x01"
            and body[inner + 9 : inner + 10] in (b"\x05", b"\x0c")
            else Form.PUBLIC_KEY
        )
    if body[inner] == 0x02:
        following = _enter(body, inner)
        if following is None:
            return None
        after = following + body[inner + 1]
        content = _enter(body, after)
        is_algorithm = content is not None and body[content : content + 1] == b"\x06"
        return Form.CERTIFICATE if is_algorithm else Form.REQUEST
    return None


def _enter(body: bytes, at: int) -> int | None:
    """Where the content of the element at ``at`` begins; its length is not checked: the body may be
    cut."""
    if at + 2 > len(body):
        return None
    length = body[at + 1]
    return at + 2 + (length & 0x7F if length > 0x80 else 0)


def _by_mangled(head: bytes) -> Form | None:
    """Bytes above 0x7F were replaced, so lengths are lost; what is left still tells."""
    if head[:1] != b"0":
        return None
    if _SIGNED_DATA in head[:40]:
        return Form.PKCS7
    if b"\x02\x01\x03" in head[:12]:
        return Form.PKCS12
    return (
        Form.KEY
        if b"\x02\x01\x00" in head[:12] or b"\x02\x01\x01\x04" in head[:12]
        else Form.CERTIFICATE
    )


def _bytes(text: str) -> bytes:
    """Latin-1, and the bytes that ``surrogateescape`` keeps; anything else becomes ``?``."""
    codes = (ord(character) for character in text)
    return bytes(
        code if code < 256 else code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else 0x3F
        for code in codes
    )
