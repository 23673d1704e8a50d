"""An X.509 certificate with everything that a check reads, read once; what cannot be read is one
error."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, PublicKeyAlgorithmOID
from cryptography.x509.verification import Store

from services.validator.lazy import fact
from services.validator.text import pem
from services.validator.x509 import algorithms, cabf_profile, parse_diagnosis
from services.validator.x509.der_layout import names_its_curve, raw_extensions
from services.validator.x509.distinguished_names import Canonical, canonical
from services.validator.x509.name_constraints import Names, Sides, Uncheckable, names_of, sides

ExtensionT = TypeVar("ExtensionT", bound=x509.ExtensionType)

MAX_SUBJECT = 300
SHOWN_OIDS = 10
MAX_ISSUER_BITS = 8192
MAX_EXPONENT_BITS = 64
MAX_KEY_IDENTIFIER = 32

# What OpenSSL and the path library both handle where it is critical. A CA may have name constraints
# besides.
_KNOWN_EXTENSIONS = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.CERTIFICATE_POLICIES,
}
_NS_CERT_TYPE, _PROXY = (
    x509.ObjectIdentifier("2.16.840.1.113730.1.1"),
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"),
)
_NS_SERVER_BIT = 0x40


class Unreadable(ValueError):
    """Not a certificate; the text never holds its bytes."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """``block``: its place in the certificate field, -1 for a trusted root.

    Two are the same when their ``der`` is; ``==`` is identity."""

    block: int
    der: bytes = field(repr=False)
    parsed: x509.Certificate = field(repr=False)
    subject_parsed: x509.Name = field(repr=False)
    issuer_parsed: x509.Name = field(repr=False)
    subject_name: bytes = field(repr=False)
    issuer_name: bytes = field(repr=False)
    serial: int
    not_before: datetime
    not_after: datetime
    extensions: x509.Extensions = field(repr=False)

    @classmethod
    def read(cls, der: bytes, block: int = -1) -> Certificate:
        """Unreadable when any part that a check reads is not in order."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # oddities that the library will refuse one day
                parsed = x509.load_der_x509_certificate(der)
                subject, issuer, extensions = parsed.subject, parsed.issuer, parsed.extensions
                serial = parsed.serial_number
            if parsed.public_bytes(serialization.Encoding.DER) != der:
                raise Unreadable("its encoding is not DER")
            certificate = cls(
                block,
                der,
                parsed,
                subject,
                issuer,
                subject.public_bytes(),
                issuer.public_bytes(),
                serial,
                parsed.not_valid_before_utc,
                parsed.not_valid_after_utc,
                extensions,
            )
            _ = certificate.sans, certificate.version
        except Unreadable:
            raise
        except (
            Exception
        ):  # The library has a dozen kinds without a common base; which part it was is found out.
            raise Unreadable(parse_diagnosis.why(der)) from None
        return certificate

    @property
    def version(self) -> int:
        return int(self.parsed.version.value) + 1

    @fact
    def subject(self) -> str:
        """RFC 4514, for people."""
        return _text(self.subject_parsed)

    @fact
    def issuer(self) -> str:
        return _text(self.issuer_parsed)

    @fact
    def fingerprint(self) -> str:
        """SHA-256 of the DER form, lower-case hex."""
        return hashlib.sha256(self.der).hexdigest()

    @fact
    def sans(self) -> tuple[str, ...]:
        """The DNS names of the SAN extension, lower case, in their order."""
        names = self.extension(x509.SubjectAlternativeName)
        return (
            tuple(name.lower() for name in names.get_values_for_type(x509.DNSName)) if names else ()
        )

    @fact
    def san_set(self) -> frozenset[str]:
        return frozenset(self.sans)

    @fact
    def san_count(self) -> int:
        names = self.extension(x509.SubjectAlternativeName)
        return sum(1 for _ in names) if names else 0

    @fact
    def public_key(self) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey | None:
        """None when it is of another kind, which ``key_name`` names."""
        if self.parsed.public_key_algorithm_oid not in (
            PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5,
            PublicKeyAlgorithmOID.EC_PUBLIC_KEY,
        ):
            return None
        try:
            key = self.parsed.public_key()
        except (ValueError, UnsupportedAlgorithm):
            return None
        if isinstance(key, ec.EllipticCurvePublicKey):
            return key if names_its_curve(self.der) else None
        return key if isinstance(key, rsa.RSAPublicKey) else None

    @fact
    def spki(self) -> bytes | None:
        if self.public_key is None:
            return None
        return self.public_key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @fact
    def key_name(self) -> str:
        """``RSA of 2048 bits``, ``ECDSA on P-256``, ``Ed25519`` ..."""
        key = self.public_key
        if isinstance(key, rsa.RSAPublicKey):
            long = key.public_numbers().e.bit_length() > MAX_EXPONENT_BITS
            return f"RSA of {key.key_size} bits" + (
                f" with an exponent over {MAX_EXPONENT_BITS} bits" if long else ""
            )
        if isinstance(key, ec.EllipticCurvePublicKey):
            return f"ECDSA on {algorithms.CURVES.get(key.curve.name, key.curve.name)}"
        kind = self.parsed.public_key_algorithm_oid
        if kind == PublicKeyAlgorithmOID.EC_PUBLIC_KEY and not names_its_curve(self.der):
            return "ECDSA with explicit curve parameters"
        return algorithms.KINDS.get(kind.dotted_string, "an unknown kind of key")

    @fact
    def key_fits(self) -> bool:
        """A kind and size that nodes serve and that path validation admits (rule D6)."""
        key = self.public_key
        if isinstance(key, rsa.RSAPublicKey):
            return 2048 <= key.key_size <= 8192 and not self.is_slow_to_verify
        return key is not None and key.curve.name in algorithms.CURVES

    @fact
    def is_slow_to_verify(self) -> bool:
        """An RSA key made to cost time: its size, or an exponent as long as its modulus (100 times
        the work)."""
        key = self.public_key
        return isinstance(key, rsa.RSAPublicKey) and (
            key.key_size > MAX_ISSUER_BITS
            or key.public_numbers().e.bit_length() > MAX_EXPONENT_BITS
        )

    @property
    def key_type(self) -> str:
        return "rsa" if isinstance(self.public_key, rsa.RSAPublicKey) else "ecdsa"

    @property
    def key_bits(self) -> int:
        return self.public_key.key_size if self.public_key else 0

    @fact
    def is_ca(self) -> bool:
        basic = self.extension(x509.BasicConstraints)
        return basic is not None and basic.ca

    @fact
    def subject_key(self) -> Canonical:
        """The subject as names are compared."""
        return canonical(self.subject_name)

    @fact
    def issuer_key(self) -> Canonical:
        return canonical(self.issuer_name)

    @fact
    def is_self_issued(self) -> bool:
        return self.subject_name == self.issuer_name or self.subject_key == self.issuer_key

    @fact
    def organisation(self) -> str:
        return _organisation(self.subject_parsed)

    @fact
    def issuer_organisation(self) -> str:
        return _organisation(self.issuer_parsed)

    @fact
    def is_self_signed(self) -> bool:
        return self.is_self_issued and signed_by(self, self)

    @fact
    def weak_signature(self) -> str | None:
        """The name of the broken hash that it is signed with."""
        return algorithms.weak(self.parsed)

    @fact
    def unprofiled(self) -> tuple[str, ...]:
        """What clients do not accept about its form, whatever it is used for: clauses for
        people."""
        return tuple(cabf_profile.faults(self.der))

    @fact
    def odd_signature(self) -> str | None:
        """The name of an algorithm, not broken, that clients do not accept all the same."""
        if self.weak_signature or cabf_profile.signed_as_usual(self.der):
            return None
        return algorithms.named(self.parsed)

    @fact
    def is_constrained(self) -> bool:
        return self.extension(x509.NameConstraints) is not None

    @fact
    def constraints(self) -> Sides | None:
        """Uncheckable when they hold more than the library tells (a minimum or maximum)."""
        found = self.extension(x509.NameConstraints)
        if found is None:
            return None
        raw = dict(raw_extensions(self.der)).get(ExtensionOID.NAME_CONSTRAINTS.dotted_string)
        if raw != found.public_bytes():
            raise Uncheckable("a minimum or maximum")
        return sides(found)

    @fact
    def names(self) -> Names:
        """What name constraints are held against; Uncheckable."""
        return names_of(self.subject_name, self.extension(x509.SubjectAlternativeName))

    @fact
    def unknown_critical(self) -> list[str]:
        """Critical extensions that a TLS client is not bound to know (RFC 5280, 4.2), by OID."""
        return [
            extension.oid.dotted_string
            for extension in self.extensions
            if extension.critical
            and extension.oid not in _KNOWN_EXTENSIONS
            and not (self.is_ca and extension.oid == ExtensionOID.NAME_CONSTRAINTS)
        ]

    @property
    def told_unknown_critical(self) -> str:
        """A clause for people; a hostile certificate has thousands of them, a message a few."""
        found = self.unknown_critical
        more = f" and {len(found) - SHOWN_OIDS} more" if len(found) > SHOWN_OIDS else ""
        kind = "a critical extension" if len(found) == 1 else "critical extensions"
        return f"has {kind} that clients do not know ({', '.join(found[:SHOWN_OIDS])}{more})"

    @property
    def is_proxy(self) -> bool:
        """RFC 3820: issued by an end entity. OpenSSL loads none."""
        return any(extension.oid == _PROXY for extension in self.extensions)

    @property
    def is_of_another_netscape_type(self) -> bool:
        """It has the extension that was before EKU, without the bit for a TLS server: OpenSSL still
        heeds it."""
        for extension in self.extensions:
            if extension.oid == _NS_CERT_TYPE and isinstance(
                extension.value, x509.UnrecognizedExtension
            ):
                value = extension.value.value  # BIT STRING: tag, length, unused bits, bits
                return len(value) < 4 or not value[3] & _NS_SERVER_BIT
        return False

    @property
    def has_scts(self) -> bool:
        """Signed certificate timestamps inside it (RFC 6962, 3.3)."""
        found = self.extension(x509.PrecertificateSignedCertificateTimestamps)
        return found is not None and len(list(found)) > 0

    @property
    def authority_key(self) -> str:
        """The key identifier that it names its issuer's key by, hex with colons; empty when it does
        not."""
        wanted = self.extension(x509.AuthorityKeyIdentifier)
        return (
            wanted.key_identifier[:MAX_KEY_IDENTIFIER].hex(":").upper()
            if wanted and wanted.key_identifier
            else ""
        )

    @property
    def serves_tls(self) -> bool:
        """No EKU, or one with serverAuth; OpenSSL does not count anyExtendedKeyUsage either."""
        usage = self.extension(x509.ExtendedKeyUsage)
        return usage is None or ExtendedKeyUsageOID.SERVER_AUTH in usage

    @fact
    def unfit_as_issuer(self) -> tuple[str, ...]:
        """Why it may not issue a TLS server's certificate, whatever the path: clauses for
        people."""
        basic, usage = self.extension(x509.BasicConstraints), self.extension(x509.KeyUsage)
        reasons = [self.told_unknown_critical] if self.unknown_critical else []
        if basic is None or not basic.ca:
            reasons.append("is not a CA")
        if usage is not None and not usage.key_cert_sign:
            reasons.append("may not sign certificates (key usage)")
        if not self.serves_tls:
            reasons.append("may not issue for TLS servers (extended key usage)")
        if not self.key_fits:
            reasons.append(f"has a key that is not accepted ({self.key_name})")
        return tuple(reasons)

    def extension(self, kind: type[ExtensionT]) -> ExtensionT | None:
        return cast("ExtensionT | None", self._by_kind.get(kind))

    @fact
    def _by_kind(self) -> dict[type, x509.ExtensionType]:
        return {type(extension.value): extension.value for extension in self.extensions}

    def valid_at(self, at: datetime) -> bool:
        """RFC 5280, 4.1.2.5: both ends belong to the period."""
        return self.not_before <= at.replace(microsecond=0) <= self.not_after

    @fact
    def store(self) -> Store:
        """It as the one trusted root."""
        return Store([self.parsed])

    @fact
    def pem(self) -> str:
        """Canonical."""
        return pem.encode(pem.CERTIFICATE, self.der)

    def __str__(self) -> str:
        return f"{self.subject} (SHA-256 {self.fingerprint[:16]}…)"


