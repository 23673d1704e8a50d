"""Who signed a certificate: names, key identifiers and the signature itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from services.validator.x509.distinguished_names import canonical_name

if TYPE_CHECKING:
    from services.validator.x509.certificates import ParsedCertificate


def is_signed_by(child: ParsedCertificate, issuer: ParsedCertificate) -> bool:
    """Check that the names match and that the signature verifies."""
    # Some signatures cannot be verified, or not at a fair price: the issuer's key is of a kind that
    # is not supported, or made to cost time, or the hash is broken and the library refuses it. For
    # those the names and the key identifiers decide. This accepts nothing: the path can be built,
    # and is then refused for its real fault. Such a key is not supported (issuer_faults), and a
    # broken hash is refused in every certificate but a trusted root.
    if child.canonical_issuer != issuer.canonical_subject:
        return False
    if child.broken_hash or issuer.public_key is None or issuer.is_slow_to_verify:
        return key_identifiers_agree(child, issuer)
    return _verify_signature(child, issuer.public_key)


def _verify_signature(
    child: ParsedCertificate, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
) -> bool:
    """Verify the signature alone. The library's own check also compares names byte by byte."""
    reading = child.tolerant_reading
    if reading is None:
        signature = child.parsed.signature
        signed = child.parsed.tbs_certificate_bytes
    else:
        signature = reading.signature
        signed = reading.signed
    try:
        parameters = child.parsed.signature_algorithm_parameters
        digest = child.parsed.signature_hash_algorithm
        if (
            isinstance(key, rsa.RSAPublicKey)
            and isinstance(parameters, padding.PKCS1v15 | padding.PSS)
            and digest
        ):
            key.verify(signature, signed, parameters, digest)
            return True
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
            key.verify(signature, signed, parameters)
            return True
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return False


def key_identifiers_agree(child: ParsedCertificate, issuer: ParsedCertificate) -> bool:
    """Check that the child's authority key identifier fits its issuer.

    The key identifier must be that of the issuer's key; a serial and a name must be the issuer's
    own. What either certificate leaves out agrees. OpenSSL takes no issuer that does not fit.
    """
    authority = child.find_extension(x509.AuthorityKeyIdentifier)
    if authority is None:
        return True
    subject_identifier = issuer.find_extension(x509.SubjectKeyIdentifier)
    if (
        authority.key_identifier is not None
        and subject_identifier is not None
        and authority.key_identifier != subject_identifier.digest
    ):
        return False
    serial = authority.authority_cert_serial_number
    if serial is not None and serial != issuer.serial:
        return False
    for name in authority.authority_cert_issuer or ():
        if isinstance(name, x509.DirectoryName):
            return canonical_name(name.value.public_bytes()) == issuer.canonical_issuer
    return True
