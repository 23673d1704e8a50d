"""The names of keys, curves and signature algorithms in findings, and the broken ones of them."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import SignatureAlgorithmOID

KEY_KINDS = {
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
SUPPORTED_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_BROKEN_SIGNATURES = {
    "1.2.840.113549.1.1.2": "MD2",
    "1.2.840.113549.1.1.3": "MD4",
    "1.2.840.113549.1.1.4": "MD5",
    "1.2.840.113549.1.1.5": "SHA-1",
    "1.3.14.3.2.29": "SHA-1",
    "1.2.840.10045.4.1": "SHA-1",
    "1.2.840.10040.4.3": "SHA-1",
}
_SIGNATURE_NAMES = {
    "1.2.840.113549.1.1.14": "RSA with SHA-224",
    "1.2.840.113549.1.1.11": "RSA with SHA-256, its parameters missing",
    "1.2.840.113549.1.1.10": "RSASSA-PSS with uncommon parameters",
    "1.2.840.10045.4.3.1": "ECDSA with SHA-224",
    "1.3.101.112": "Ed25519",
    "1.3.101.113": "Ed448",
    "1.2.156.10197.1.501": "SM2 with SM3",
    "2.16.840.1.101.3.4.3.2": "DSA with SHA-256",
}


def find_broken_hash(certificate: x509.Certificate) -> str | None:
    """Return the name of the broken hash in the certificate's signature; None when it is sound."""
    algorithm = certificate.signature_algorithm_oid
    if algorithm != SignatureAlgorithmOID.RSASSA_PSS:
        return _BROKEN_SIGNATURES.get(algorithm.dotted_string)
    try:
        digest = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if digest is not None and digest.name in ("sha1", "md5"):
        return "RSASSA-PSS and " + ("SHA-1" if digest.name == "sha1" else "MD5")
    return None


def name_signature_algorithm(certificate: x509.Certificate) -> str:
    """Return the name of the certificate's signature algorithm, or its OID if it has none here."""
    algorithm = certificate.signature_algorithm_oid.dotted_string
    return _SIGNATURE_NAMES.get(algorithm, algorithm)
