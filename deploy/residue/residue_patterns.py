"""Patterns that find a certificate pair in bytes: its distinctive parts, each in every form that it
could be written in. Pure."""

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

# What is searched:
# - A part of the pair (serial, signature, fingerprints, public key, private numbers) is searched
#   raw, in hex, in base64 at each of its three alignments (PEM is one of them), and the numbers in
#   decimal. Hex is searched without regard to case and white space, base64 without white space.
# - Issuer and registered names are no parts: other pairs share them. What is found belongs to this
#   pair alone, so that a finding is always a fault.
_LONGEST_PART: Final = 48
"""So many bytes from the middle stand for a part: enough to be unique, and few enough to stand in
one line of PEM."""
_KEY_PREFIXES: Final = b"|".join(
    re.escape(prefix.encode().lower())
    for prefix in (s.kv_subject(s.BUCKET_BUNDLES, ""), s.EDGE_LIVE_PREFIX)
)
_WHITE_SPACE: Final = re.compile(rb"\\+[nrt]|\s+")
"""Also as an escape in JSON, and in JSON in JSON."""


@dataclass(frozen=True)
class ResiduePatterns:
    """Patterns of one pair, each with the name that it is reported by.

    ``texts``: bytes to find as they are. ``folded``: bytes to find after white space is removed and
    case is folded. ``names``: regular expressions for text in lower case."""

    texts: tuple[tuple[str, bytes], ...]
    folded: tuple[tuple[str, bytes], ...]
    names: tuple[tuple[str, re.Pattern[bytes]], ...]

    def found_in(self, content: bytes) -> list[str]:
        """Return the names of all patterns that ``content`` holds; empty when it is clean."""
        compact = _WHITE_SPACE.sub(b"", content)
        folded = compact.lower()
        lower = content.lower()
        found: set[str] = set()
        for name, text in self.texts:
            if text in content or text in compact:
                found.add(name)
        for name, text in self.folded:
            if text in folded:
                found.add(name)
        for name, pattern in self.names:
            if pattern.search(lower):
                found.add(name)
        return sorted(found)


def patterns_of_pair(
    chain_pem: str, key_pem: str, *, registered: Collection[str] = (), sealed: Collection[str] = ()
) -> ResiduePatterns:
    """Return the patterns of a pair.

    ``chain_pem``: leaf first; the rest of the chain is the CA's and is not searched. ``key_pem``:
    in clear. ``registered``: names of the leaf that may stay. ``sealed``: base64 of the boxes that
    the key was sealed in."""
    leaf = x509.load_pem_x509_certificates(chain_pem.encode())[0]
    texts: list[tuple[str, bytes]] = []
    folded: list[tuple[str, bytes]] = []
    for what, part in _distinctive_parts(leaf, key_pem):
        middle = _middle_bytes(part)
        texts.append((f"{what} raw", middle))
        for form in _base64_forms(middle):
            texts.append((f"{what} base64", form))
        folded.append((f"{what} hex", middle.hex().encode()))
        folded.append((f"{what} hex", middle.hex(":").encode()))
    for what, number in _distinctive_numbers(leaf, key_pem):
        texts.append((f"{what} decimal", str(number).encode()))
    folded.append(("serial hex", f"{leaf.serial_number:x}".encode()))
    for box in sealed:
        texts.append(("sealed key", box[len(box) // 2 - 40 : len(box) // 2 + 40].encode()))
        texts.append(("sealed key raw", _middle_bytes(base64.b64decode(box))))
    names: list[tuple[str, re.Pattern[bytes]]] = []
    for name in _dns_names(leaf):
        if name not in registered:
            names.append((f"name {name}", _name_pattern(name)))
    return ResiduePatterns(tuple(texts), tuple(folded), tuple(names))


def _distinctive_parts(leaf: x509.Certificate, key_pem: str) -> Iterator[tuple[str, bytes]]:
    yield "signature", leaf.signature
    yield "certificate SHA-256", leaf.fingerprint(hashes.SHA256())
    # SHA-1 is searched, not relied on.
    yield "certificate SHA-1", leaf.fingerprint(hashes.SHA1())  # noqa: S303
    spki = leaf.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    # Not from the middle: the head of an SPKI is the same in all keys of a kind, and an RSA key
    # ends with the exponent, which nearly all share.
    yield "public key", spki[-_LONGEST_PART - 8 : -8]
    for what, number in _distinctive_numbers(leaf, key_pem):
        yield what, _number_bytes(number)


def _distinctive_numbers(leaf: x509.Certificate, key_pem: str) -> Iterator[tuple[str, int]]:
    yield "serial", leaf.serial_number
    key = serialization.load_pem_private_key(key_pem.encode(), None)
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        yield "key d", numbers.d
        yield "key p", numbers.p
        yield "key q", numbers.q
        yield "key dp", numbers.dmp1
        yield "key dq", numbers.dmq1
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        yield "key", key.private_numbers().private_value
    else:
        raise ValueError("only RSA and ECDSA keys are served")


def _dns_names(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def _name_pattern(name: str) -> re.Pattern[bytes]:
    """Match the whole name, also in the order of bucket keys (``com.example.www``)."""
    labels = name.lower().split(".")
    reversed_labels = ["_wildcard" if label == "*" else label for label in reversed(labels)]
    forms = (".".join(labels), ".".join(reversed_labels))
    either = b"|".join(re.escape(form.encode()) for form in forms)
    # Whole: what stands before and after the name must not make it another, longer name. A bucket
    # key has a prefix that ends with a dot, which alone would look like a longer name.
    before = rb"(?:" + _KEY_PREFIXES + rb"|(?<![\w.*-]))"
    after = rb"(?![\w-]|\.\w)"
    return re.compile(before + rb"(?:" + either + rb")" + after)


def _number_bytes(number: int) -> bytes:
    """Return a number as big-endian bytes without leading zeros."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _middle_bytes(part: bytes) -> bytes:
    start = max(0, (len(part) - _LONGEST_PART) // 2)
    return part[start : start + _LONGEST_PART]


def _base64_forms(part: bytes) -> Iterator[bytes]:
    """Yield ``part`` as it looks inside base64, in both alphabets."""
    # Base64 writes three bytes as four characters. Where a text begins 0, 1 or 2 bytes before the
    # part, the same bytes give three different runs of characters. The characters at both ends mix
    # bits of the part with bits of its neighbours and are cut.
    for before in range(3):
        text = base64.b64encode(b"\0" * before + part)
        first = -(-before * 8 // 6)
        last = (before + len(part)) * 8 // 6
        run = text[first:last]
        yield run
        yield run.replace(b"+", b"-").replace(b"/", b"_")
