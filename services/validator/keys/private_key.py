"""The private key: what it is, whether it may serve, whether it belongs to the leaf. Never a
library load of text.

The form is read by our own DER reader first, so kind and size are known, and refused, before
anything heavy. Pure.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric import rsa as rsa_keys

from services.validator.keys import rsa
from services.validator.x509 import der

PublicKey = rsa_keys.RSAPublicKey | ec.EllipticCurvePublicKey

_RSA, _EC = "1.2.840.113549.1.1.1", "1.2.840.10045.2.1"
_CURVES = {"1.2.840.10045.3.1.7": "P-256", "1.3.132.0.34": "P-384", "1.3.132.0.35": "P-521"}
_OTHER_CURVES = {
    "1.2.156.10197.1.301": "SM2",
    "1.3.132.0.10": "ECDSA on secp256k1",
    "1.3.132.0.33": "ECDSA on P-224",
    "1.2.840.10045.3.1.1": "ECDSA on P-192",
    "1.3.36.3.3.2.8.1.1.7": "ECDSA on brainpoolP256r1",
    "1.3.36.3.3.2.8.1.1.11": "ECDSA on brainpoolP384r1",
    "1.3.36.3.3.2.8.1.1.13": "ECDSA on brainpoolP512r1",
}
_OTHER_KINDS = {
    "1.2.840.113549.1.1.10": "RSASSA-PSS",
    "1.2.840.10040.4.1": "DSA",
    "1.2.840.113549.1.3.1": "Diffie-Hellman",
    "1.2.840.10046.2.1": "Diffie-Hellman",
    "1.3.101.110": "X25519",
    "1.3.101.111": "X448",
    "1.3.101.112": "Ed25519",
    "1.3.101.113": "Ed448",
    "1.2.156.10197.1.301": "SM2",
    "2.16.840.1.101.3.4.3.17": "ML-DSA-44",
    "2.16.840.1.101.3.4.3.18": "ML-DSA-65",
    "2.16.840.1.101.3.4.3.19": "ML-DSA-87",
}
_SECOND_VERSION = b"\x02\x01\x01\x30"  # after the outer tag and length: INTEGER 1, then a SEQUENCE
_BY_LABEL = {"OPENSSH PRIVATE KEY": "OpenSSH", "DSA PRIVATE KEY": "DSA", "SM2 PRIVATE KEY": "SM2"}


class MalformedKey(ValueError):
    """Not a private key; the text never holds its bytes."""


class EncryptedKey(ValueError):
    """A private key with a password."""


@dataclass(frozen=True)
class Shape:
    """What a key is by its DER form alone. ``form``: the PEM label that its structure has."""

    name: str
    form: str
    supported: bool
    numbers: rsa.Numbers | None = field(default=None, repr=False)

    def weaknesses(self) -> Iterator[str]:
        if self.numbers:
            yield from rsa.weaknesses(self.numbers)


@dataclass(frozen=True)
class PrivateKey:
    """A loaded key of a supported kind. ``bits``: RSA modulus or curve size. ``spki``: its public
    key in DER."""

    kind: Literal["rsa", "ecdsa"]
    bits: int
    spki: bytes = field(repr=False)
    _key: rsa_keys.RSAPrivateKey | ec.EllipticCurvePrivateKey = field(repr=False)

    def pem(self) -> str:
        """Canonical PKCS#8 PEM."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode("ascii")

    def proves(self, public: PublicKey) -> bool:
        """A fresh challenge, signed here, verifies with ``public``."""
        challenge = secrets.token_bytes(32)
        try:
            if isinstance(self._key, rsa_keys.RSAPrivateKey) and isinstance(
                public, rsa_keys.RSAPublicKey
            ):
                signature = self._key.sign(challenge, padding.PKCS1v15(), hashes.SHA256())
                public.verify(signature, challenge, padding.PKCS1v15(), hashes.SHA256())
                return True
            if isinstance(self._key, ec.EllipticCurvePrivateKey) and isinstance(
                public, ec.EllipticCurvePublicKey
            ):
                scheme = ec.ECDSA(hashes.SHA256())
                public.verify(self._key.sign(challenge, scheme), challenge, scheme)
                return True
        except (InvalidSignature, ValueError, UnsupportedAlgorithm):
            return False
        return False


