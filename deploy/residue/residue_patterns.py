"""What to look for to find a pair: its distinctive parts, each in every form that it could be
written in. Pure.

A part is looked for raw, in hex, in base64 at each of its three alignments (PEM is one), and
numbers in decimal. Names and issuers that other pairs share are no parts: what is found is this
pair's alone.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shared import subjects as s

_LONGEST: Final = 48
"""A part is represented by so many of its bytes from the middle: enough to be unique, short enough
for a PEM line."""
_KEY_PREFIXES: Final = b"|".join(
    re.escape(prefix.encode().lower())
    for prefix in (s.kv_subject(s.BUCKET_BUNDLES, ""), s.EDGE_LIVE_PREFIX)
)
_SPACES: Final = re.compile(rb"\\+[nrt]|\s+")


@dataclass(frozen=True)
class Needles:
    """``texts``: (what, bytes to find); ``folded``: to find after white space is gone and case is
    folded; ``names``: (what, pattern)."""

    texts: tuple[tuple[str, bytes], ...]
    folded: tuple[tuple[str, bytes], ...]
    names: tuple[tuple[str, re.Pattern[bytes]], ...]

    def found_in(self, hay: bytes) -> list[str]:
        """What of the pair stands in ``hay``, by name; empty when nothing does."""
        found = {what for what, needle in self.texts if needle in hay}
        compact = _SPACES.sub(b"", hay)
        if compact != hay:
            found |= {what for what, needle in self.texts if needle in compact}
        lower = compact.lower()
        found |= {what for what, needle in self.folded if needle in lower}
        found |= {what for what, pattern in self.names if pattern.search(hay.lower())}
        return sorted(found)


def needles_of(
    chain_pem: str, key_pem: str, *, registered: Collection[str] = (), sealed: Collection[str] = ()
) -> Needles:
    """``chain_pem``: leaf first (what follows is the CA's, not the pair's); ``key_pem`` in clear;
    ``registered``: names that may stay although they are SANs; ``sealed``: base64 of boxes that the
    key is known to be in."""
    leaf = x509.load_pem_x509_certificates(chain_pem.encode())[0]
    texts: list[tuple[str, bytes]] = []
    folded: list[tuple[str, bytes]] = []
    for what, part in _parts(leaf, key_pem):
        middle = _middle(part)
        texts += [
            (f"{what} raw", middle),
            *((f"{what} base64", text) for text in _base64_forms(middle)),
        ]
        folded += [
            (f"{what} hex", middle.hex().encode()),
            (f"{what} hex", middle.hex(":").encode()),
        ]
    for what, number in _numbers(leaf, key_pem):
        texts.append((f"{what} decimal", str(number).encode()))
    folded.append(("serial hex", f"{leaf.serial_number:x}".encode()))
    for box in sealed:
        texts.append(("sealed key", box[len(box) // 2 - 40 : len(box) // 2 + 40].encode()))
        texts.append(("sealed key raw", _middle(base64.b64decode(box))))
    names = tuple(
        (f"name {name}", _name_pattern(name)) for name in _sans(leaf) if name not in registered
    )
    return Needles(tuple(texts), tuple(folded), names)


def _parts(leaf: x509.Certificate, key_pem: str) -> Iterator[tuple[str, bytes]]:
    yield "serial", _number_bytes(leaf.serial_number)
    yield "signature", leaf.signature
    yield "certificate SHA-256", leaf.fingerprint(hashes.SHA256())
    yield "certificate SHA-1", leaf.fingerprint(hashes.SHA1())  # noqa: S303 (it is looked for, not relied on)
    spki = leaf.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    yield "public key", spki[-_LONGEST - 8 : -8]
    for what, number in _numbers(leaf, key_pem):
        if what != "serial":
            yield what, _number_bytes(number)


def _numbers(leaf: x509.Certificate, key_pem: str) -> Iterator[tuple[str, int]]:
    yield "serial", leaf.serial_number
    key = serialization.load_pem_private_key(key_pem.encode(), None)
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        yield from (
            ("key d", numbers.d),
            ("key p", numbers.p),
            ("key q", numbers.q),
            ("key dp", numbers.dmp1),
            ("key dq", numbers.dmq1),
        )
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        yield "key", key.private_numbers().private_value
    else:
        raise ValueError("only RSA and ECDSA keys are served")


def _sans(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def _name_pattern(name: str) -> re.Pattern[bytes]:
    """The whole name, also in the order of bucket keys: ``com.example.www``."""
    labels = name.lower().split(".")
    backwards = ".".join("_wildcard" if label == "*" else label for label in reversed(labels))
    either = b"|".join(re.escape(form.encode()) for form in (".".join(labels), backwards))
    return re.compile(
        rb"(?:" + _KEY_PREFIXES + rb"|(?<![\w.*-]))(?:" + either + rb")(?![\w-]|\.\w)"
    )


def _number_bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _middle(part: bytes) -> bytes:
    start = max(0, (len(part) - _LONGEST) // 2)
    return part[start : start + _LONGEST]


def _base64_forms(part: bytes) -> Iterator[bytes]:
    """How ``part`` looks inside base64 that begins 0, 1 or 2 bytes before it; edges that mix with
    neighbours cut."""
    for before in range(3):
        text = base64.b64encode(b"\0" * before + part)
        first = -(-before * 8 // 6)
        last = (before + len(part)) * 8 // 6
        cut = text[first:last]
        yield cut
        yield cut.replace(b"+", b"-").replace(b"/", b"_")
