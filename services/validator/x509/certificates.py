"""An X.509 certificate with everything that a check reads from it."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, PublicKeyAlgorithmOID
from cryptography.x509.verification import Store

from services.validator.lazy import lazy_property
from services.validator.text import pem
from services.validator.x509 import algorithms, cabf_profile, parse_diagnosis
from services.validator.x509.client_rules import find_objections
from services.validator.x509.clients import Objection
from services.validator.x509.der_layout import has_named_curve, read_raw_extensions
from services.validator.x509.distinguished_names import (
    CanonicalName,
    canonical_name,
    describe_name,
    name_values,
)
from services.validator.x509.name_constraints import (
    ConstraintSubtrees,
    GeneralNames,
    UncheckableName,
    collect_names,
    has_bounds,
    read_subtrees,
)
from services.validator.x509.openssl_reading import find_load_fault
from services.validator.x509.signatures import is_signed_by
from services.validator.x509.tolerant_reading import TolerantReading, read_tolerantly

ExtensionT = TypeVar("ExtensionT", bound=x509.ExtensionType)

NOT_A_CA = "is not a CA"
MAX_SUBJECT_LENGTH = 300
MAX_SHOWN_OIDS = 10
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
MAX_EXPONENT_BITS = 64
MAX_KEY_IDENTIFIER_LENGTH = 32

# Critical extensions that at least three of the four clients know (rule D13). Of each other one at
# least two know nothing. What one client objects to stands in client_rules.
_KNOWN_EXTENSIONS = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.CERTIFICATE_POLICIES,
    ExtensionOID.NAME_CONSTRAINTS,
    ExtensionOID.POLICY_CONSTRAINTS,
    ExtensionOID.POLICY_MAPPINGS,
    ExtensionOID.INHIBIT_ANY_POLICY,
}
# Of these the path library knows none, critical or not.
_POLICY_CONTROLS = {
    ExtensionOID.POLICY_CONSTRAINTS,
    ExtensionOID.POLICY_MAPPINGS,
    ExtensionOID.INHIBIT_ANY_POLICY,
}
_NETSCAPE_CERT_TYPE = x509.ObjectIdentifier("2.16.840.1.113730.1.1")
_NETSCAPE_SERVER_BIT = 0x40
_PROXY_CERT_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")


class UnreadableCertificate(ValueError):
    """The bytes are not a certificate. The text never repeats them."""


@dataclass(frozen=True, eq=False)
class ParsedCertificate:
    """A certificate that was read in full.

    ``block``: its index in the certificate field, -1 for a trusted root. Two certificates are the
    same when their ``der`` is; ``==`` compares identity.
    """

    block: int
    der: bytes = field(repr=False)
    parsed: x509.Certificate = field(repr=False)
    subject_der: bytes = field(repr=False)
    issuer_der: bytes = field(repr=False)
    serial: int
    not_before: datetime
    not_after: datetime
    extensions: x509.Extensions = field(repr=False)
    tolerant_reading: TolerantReading | None = field(default=None, repr=False)

    @classmethod
    def from_der(cls, der: bytes, block: int = -1) -> ParsedCertificate:
        """Read a certificate.

        Raises UnreadableCertificate when any part that a check reads is faulty.
        ``tolerant_reading`` is None where the library reads the whole certificate.
        """
        # The library raises a dozen kinds of exceptions without a common base, and none of them
        # names the faulty part.
        try:
            return cls._from_library(der, block)
        except UnreadableCertificate:
            raise
        except Exception:
            try:
                return cls._from_tolerant_reading(der, block)
            except Exception:
                raise UnreadableCertificate(parse_diagnosis.diagnose_unreadable(der)) from None

    @classmethod
    def _from_library(cls, der: bytes, block: int) -> ParsedCertificate:
        with warnings.catch_warnings():
            # The library warns of oddities that a later release will refuse.
            warnings.simplefilter("ignore")
            parsed = x509.load_der_x509_certificate(der)
            subject = parsed.subject
            issuer = parsed.issuer
            extensions = parsed.extensions
            serial = parsed.serial_number
        if parsed.public_bytes(serialization.Encoding.DER) != der:
            raise UnreadableCertificate("its encoding is not DER")
        certificate = cls(
            block=block,
            der=der,
            parsed=parsed,
            subject_der=subject.public_bytes(),
            issuer_der=issuer.public_bytes(),
            serial=serial,
            not_before=parsed.not_valid_before_utc,
            not_after=parsed.not_valid_after_utc,
            extensions=extensions,
        )
        _ = certificate.sans, certificate.version
        return certificate

    @classmethod
    def _from_tolerant_reading(cls, der: bytes, block: int) -> ParsedCertificate:
        reading = read_tolerantly(der)
        certificate = cls(
            block=block,
            der=der,
            parsed=reading.copy,
            subject_der=reading.subject_der,
            issuer_der=reading.issuer_der,
            serial=reading.copy.serial_number,
            not_before=reading.copy.not_valid_before_utc,
            not_after=reading.copy.not_valid_after_utc,
            extensions=reading.extensions,
            tolerant_reading=reading,
        )
        _ = certificate.sans, certificate.version, certificate.has_subtree_bounds
        return certificate

    @property
    def version(self) -> int:
        return int(self.parsed.version.value) + 1

    @lazy_property
    def subject(self) -> str:
        """The subject as RFC 4514 text, for findings."""
        return _shown_name(describe_name(self.subject_der))

    @lazy_property
    def issuer(self) -> str:
        """The issuer as RFC 4514 text, for findings."""
        return _shown_name(describe_name(self.issuer_der))

    @lazy_property
    def fingerprint(self) -> str:
        """SHA-256 of the DER form, in lower-case hex."""
        return hashlib.sha256(self.der).hexdigest()

    @lazy_property
    def sans(self) -> tuple[str, ...]:
        """The DNS names of the SAN extension, in lower case and in their order."""
        san = self.find_extension(x509.SubjectAlternativeName)
        if san is None:
            return ()
        return tuple(name.lower() for name in san.get_values_for_type(x509.DNSName))

    @lazy_property
    def san_set(self) -> frozenset[str]:
        return frozenset(self.sans)

    @lazy_property
    def san_count(self) -> int:
        """The number of names of all kinds in the SAN extension."""
        san = self.find_extension(x509.SubjectAlternativeName)
        return 0 if san is None else len(san)

    @lazy_property
    def public_key(self) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey | None:
        """None when the key is of another kind; ``key_name`` names it."""
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
            return key if has_named_curve(self.der) else None
        return key if isinstance(key, rsa.RSAPublicKey) else None

    @lazy_property
    def spki(self) -> bytes | None:
        """The SubjectPublicKeyInfo in canonical DER; None without a ``public_key``."""
        if self.public_key is None:
            return None
        return self.public_key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @lazy_property
    def key_name(self) -> str:
        """``RSA of 2048 bits``, ``ECDSA on P-256``, ``Ed25519`` and so on, for findings."""
        key = self.public_key
        if isinstance(key, rsa.RSAPublicKey):
            name = f"RSA of {key.key_size} bits"
            if key.public_numbers().e.bit_length() > MAX_EXPONENT_BITS:
                name += f" with an exponent over {MAX_EXPONENT_BITS} bits"
            return name
        if isinstance(key, ec.EllipticCurvePublicKey):
            return f"ECDSA on {algorithms.SUPPORTED_CURVES.get(key.curve.name, key.curve.name)}"
        kind = self.parsed.public_key_algorithm_oid
        if kind == PublicKeyAlgorithmOID.EC_PUBLIC_KEY and not has_named_curve(self.der):
            return "ECDSA with explicit curve parameters"
        return algorithms.KEY_KINDS.get(kind.dotted_string, "an unknown kind of key")

    @lazy_property
    def key_is_supported(self) -> bool:
        """Whether nodes serve keys of this kind and size and path validation accepts them (D6)."""
        key = self.public_key
        if isinstance(key, rsa.RSAPublicKey):
            return MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS and not self.is_slow_to_verify
        return key is not None and key.curve.name in algorithms.SUPPORTED_CURVES

    @lazy_property
    def is_slow_to_verify(self) -> bool:
        """Whether the key is an RSA key made to cost time.

        Its modulus is too large, or its exponent is as long as its modulus, which makes a
        verification 100 times as slow.
        """
        key = self.public_key
        if not isinstance(key, rsa.RSAPublicKey):
            return False
        return (
            key.key_size > MAX_RSA_BITS or key.public_numbers().e.bit_length() > MAX_EXPONENT_BITS
        )

    @property
    def key_type(self) -> str:
        return "rsa" if isinstance(self.public_key, rsa.RSAPublicKey) else "ecdsa"

    @lazy_property
    def is_ca(self) -> bool:
        basic_constraints = self.find_extension(x509.BasicConstraints)
        return basic_constraints is not None and basic_constraints.ca

    @lazy_property
    def canonical_subject(self) -> CanonicalName:
        """The subject in the form by which names are compared."""
        return canonical_name(self.subject_der)

    @lazy_property
    def canonical_issuer(self) -> CanonicalName:
        """The issuer in the form by which names are compared."""
        return canonical_name(self.issuer_der)

    @lazy_property
    def is_self_issued(self) -> bool:
        return (
            self.subject_der == self.issuer_der or self.canonical_subject == self.canonical_issuer
        )

    @lazy_property
    def organisation(self) -> str:
        """The organisation of the subject in folded case, or an empty text."""
        return _organisation_of(self.subject_der)

    @lazy_property
    def issuer_organisation(self) -> str:
        """The organisation of the issuer in folded case, or an empty text."""
        return _organisation_of(self.issuer_der)

    @lazy_property
    def is_self_signed(self) -> bool:
        return self.is_self_issued and is_signed_by(self, self)

    @lazy_property
    def broken_hash(self) -> str | None:
        """The name of the broken hash in its signature; None when the hash is sound."""
        return algorithms.find_broken_hash(self.parsed)

    @lazy_property
    def profile_faults(self) -> tuple[str, ...]:
        """Why clients refuse its form, whatever it is used for: clauses for findings."""
        return tuple(cabf_profile.find_profile_faults(self.der))

    @lazy_property
    def unaccepted_algorithm(self) -> str | None:
        """The name of a signature algorithm that is not broken but that clients do not accept."""
        if self.broken_hash or cabf_profile.has_accepted_algorithm(self.der):
            return None
        return algorithms.name_signature_algorithm(self.parsed)

    @lazy_property
    def has_name_constraints(self) -> bool:
        return self.find_extension(x509.NameConstraints) is not None

    @lazy_property
    def name_constraints(self) -> ConstraintSubtrees | None:
        """The subtrees of its name constraints; None without the extension.

        Raises UncheckableName for a minimum or maximum, which the library does not show.
        """
        constraints = self.find_extension(x509.NameConstraints)
        if constraints is None:
            return None
        if self.has_subtree_bounds:
            raise UncheckableName("a minimum or maximum")
        return read_subtrees(constraints)

    @lazy_property
    def has_subtree_bounds(self) -> bool:
        """Whether its name constraints have a minimum or maximum, which no client compares."""
        raw_extensions = dict(read_raw_extensions(self.der))
        raw = raw_extensions.get(ExtensionOID.NAME_CONSTRAINTS.dotted_string)
        return raw is not None and has_bounds(raw)

    @lazy_property
    def constrained_names(self) -> GeneralNames:
        """The names that the constraints of its issuers apply to; raises UncheckableName."""
        return collect_names(self.subject_der, self.find_extension(x509.SubjectAlternativeName))

    @lazy_property
    def unknown_critical_oids(self) -> list[str]:
        """Critical extensions that a TLS client need not know (RFC 5280, 4.2), by OID."""
        return [
            extension.oid.dotted_string
            for extension in self.extensions
            if extension.critical and extension.oid not in _KNOWN_EXTENSIONS
        ]

    @lazy_property
    def is_beyond_library(self) -> bool:
        """Whether the path library refuses it for a form that clients read."""
        return (
            self.tolerant_reading is not None
            or any(extension.oid in _POLICY_CONTROLS for extension in self.extensions)
            or cabf_profile.is_beyond_library(self.der)
        )

    @lazy_property
    def objections_as_ca(self) -> tuple[Objection, ...]:
        """What clients object to where it is a CA."""
        return find_objections(self.der, is_leaf=False)

    @lazy_property
    def objections_as_leaf(self) -> tuple[Objection, ...]:
        """What clients object to where it is the leaf."""
        return find_objections(self.der, is_leaf=True)

    @lazy_property
    def load_fault(self) -> str | None:
        """Why OpenSSL, and so a node, does not load it; None when it does."""
        is_plain = self.tolerant_reading is None and not self.objections_as_leaf
        return find_load_fault(self.der, is_plain=is_plain)

    @property
    def unknown_critical_clause(self) -> str:
        """A clause for findings. It names a few of them: a hostile certificate has thousands."""
        oids = self.unknown_critical_oids
        kind = "a critical extension" if len(oids) == 1 else "critical extensions"
        more = ""
        if len(oids) > MAX_SHOWN_OIDS:
            more = f" and {len(oids) - MAX_SHOWN_OIDS} more"
        return f"has {kind} that clients do not know ({', '.join(oids[:MAX_SHOWN_OIDS])}{more})"

    @property
    def is_proxy(self) -> bool:
        """Whether an end entity issued it (RFC 3820). OpenSSL does not load such certificates."""
        return any(extension.oid == _PROXY_CERT_INFO for extension in self.extensions)

    @property
    def netscape_type_excludes_servers(self) -> bool:
        """Whether it has the Netscape certificate type without the bit for TLS servers.

        This extension is older than extended key usage, and OpenSSL still obeys it.
        """
        for extension in self.extensions:
            if extension.oid == _NETSCAPE_CERT_TYPE and isinstance(
                extension.value, x509.UnrecognizedExtension
            ):
                value = extension.value.value  # BIT STRING: tag, length, unused bits, bits
                return len(value) < 4 or not value[3] & _NETSCAPE_SERVER_BIT
        return False

    @property
    def has_scts(self) -> bool:
        """Whether it contains signed certificate timestamps (RFC 6962, 3.3)."""
        scts = self.find_extension(x509.PrecertificateSignedCertificateTimestamps)
        return scts is not None and len(scts) > 0

    @property
    def authority_key_identifier(self) -> str:
        """The identifier of its issuer's key in hex with colons; empty when it has none."""
        authority = self.find_extension(x509.AuthorityKeyIdentifier)
        if authority is None or not authority.key_identifier:
            return ""
        return authority.key_identifier[:MAX_KEY_IDENTIFIER_LENGTH].hex(":").upper()

    @property
    def subject_key_identifier(self) -> str:
        """The identifier of its own key in hex with colons; empty when it has none."""
        own = self.find_extension(x509.SubjectKeyIdentifier)
        if own is None:
            return ""
        return own.digest[:MAX_KEY_IDENTIFIER_LENGTH].hex(":").upper()

    @property
    def allows_server_auth(self) -> bool:
        """Whether it has no EKU, or one with serverAuth.

        anyExtendedKeyUsage alone does not count, as for OpenSSL.
        """
        usage = self.find_extension(x509.ExtendedKeyUsage)
        return usage is None or ExtendedKeyUsageOID.SERVER_AUTH in usage

    @property
    def is_old_root(self) -> bool:
        """Whether its version is 1, which has no CA flag: clients take it where it is trusted."""
        return self.version == 1 and len(self.extensions) == 0

    @lazy_property
    def issuer_faults(self) -> tuple[str, ...]:
        """Why it may not issue a TLS server's certificate on any path: clauses for findings."""
        faults = []
        if self.unknown_critical_oids:
            faults.append(self.unknown_critical_clause)
        if not self.is_ca:
            faults.append(NOT_A_CA)
        usage = self.find_extension(x509.KeyUsage)
        if usage is not None and not usage.key_cert_sign:
            faults.append("may not sign certificates (key usage)")
        if not self.allows_server_auth:
            faults.append("may not issue for TLS servers (extended key usage)")
        if not self.key_is_supported:
            faults.append(f"has a key that is not accepted ({self.key_name})")
        return tuple(faults)

    def find_extension(self, kind: type[ExtensionT]) -> ExtensionT | None:
        return cast("ExtensionT | None", self._extensions_by_kind.get(kind))

    @lazy_property
    def _extensions_by_kind(self) -> dict[type, x509.ExtensionType]:
        return {type(extension.value): extension.value for extension in self.extensions}

    def is_valid_at(self, at: datetime) -> bool:
        """Check its period; both ends belong to it (RFC 5280, 4.1.2.5)."""
        return self.not_before <= at.replace(microsecond=0) <= self.not_after

    @lazy_property
    def root_store(self) -> Store:
        """A trust store of the path library that holds this certificate alone."""
        return Store([self.parsed])

    @lazy_property
    def pem(self) -> str:
        """The certificate as canonical PEM."""
        return pem.encode_block(pem.CERTIFICATE, self.der)

    def __str__(self) -> str:
        return f"{self.subject} (SHA-256 {self.fingerprint[:16]}…)"


def _organisation_of(name: bytes) -> str:
    for kind, value in name_values(name):
        if kind == NameOID.ORGANIZATION_NAME.dotted_string:
            return value.casefold()
    return ""


def _shown_name(text: str) -> str:
    if not text.isprintable():
        text = "".join(character if character.isprintable() else "?" for character in text)
    if len(text) > MAX_SUBJECT_LENGTH:
        return text[:MAX_SUBJECT_LENGTH] + "…"
    return text
