"""The names of keys, curves and signatures, for people; and which signatures are broken. Pure."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import SignatureAlgorithmOID

KINDS = {
    "1.2.840.113549.1.1.1": "RSA",
    "1.2.840.113549.1.1.10": "RSASSA-PSS",
    "1.2.840.10045.2.1": "ECDSA on a curve that is not supported",
    "1.2.840.10040.4.1": "DSA",
    "1.3.101.112": "Ed25519",
    "1.3.101.113": "Ed448",
    "2.16.840.1.101.3.4.3.17": "ML-DSA-44",
    "2.16.840.1.101.3.4.3.18": "ML-DSA-65",
    "2.16.840.1.101.3.4.3.19": "ML-DSA-87",
}
_WEAK_SIGNATURES = {
    "1.2.840.113549.1.1.2": "MD2",
    "1.2.840.113549.1.1.3": "MD4",
    "1.2.840.113549.1.1.4": "MD5",
    "1.2.840.113549.1.1.5": "SHA-1",
    "1.3.14.3.2.29": "SHA-1",
    "1.2.840.10045.4.1": "SHA-1",
    "1.2.840.10040.4.3": "SHA-1",
}
_SIGNATURES = {
    "1.2.840.113549.1.1.14": "RSA with SHA-224",
    "1.2.840.113549.1.1.11": "RSA with SHA-256, its parameters missing",
    "1.2.840.113549.1.1.10": "RSASSA-PSS with uncommon parameters",
    "1.2.840.10045.4.3.1": "ECDSA with SHA-224",
    "1.3.101.112": "Ed25519",
    "1.3.101.113": "Ed448",
    "1.2.156.10197.1.501": "SM2 with SM3",
    "2.16.840.1.101.3.4.3.2": "DSA with SHA-256",
}
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def weak(certificate: x509.Certificate) -> str | None:
    """The name of the broken hash that it is signed with."""
    kind = certificate.signature_algorithm_oid
    if kind != SignatureAlgorithmOID.RSASSA_PSS:
        return _WEAK_SIGNATURES.get(kind.dotted_string)
    try:
        digest = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    broken = {"sha1": "SHA-1", "md5": "MD5"}.get(digest.name if digest else "")
    return f"RSASSA-PSS and {broken}" if broken else None


def named(certificate: x509.Certificate) -> str:
    """What it is signed with; its OID where it has no name here."""
    kind = certificate.signature_algorithm_oid.dotted_string
    return _SIGNATURES.get(kind, kind)
