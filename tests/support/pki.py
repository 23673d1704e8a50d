"""A small public key infrastructure for tests: authorities, leaves, and keys in every form that
customers upload.

    root = Authority.create("Test Root")
    issuing = root.intermediate("Test Issuing CA")
    leaf = issuing.issue(["www.example.com", "*.example.org"])
    leaf.chain_pem, leaf.key_pem, root.pem

RSA keys are slow to make: ``rsa_key(bits, n)`` keeps the n-th of each size for the whole run.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.embedded.dev_ca import CertificatePair, DevCa

Key = Any
"""A private key of any kind of ``cryptography``."""

Extension = tuple[x509.ExtensionType, bool]

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
"""Leaves are valid from 30 days before to 60 days after this moment, unless told otherwise."""


@cache
def rsa_key(bits: int = 2048, n: int = 0) -> rsa.RSAPrivateKey:
    """Return the ``n``-th RSA key of this size of this run: the same for the same arguments."""
    return rsa.generate_private_key(65537, bits)


def ec_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """Generate an ECDSA key, on P-256 by default."""
    return ec.generate_private_key(curve or ec.SECP256R1())


def pkcs8(key: Key) -> str:
    return _private(key, serialization.PrivateFormat.PKCS8)


def pkcs1(key: rsa.RSAPrivateKey) -> str:
    """Encode as ``RSA PRIVATE KEY``."""
    return _private(key, serialization.PrivateFormat.TraditionalOpenSSL)


def sec1(key: ec.EllipticCurvePrivateKey, *, with_parameters: bool = False) -> str:
    """Encode as ``EC PRIVATE KEY``, with OpenSSL's EC PARAMETERS (P-256 only) or without."""
    parameters = ""
    if with_parameters:
        body = base64.b64encode(bytes.fromhex("06082a8648ce3d030107")).decode()
        parameters = f"-----BEGIN EC PARAMETERS-----\n{body}\n-----END EC PARAMETERS-----\n"
    return parameters + _private(key, serialization.PrivateFormat.TraditionalOpenSSL)


def encrypted_pkcs8(key: Key, password: bytes = b"secret") -> str:
    """Encode as ``ENCRYPTED PRIVATE KEY``."""
    return _private(
        key, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(password)
    )


def encrypted_legacy(key: Key, password: bytes = b"secret") -> str:
    """Encode with ``Proc-Type: 4,ENCRYPTED`` inside a traditional label."""
    return _private(
        key,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(password),
    )


