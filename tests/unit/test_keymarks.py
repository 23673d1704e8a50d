"""A private key is found in whatever form people paste one; what is public is not mistaken for
one."""

from __future__ import annotations

import base64
import json
import os

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from shared.crypto.key_detection import contains_private_key
from shared.crypto.sealing import PrivateKey
from tests.support import pki

RSA, EC = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
KEYS = {
    "RSA-2048": RSA,
    "RSA-4096": rsa.generate_private_key(65537, 4096),
    "P-256": EC,
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}
TRADITIONAL = PrivateFormat.TraditionalOpenSSL


def _der(name: str, form: PrivateFormat) -> bytes:
    return KEYS[name].private_bytes(Encoding.DER, form, NoEncryption())


DERS = {
    f"{name} {what}": _der(name, form)
    for name in KEYS
    for what, form in (("PKCS #8", PrivateFormat.PKCS8), ("traditional", TRADITIONAL))
    if not (name == "Ed25519" and form is TRADITIONAL)
}
PEMS = {
    "PKCS #8": RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    "PKCS #1": RSA.private_bytes(Encoding.PEM, TRADITIONAL, NoEncryption()),
    "SEC 1": EC.private_bytes(Encoding.PEM, TRADITIONAL, NoEncryption()),
    "encrypted": EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
    "OpenSSH": EC.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
}


@pytest.mark.parametrize("pem", PEMS.values(), ids=PEMS)
def test_a_pem_is_found_however_it_is_written(pem: bytes) -> None:
    text = pem.decode()
    once = json.dumps({"roots": text})
    escaped = "".join(f"\\u{ord(character):04x}" for character in text)
    for form in (
        text,
        text.replace("\n", "\r\n"),
        text.replace("\n", " "),
        text.lower(),
        once,
        json.dumps({"payload": once}),
        json.dumps({"p": json.dumps({"payload": once})}),
        f'{{"roots": "{escaped}"',
        once[:-20],
        text.replace(" ", "%20"),
        text.replace(" ", "+"),
        *(base64.b64encode(b"x" * before + pem).decode() for before in range(3)),
        base64.encodebytes(pem).decode(),
    ):
        assert contains_private_key(form.encode()), form[:80]


@pytest.mark.parametrize("der", DERS.values(), ids=DERS)
def test_der_is_found_in_base64_in_hexadecimal_and_as_it_is(der: bytes) -> None:
    for form in (
        der,
        b"prefix" + der,
        base64.b64encode(der),
        base64.urlsafe_b64encode(der),
        base64.encodebytes(der),
        json.dumps({"certificate": base64.encodebytes(der).decode()}).encode(),
        der.hex().encode(),
        der.hex(":").upper().encode(),
        f"-----BEGIN SECRET-----\n{base64.encodebytes(der).decode()}".encode(),
    ):
        assert contains_private_key(form), form[:80]


def test_a_jwk_is_found() -> None:
    assert contains_private_key(b'{"kty": "EC", "crv": "P-256", "x": "aa", "y": "bb", "d": "cc"}')
    assert not contains_private_key(b'{"kty": "EC", "crv": "P-256", "x": "aa", "y": "bb"}')


def test_what_is_public_is_no_key() -> None:
    root = pki.Authority.create("Any Root")
    for pem in (root.pem, root.issue(["www.example.test"]).chain_pem):
        der = pki.der(x509.load_pem_x509_certificate(pem.encode()))
        for form in (pem.encode(), der, base64.b64encode(der), der.hex().encode()):
            assert not contains_private_key(form)
            assert not contains_private_key(json.dumps({"roots": form.decode("latin-1")}).encode())
    for key in KEYS.values():
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert not contains_private_key(public) and not contains_private_key(
            base64.b64encode(public)
        )
    box = PrivateKey.generate().public().seal(os.urandom(1700), b"")
    assert not contains_private_key(json.dumps({"sealed_key": {"epoch": 0, "box": box}}).encode())
    assert not any(contains_private_key(base64.b64encode(os.urandom(30_000))) for _ in range(20))
