"""A pair is found in every form in which a part of it could be left, and another pair of the same
CA is not taken for it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from deploy.residue.residue_patterns import ResiduePatterns, patterns_of_pair
from tests.support.pki import Authority, rsa_key

ISSUING = Authority.create("Test Root").intermediate("Test Issuing CA")
RSA = ISSUING.issue(["www.example.com", "extra.example.org"], key=rsa_key(2048, 0))
ECDSA = ISSUING.issue(["www.example.com", "*.example.net"])
OTHER = ISSUING.issue(["www.example.com"])
PAIRS = {"RSA": RSA, "ECDSA": ECDSA}
REGISTERED = {"www.example.com"}


def pair_patterns(kind: str) -> ResiduePatterns:
    pair = PAIRS[kind]
    return patterns_of_pair(pair.chain_pem, pair.key_pem, registered=REGISTERED)


def der(kind: str) -> bytes:
    return x509.load_pem_x509_certificate(PAIRS[kind].chain_pem.encode()).public_bytes(Encoding.DER)


def key_der(kind: str, form: PrivateFormat) -> bytes:
    key = load_pem_private_key(PAIRS[kind].key_pem.encode(), None)
    return key.private_bytes(Encoding.DER, form, NoEncryption())


def nested(kind: str) -> bytes:
    once = json.dumps({"chain": PAIRS[kind].chain_pem})
    return json.dumps({"payload": json.dumps({"bundle": once})}).encode()


def leaf(kind: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(PAIRS[kind].chain_pem.encode())


LEFT: dict[str, Callable[[str], bytes]] = {
    "the chain": lambda kind: PAIRS[kind].chain_pem.encode(),
    "the key": lambda kind: PAIRS[kind].key_pem.encode(),
    "the key with CRLF": lambda kind: PAIRS[kind].key_pem.replace("\n", "\r\n").encode(),
    "the key in its older form": lambda kind: base64.b64encode(
        key_der(kind, PrivateFormat.TraditionalOpenSSL)
    ),
    "the leaf's DER": der,
    "the key's DER": lambda kind: key_der(kind, PrivateFormat.PKCS8),
    "the DER in hex": lambda kind: der(kind).hex().upper().encode(),
    "PEM in JSON in JSON": nested,
    "the serial in decimal": lambda kind: str(leaf(kind).serial_number).encode(),
    "the serial in hex": lambda kind: b"serial=" + f"{leaf(kind).serial_number:x}".encode(),
    "the fingerprint": lambda kind: leaf(kind).fingerprint(hashes.SHA256()).hex().encode(),
    "the fingerprint with colons": lambda kind: (
        leaf(kind).fingerprint(hashes.SHA256()).hex(":").upper().encode()
    ),
}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("what", LEFT)
def test_a_pair_is_found_in_every_form_that_could_be_left_of_it(kind: str, what: str) -> None:
    assert pair_patterns(kind).found_in(b"before " + LEFT[what](kind) + b" after")


@pytest.mark.parametrize("kind", PAIRS)
def test_another_pair_of_the_same_ca_and_name_is_not_it(kind: str) -> None:
    assert pair_patterns(kind).found_in((OTHER.chain_pem + OTHER.key_pem).encode()) == []


@given(before=st.binary(max_size=7), url_safe=st.booleans(), kind=st.sampled_from(sorted(PAIRS)))
def test_a_pair_is_found_in_base64_at_every_alignment(
    before: bytes, url_safe: bool, kind: str
) -> None:
    encode = base64.urlsafe_b64encode if url_safe else base64.b64encode
    assert FOUND[kind].found_in(encode(before + der(kind)))
    assert FOUND[kind].found_in(encode(before + key_der(kind, PrivateFormat.PKCS8)))


FOUND = {kind: pair_patterns(kind) for kind in PAIRS}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("extra.example.org", True),
        ("SAN=Extra.Example.ORG,", True),
        ("org.example.extra", True),
        ("$KV.edge_bundles.org.example.extra", True),
        ("www.example.com", False),
        ("very-extra.example.org", False),
        ("a.extra.example.org", False),
        ("extra.example.org.uk", False),
    ],
)
def test_its_names_are_found_whole_unless_they_are_registered(text: str, found: bool) -> None:
    assert bool(FOUND["RSA"].found_in(f" {text} ".encode())) is found


def test_a_known_box_of_its_key_is_found() -> None:
    box = base64.b64encode(bytes(range(256)) * 5).decode()
    sealed = patterns_of_pair(RSA.chain_pem, RSA.key_pem, registered=REGISTERED, sealed=[box])
    assert sealed.found_in(json.dumps({"box": box}).encode())
    assert sealed.found_in(b"x" + base64.b64decode(box))