def pem(certificates: x509.Certificate | Iterable[x509.Certificate]) -> str:
    several = [certificates] if isinstance(certificates, x509.Certificate) else certificates
    return "".join(c.public_bytes(serialization.Encoding.PEM).decode() for c in several)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def issue_pair(
    ca: DevCa,
    *names: str,
    key: Literal["rsa", "ecdsa"] | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = "ecdsa",
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> CertificatePair:
    """Issue a pair that the nodes' visitors trust, by the CA of a running platform.

    Valid from an hour ago for 90 days, unless told otherwise.
    """
    return CertificatePair(*ca.issue(names, key, not_before, not_after))


@dataclass(frozen=True)
class Leaf:
    """A server's certificate and key. ``issuers``: its intermediates, nearest first, without the
    root."""

    certificate: x509.Certificate
    key: Key = field(repr=False)
    issuers: tuple[x509.Certificate, ...] = ()

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return (self.certificate, *self.issuers)

    @property
    def chain_pem(self) -> str:
        return pem(self.chain)

    @property
    def key_pem(self) -> str:
        """PKCS#8."""
        return pkcs8(self.key)

    @property
    def fingerprint(self) -> str:
        """SHA-256, lower-case hex."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()


@dataclass(frozen=True)
class Authority:
    """A CA. ``issuers``: its own certificate and those above it, without the root: the chain of a
    leaf needs them."""

    certificate: x509.Certificate
    key: Key = field(repr=False)
    issuers: tuple[x509.Certificate, ...] = ()

    @classmethod
    def create(cls, name: str = "Test Root CA", *, key: Key = None, **how: Any) -> Authority:
        """Create a self-signed root. ``how``: see ``sign``."""
        key = key or ec_key()
        certificate = sign(
            distinguished(name, how.pop("organisation", None)),
            key.public_key(),
            None,
            key,
            ca=True,
            **how,
        )
        return cls(certificate, key)

    @property
    def pem(self) -> str:
        return pem(self.certificate)

    @property
    def is_root(self) -> bool:
        return self.certificate.subject == self.certificate.issuer

    def intermediate(
        self, name: str = "Test Issuing CA", *, key: Key = None, **how: Any
    ) -> Authority:
        """Create a CA below this one. ``how``: see ``sign``."""
        key = key or ec_key()
        certificate = self._sign(name, key, ca=True, **how)
        return Authority(certificate, key, (certificate, *self.issuers))

    def issue(
        self,
        names: Sequence[str] = ("www.example.com",),
        *,
        key: Key = None,
        common_name: str | None = None,
        eku: Sequence[x509.ObjectIdentifier] | None = (ExtendedKeyUsageOID.SERVER_AUTH,),
        **how: Any,
    ) -> Leaf:
        """Issue a server's leaf for the DNS ``names``. ``eku`` None leaves the extension out.

        ``how``: see ``sign``.
        """
        key = key or ec_key()
        extra: list[Extension] = list(how.pop("extensions", ()))
        if names:
            extra.append(
                (x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
            )
        if eku:
            extra.append((x509.ExtendedKeyUsage(eku), False))
        subject = common_name or (names[0][:64] if names else "a server")
        return Leaf(self._sign(subject, key, extensions=extra, **how), key, self.issuers)

    def _sign(self, name: str, key: Key, **how: Any) -> x509.Certificate:
        subject = distinguished(name, how.pop("organisation", None))
        signer = how.pop("signer", self.key)
        return sign(subject, key.public_key(), self.certificate, signer, **how)


def distinguished(name: str, organisation: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation)] if organisation else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def sign(
    subject: x509.Name,
    public_key: Any,
    issuer: x509.Certificate | None,
    signer: Key,
    *,
    ca: bool = False,
    path_length: int | None = None,
    basic_constraints: bool = True,
    key_usage: x509.KeyUsage | bool | None = True,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    extensions: Iterable[Extension] = (),
    identifiers: bool = True,
    digest: hashes.HashAlgorithm | bool | None = True,
) -> x509.Certificate:
    """Sign a certificate, which is sound unless told otherwise.

    ``key_usage``: True fits the kind, None leaves it out. ``digest``: True is SHA-256, or none for
    Ed25519.
    """
    start = not_before or NOW - timedelta(days=3650 if ca else 30)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(not_after or NOW + timedelta(days=3650 if ca else 60))
    )
    if basic_constraints:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    usage = _usage(ca) if key_usage is True else key_usage
    if isinstance(usage, x509.KeyUsage):
        builder = builder.add_extension(usage, critical=True)
    if identifiers:
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False
        )
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(
                issuer.public_key() if issuer else public_key
            ),  # type: ignore[arg-type]
            critical=False,
        )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    plain = isinstance(signer, ed25519.Ed25519PrivateKey)
    return builder.sign(signer, (None if plain else hashes.SHA256()) if digest is True else digest)  # type: ignore[arg-type]


def key_usage(*granted: str) -> x509.KeyUsage:
    """Return a key usage that grants these and nothing else."""
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in granted for name in every})


def _usage(ca: bool) -> x509.KeyUsage:
    return key_usage("key_cert_sign", "crl_sign") if ca else key_usage("digital_signature")


def _private(
    key: Key,
    form: serialization.PrivateFormat,
    encryption: serialization.KeySerializationEncryption | None = None,
) -> str:
    chosen = encryption or serialization.NoEncryption()
    return str(key.private_bytes(serialization.Encoding.PEM, form, chosen).decode())
