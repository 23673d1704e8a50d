"""A CA for tests and the demo: a root, one intermediate, and leaves as a public CA would issue
them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
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


@dataclass(frozen=True)
class TestCa:
    """Made by ``ensure``, read by ``load``. ``folder`` holds root.pem, root.key, intermediate.pem,
    intermediate.key."""

    __test__ = False
    folder: Path
    root: x509.Certificate
    intermediate: x509.Certificate
    intermediate_key: PrivateKey

    @property
    def root_file(self) -> Path:
        return self.folder / "root.pem"

    @classmethod
    def ensure(cls, folder: Path, now: datetime) -> TestCa:
        if not (folder / "intermediate.pem").exists():
            _make(private_folder(folder), now)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> TestCa:
        """FileNotFoundError when there is none."""
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
        """(chain PEM: leaf, intermediate; key PEM: PKCS#8). ``key``: a kind, RSA-2048 or P-256, or
        a key to use.

        The first name is the subject too; IP addresses may be among the names. Valid from an hour
        ago for 90 days."""
        private = _new_key(key) if isinstance(key, str) else key
        start = not_before or (datetime.now().astimezone() - timedelta(hours=1))
        end = not_after or (start + timedelta(days=_LEAF_DAYS))
        leaf = _leaf(names, private, self.intermediate, start, end).sign(
            self.intermediate_key, hashes.SHA256()
        )
        chain = (leaf, self.intermediate) if with_intermediate else (leaf,)
        return "".join(_pem(one) for one in chain), _key_pem(private)


def _make(folder: Path, now: datetime) -> None:
    start, end = now - timedelta(days=_CA_DAYS), now + timedelta(days=_CA_DAYS)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = _name("edgetls test root")
    root = _ca(name, name, root_key, root_key, None, start, end)
    intermediate = _ca(_name("edgetls test intermediate"), name, key, root_key, 0, start, end)
    write_private(folder / "root.key", _key_pem(root_key))
    write_private(folder / "root.pem", _pem(root))
    write_private(folder / "intermediate.key", _key_pem(key))
    write_private(folder / "intermediate.pem", _pem(intermediate))


def _ca(
    name: x509.Name,
    issuer: x509.Name,
    key: PrivateKey,
    issuer_key: PrivateKey,
    depth: int | None,
    start: datetime,
    end: datetime,
) -> x509.Certificate:
    builder = _base(name, issuer, key.public_key(), issuer_key.public_key(), start, end)
    usage = _usage(key_cert_sign=True, crl_sign=True)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=depth), critical=True)
        .add_extension(usage, critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def _leaf(
    names: Sequence[str], key: PrivateKey, issuer: x509.Certificate, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    usage = _usage(digital_signature=True, key_encipherment=isinstance(key, rsa.RSAPrivateKey))
    return (
        _base(
            _name(names[0][:64]), issuer.subject, key.public_key(), issuer.public_key(), start, end
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_san(name) for name in names]), critical=False)
    )


def _base(
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


def _usage(
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


def _new_key(kind: Literal["rsa", "ecdsa"]) -> PrivateKey:
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _san(name: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
