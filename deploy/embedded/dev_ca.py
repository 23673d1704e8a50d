"""A certificate authority for development: the demo, the tests and ``edgetls up``. A root, one
intermediate, and leaves as a public CA would issue them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.private_files import private_folder, write_private

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_LEAF_DAYS: Final = 90
_CA_DAYS: Final = 3653
_COMMON_NAME_LENGTH: Final = 64
"""Upper bound of a common name: RFC 5280, appendix A.1 (ub-common-name)."""


@dataclass(frozen=True)
class CertificatePair:
    """A certificate chain and its private key in PEM, as a customer has them."""

    chain: str = field(repr=False)
    key: str = field(repr=False)

    @property
    def leaf(self) -> str:
        """SHA-256 of the leaf."""
        certificate = x509.load_pem_x509_certificate(self.chain.encode())
        return sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


@dataclass(frozen=True)
class DevCa:
    """The CA in ``folder``, which holds root.pem, root.key, intermediate.pem, intermediate.key."""

    folder: Path
    root: x509.Certificate
    intermediate: x509.Certificate
    intermediate_key: PrivateKey

    @property
    def root_file(self) -> Path:
        return self.folder / "root.pem"

    @classmethod
    def ensure(cls, folder: Path, now: datetime) -> DevCa:
        """Create the CA when the folder holds none, and load it."""
        # The intermediate's certificate is written last, so a CA that is there is complete.
        if not (folder / "intermediate.pem").exists():
            _create_ca(private_folder(folder), now)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> DevCa:
        """Read the CA; FileNotFoundError when there is none."""
        root = x509.load_pem_x509_certificate((folder / "root.pem").read_bytes())
        intermediate = x509.load_pem_x509_certificate((folder / "intermediate.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / "intermediate.key").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{folder / 'intermediate.key'} is no ECDSA key")
        return cls(folder, root, intermediate, key)

    def issue(
        self,
        names: Sequence[str],
        key: Literal["rsa", "ecdsa"] | PrivateKey = "rsa",
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        *,
        with_intermediate: bool = True,
    ) -> tuple[str, str]:
        """Issue a leaf and return (chain PEM with the leaf first, key PEM in PKCS#8).

        ``names``: DNS names and IP addresses; the first is the subject too. ``key``: a kind to
        make (RSA-2048 or P-256), or the key to use. Valid from an hour ago for 90 days."""
        private = _generate_key(key) if isinstance(key, str) else key
        start = not_before or (datetime.now().astimezone() - timedelta(hours=1))
        end = not_after or (start + timedelta(days=_LEAF_DAYS))
        builder = _leaf_builder(names, private, self.intermediate, start, end)
        chain = _certificate_pem(builder.sign(self.intermediate_key, hashes.SHA256()))
        if with_intermediate:
            chain += _certificate_pem(self.intermediate)
        return chain, _key_pem(private)


def _create_ca(folder: Path, now: datetime) -> None:
    # Valid long before and after now: tests move the clock by months.
    start = now - timedelta(days=_CA_DAYS)
    end = now + timedelta(days=_CA_DAYS)
    root_key = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    root_name = _common_name("edgetls test root")
    name = _common_name("edgetls test intermediate")
    root = _ca_certificate(root_name, root_name, root_key, root_key, None, start, end)
    intermediate = _ca_certificate(name, root_name, key, root_key, 0, start, end)
    write_private(folder / "root.key", _key_pem(root_key))
    write_private(folder / "root.pem", _certificate_pem(root))
    write_private(folder / "intermediate.key", _key_pem(key))
    write_private(folder / "intermediate.pem", _certificate_pem(intermediate))


def _ca_certificate(
    name: x509.Name,
    issuer: x509.Name,
    key: PrivateKey,
    issuer_key: PrivateKey,
    depth: int | None,
    start: datetime,
    end: datetime,
) -> x509.Certificate:
    builder = _certificate_builder(
        name, issuer, key.public_key(), issuer_key.public_key(), start, end
    )
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=depth), critical=True)
        .add_extension(usage, critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def _leaf_builder(
    names: Sequence[str], key: PrivateKey, issuer: x509.Certificate, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    # Key encipherment is for RSA key exchange only: RFC 8446 has none, RFC 5480 forbids it for
    # ECDSA keys.
    usage = _key_usage(digital_signature=True, key_encipherment=isinstance(key, rsa.RSAPrivateKey))
    subject = _common_name(names[0][:_COMMON_NAME_LENGTH])
    return (
        _certificate_builder(
            subject, issuer.subject, key.public_key(), issuer.public_key(), start, end
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
    )


def _certificate_builder(
    name: x509.Name,
    issuer: x509.Name,
    public: CertificatePublicKeyTypes,
    issuer_public: CertificatePublicKeyTypes,
    start: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    if not isinstance(issuer_public, ec.EllipticCurvePublicKey):
        raise TypeError("the issuers of this CA have ECDSA keys")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public), critical=False
        )
    )


def _key_usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _generate_key(kind: Literal["rsa", "ecdsa"]) -> PrivateKey:
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def _common_name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(name: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


def _certificate_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
