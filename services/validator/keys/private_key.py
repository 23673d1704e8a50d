"""The private key: its kind and size, and whether it belongs to the leaf.

The form is read by the DER reader of ``x509.der`` first, so kind and size are known, and refused,
before anything heavy. No library parses the text of a key.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from services.validator.keys import rsa
from services.validator.keys.known_keys import is_known_key
from services.validator.keys.patterns import find_scalar_weaknesses
from services.validator.x509 import der
from services.validator.x509.der import DerElement, NotDer

LibraryPublicKey = RSAPublicKey | ec.EllipticCurvePublicKey

MAX_EXPONENT_BITS = 64
_RSA = "1.2.840.113549.1.1.1"
_EC = "1.2.840.10045.2.1"
_SUPPORTED_CURVES = {
    "1.2.840.10045.3.1.7": "P-256",
    "1.3.132.0.34": "P-384",
    "1.3.132.0.35": "P-521",
}
# The number of points of each curve (SEC 2, 2.4.2, 2.5.1 and 2.6.1).
_ORDERS = {
    "secp256r1": int(
        "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
        16,
    ),
    "secp384r1": int(
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf"
        "581a0db248b0a77aecec196accc52973",
        16,
    ),
    "secp521r1": int(
        "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa"
        "51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        16,
    ),
}
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
_KINDS_BY_LABEL = {
    "OPENSSH PRIVATE KEY": "OpenSSH",
    "DSA PRIVATE KEY": "DSA",
    "SM2 PRIVATE KEY": "SM2",
}
_PKCS8_VERSION_2 = b"\x02\x01\x01\x30"  # INTEGER 1, then a SEQUENCE


class MalformedKey(ValueError):
    """The bytes are not a private key. The text never repeats them."""


class EncryptedKey(ValueError):
    """The private key has a password."""


@dataclass(frozen=True)
class KeyDescription:
    """The kind and size of a key, by its DER form alone.

    ``form``: the PEM label of its structure. ``numbers``: those of an RSA key of a supported form.
    """

    name: str
    form: str
    supported: bool
    numbers: rsa.RsaNumbers | None = field(default=None, repr=False)

    def find_weaknesses(self) -> Iterator[str]:
        """Yield each weakness as a clause for a finding; nothing for keys other than RSA."""
        if self.numbers:
            yield from rsa.find_weaknesses(self.numbers)


@dataclass(frozen=True)
class LoadedKey:
    """A loaded key of a supported kind.

    ``bits``: the size of the RSA modulus or of the curve. ``spki``: its public key in DER.
    """

    kind: Literal["rsa", "ecdsa"]
    bits: int
    spki: bytes = field(repr=False)
    _key: RSAPrivateKey | ec.EllipticCurvePrivateKey = field(repr=False)

    def find_weaknesses(self) -> Iterator[str]:
        """Yield each weakness that does not depend on the form, as a clause for a finding."""
        if is_known_key(self.spki):
            yield "it is published, in an RFC, a test suite or a program"
        elif isinstance(self._key, ec.EllipticCurvePrivateKey):
            scalar = self._key.private_numbers().private_value
            yield from find_scalar_weaknesses(scalar, self.bits, _ORDERS[self._key.curve.name])

    def to_pem(self) -> str:
        """Return the key as canonical PKCS#8 PEM."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode("ascii")

    def proves_possession(self, public: LibraryPublicKey) -> bool:
        """Sign a fresh challenge and verify the signature with ``public``."""
        challenge = secrets.token_bytes(32)
        try:
            if isinstance(self._key, RSAPrivateKey) and isinstance(public, RSAPublicKey):
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


def describe_key(label: str, body: bytes) -> KeyDescription:
    """Describe a key block: PKCS#8 (RFC 5958), PKCS#1 (RFC 8017) or SEC 1 (RFC 5915).

    Raises MalformedKey or EncryptedKey.
    """
    if label in _KINDS_BY_LABEL:
        return KeyDescription(_KINDS_BY_LABEL[label], label, supported=False)
    # The structure decides, not the label: mislabelled keys are common (rule D2).
    try:
        parts = der.read_sequence(body)
        tags = [part.tag for part in parts]
        if tags == [der.SEQUENCE, der.OCTET_STRING]:
            raise EncryptedKey
        if tags[:3] == [der.INTEGER, der.SEQUENCE, der.OCTET_STRING]:
            return _describe_pkcs8(body, parts)
        if len(parts) >= 9 and set(tags[:9]) == {der.INTEGER}:
            return _describe_pkcs1(body, parts, "RSA PRIVATE KEY")
        if tags[:2] == [der.INTEGER, der.OCTET_STRING]:
            return _describe_sec1(body, parts)
    except NotDer:
        pass
    raise MalformedKey("it is neither PKCS#8 nor PKCS#1 nor SEC 1")