def signed_by(child: Certificate, issuer: Certificate) -> bool:
    """Do names and signature agree?

    What cannot be verified is taken at its word: names and key identifiers decide, so that the path
    can be told, and refused for what it is: the key of such an issuer does not fit (a kind that is
    not supported, a size made to cost time), and a broken hash, which the library does not verify,
    is refused in all but a trusted root."""
    if child.issuer_key != issuer.subject_key:
        return False
    if child.weak_signature or issuer.public_key is None or issuer.is_slow_to_verify:
        return identifiers_agree(child, issuer)
    return _verifies(child.parsed, issuer.public_key)


def _verifies(child: x509.Certificate, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bool:
    """Not the library's own check, which compares names byte by byte."""
    signature, signed = child.signature, child.tbs_certificate_bytes
    try:
        how, digest = child.signature_algorithm_parameters, child.signature_hash_algorithm
        if (
            isinstance(key, rsa.RSAPublicKey)
            and isinstance(how, padding.PKCS1v15 | padding.PSS)
            and digest
        ):
            key.verify(signature, signed, how, digest)
            return True
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(how, ec.ECDSA):
            key.verify(signature, signed, how)
            return True
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return False


def identifiers_agree(child: Certificate, issuer: Certificate) -> bool:
    """Does the child's authority key identifier name the issuer's key, and where it names a serial
    or name, the issuer's own? True where either is absent. What does not agree is no issuer to
    OpenSSL."""
    wanted = child.extension(x509.AuthorityKeyIdentifier)
    if wanted is None:
        return True
    offered = issuer.extension(x509.SubjectKeyIdentifier)
    if (
        wanted.key_identifier is not None
        and offered is not None
        and wanted.key_identifier != offered.digest
    ):
        return False
    serial = wanted.authority_cert_serial_number
    if serial is not None and serial != issuer.serial:
        return False
    named = [
        n.value for n in wanted.authority_cert_issuer or () if isinstance(n, x509.DirectoryName)
    ]
    return not named or canonical(named[0].public_bytes()) == issuer.issuer_key


def _organisation(name: x509.Name) -> str:
    values = name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(values[0].value).casefold() if values else ""


def _text(name: x509.Name) -> str:
    text = name.rfc4514_string()
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "?" for c in text)
    return text[:MAX_SUBJECT] + ("…" if len(text) > MAX_SUBJECT else "")