def shape(label: str, body: bytes) -> Shape:
    """The kind and size of a key block (RFC 5958, 8017, 5915). MalformedKey, EncryptedKey."""
    if label in _BY_LABEL:
        return Shape(_BY_LABEL[label], label, False)
    try:
        parts = der.whole(body)
        tags = [part.tag for part in parts]
        if tags == [der.SEQUENCE, der.OCTET_STRING]:
            raise EncryptedKey
        if len(parts) >= 3 and tags[:3] == [der.INTEGER, der.SEQUENCE, der.OCTET_STRING]:
            return _pkcs8(body, parts)
        if len(parts) >= 9 and set(tags[:9]) == {der.INTEGER}:
            return _pkcs1(body, parts, "RSA PRIVATE KEY")
        if tags[:2] == [der.INTEGER, der.OCTET_STRING]:
            return _sec1(body, parts)
    except der.NotDer:
        pass
    raise MalformedKey("it is neither PKCS#8 nor PKCS#1 nor SEC 1")


def load(body: bytes, described: Shape) -> PrivateKey:
    """The key of a supported shape; MalformedKey when the library cannot load it."""
    if not described.supported:
        raise MalformedKey("its kind is not supported")
    try:
        # Sound only because rsa.weaknesses() and the signature proof replace the check that is
        # skipped.
        key = serialization.load_der_private_key(
            _first_version(body), None, unsafe_skip_rsa_key_validation=True
        )
        if not isinstance(key, rsa_keys.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise MalformedKey("its kind is not supported")
        spki = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise MalformedKey("its values do not make a key") from None
    return PrivateKey(
        "rsa" if isinstance(key, rsa_keys.RSAPrivateKey) else "ecdsa", key.key_size, spki, key
    )


def _first_version(body: bytes) -> bytes:
    """PKCS#8 without the public key that its second version (RFC 5958) may hold, which the library
    does not read."""
    if _SECOND_VERSION not in body[:8]:
        return body
    parts = der.whole(body)
    return der.tlv(der.SEQUENCE, b"\x02\x01\x00" + body[parts[0].end : parts[2].end])


def _pkcs8(body: bytes, parts: list[der.Element]) -> Shape:
    algorithm = der.children(body, parts[1])
    kind = der.oid(body, algorithm[0]) if algorithm else ""
    if kind == _RSA:
        inner = body[parts[2].start : parts[2].end]
        return _pkcs1(inner, der.whole(inner), "PRIVATE KEY")
    if kind == _EC:
        return _on_curve(body, algorithm[1] if len(algorithm) > 1 else None, "PRIVATE KEY")
    return Shape(_OTHER_KINDS.get(kind, "an unknown kind"), "PRIVATE KEY", False)


def _pkcs1(body: bytes, parts: list[der.Element], form: str) -> Shape:
    if len(parts) < 9:
        raise der.NotDer("too few numbers")
    version, *numbers = (der.integer(body, part) for part in parts[:9])
    if version != 0:
        return Shape("RSA with more than two primes", form, False)
    key = rsa.Numbers(*numbers)
    bits = key.n.bit_length()
    if key.e.bit_length() > 64:
        # OpenSSL refuses such exponents on moduli over 3072 bits, so clients could not verify.
        return Shape(f"RSA of {bits} bits with a public exponent over 64 bits", form, False)
    return Shape(f"RSA of {bits} bits", form, rsa.MIN_BITS <= bits <= rsa.MAX_BITS, key)


def _sec1(body: bytes, parts: list[der.Element]) -> Shape:
    parameters = next((part for part in parts[2:] if part.tag == der.CONTEXT_0), None)
    if parameters is None:
        raise MalformedKey("it names no curve")
    return _on_curve(body, der.read(body, parameters.start, parameters.end), "EC PRIVATE KEY")


def _on_curve(body: bytes, parameters: der.Element | None, form: str) -> Shape:
    if parameters is None:
        raise MalformedKey("it names no curve")
    if parameters.tag != der.OID:
        return Shape("ECDSA with explicit curve parameters", form, False)
    curve = der.oid(body, parameters)
    if curve in _CURVES:
        return Shape(f"ECDSA on {_CURVES[curve]}", form, True)
    return Shape(_OTHER_CURVES.get(curve, "ECDSA on an unknown curve"), form, False)