def load_key(body: bytes, description: KeyDescription) -> LoadedKey:
    """Load a key of a supported kind; raises MalformedKey when the library cannot load it."""
    if not description.supported:
        raise MalformedKey("its kind is not supported")
    try:
        # The library's own check of an RSA key takes 36 ms to 3.9 s, so it is skipped. This is
        # sound only because rsa.find_weaknesses and the signature proof replace it.
        key = serialization.load_der_private_key(
            _as_first_version(body), None, unsafe_skip_rsa_key_validation=True
        )
        if not isinstance(key, RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise MalformedKey("its kind is not supported")
        spki = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise MalformedKey("its values do not make a key") from None
    return LoadedKey(
        kind="rsa" if isinstance(key, RSAPrivateKey) else "ecdsa",
        bits=key.key_size,
        spki=spki,
        _key=key,
    )


def _as_first_version(body: bytes) -> bytes:
    """Return PKCS#8 without the public key that its second version may hold (RFC 5958).

    The library does not read the second version.
    """
    if _PKCS8_VERSION_2 not in body[:8]:
        return body
    parts = der.read_sequence(body)
    algorithm_and_key = body[parts[0].end : parts[2].end]
    return der.encode_element(der.SEQUENCE, b"\x02\x01\x00" + algorithm_and_key)


def _describe_pkcs8(body: bytes, parts: list[DerElement]) -> KeyDescription:
    algorithm = der.read_children(body, parts[1])
    kind = der.read_oid(body, algorithm[0]) if algorithm else ""
    if kind == _RSA:
        inner = body[parts[2].start : parts[2].end]
        return _describe_pkcs1(inner, der.read_sequence(inner), "PRIVATE KEY")
    if kind == _EC:
        parameters = algorithm[1] if len(algorithm) > 1 else None
        return _describe_ec(body, parameters, "PRIVATE KEY")
    return KeyDescription(_OTHER_KINDS.get(kind, "an unknown kind"), "PRIVATE KEY", supported=False)


def _describe_pkcs1(body: bytes, parts: list[DerElement], form: str) -> KeyDescription:
    if len(parts) < 9:
        raise NotDer("too few numbers")
    version, *numbers = [der.read_integer(body, part) for part in parts[:9]]
    if version != 0:
        return KeyDescription("RSA with more than two primes", form, supported=False)
    key = rsa.RsaNumbers(*numbers)
    bits = key.n.bit_length()
    if key.e.bit_length() > MAX_EXPONENT_BITS:
        # OpenSSL refuses such exponents on moduli over 3072 bits, so clients could not verify.
        name = f"RSA of {bits} bits with a public exponent over {MAX_EXPONENT_BITS} bits"
        return KeyDescription(name, form, supported=False)
    supported = rsa.MIN_BITS <= bits <= rsa.MAX_BITS
    return KeyDescription(f"RSA of {bits} bits", form, supported, key)


def _describe_sec1(body: bytes, parts: list[DerElement]) -> KeyDescription:
    for part in parts[2:]:
        if part.tag == der.CONTEXT_0:
            parameters = der.read_element(body, part.start, part.end)
            return _describe_ec(body, parameters, "EC PRIVATE KEY")
    raise MalformedKey("it names no curve")


def _describe_ec(body: bytes, parameters: DerElement | None, form: str) -> KeyDescription:
    if parameters is None:
        raise MalformedKey("it names no curve")
    if parameters.tag != der.OID:
        return KeyDescription("ECDSA with explicit curve parameters", form, supported=False)
    curve = der.read_oid(body, parameters)
    if curve in _SUPPORTED_CURVES:
        return KeyDescription(f"ECDSA on {_SUPPORTED_CURVES[curve]}", form, supported=True)
    return KeyDescription(
        _OTHER_CURVES.get(curve, "ECDSA on an unknown curve"), form, supported=False
    )
