"""Rule D3: a private key is found in the certificate field, and a certificate in the key field, in
any armour or none."""

from __future__ import annotations

import base64
import textwrap

import pytest
from cryptography.hazmat.primitives import serialization

from shared.contracts.findings import Code
from tests.support.pki import encrypted_legacy, pem, pkcs1, sec1
from tests.unit.validator.sound_pair import LEAF, codes, refusals, report
from tests.unit.validator.test_upload_fields import (
    CHAIN,
    DER_KEY,
    DER_LEAF,
    KEY,
    RSA_LEAF,
    as_text,
)

BARE_KEY = base64.b64encode(DER_KEY).decode()
HIDDEN_KEYS = {
    "four dashes": KEY.replace("-----", "----"),
    "dashes of a word processor": KEY.replace("-----", "\u2014\u2013"),
    "lower case": KEY.replace("BEGIN PRIVATE KEY", "begin private key").replace(
        "END PRIVATE KEY", "end private key"
    ),
    "an underscore": KEY.replace("PRIVATE KEY", "PRIVATE_KEY"),
    "a NUL in the label": KEY.replace("PRIVATE KEY", "PRIVATE\0KEY"),
    "a space before the dashes": KEY.replace("KEY-----", "KEY -----"),
    "a space after the dashes": KEY.replace("-----BEGIN", "----- BEGIN"),
    "two spaces": KEY.replace("PRIVATE KEY", "PRIVATE  KEY"),
    "another label": KEY.replace("PRIVATE KEY", "DATA"),
    "legacy encryption under another label": encrypted_legacy(RSA_LEAF.key).replace(
        "RSA PRIVATE KEY", "DATA"
    ),
    "no armour": BARE_KEY + "\n",
    "no armour, on lines of 64": textwrap.fill(BARE_KEY, 64) + "\n",
    "no armour, quoted by a mail program": "> " + textwrap.fill(BARE_KEY, 64).replace("\n", "\n> "),
    "no armour, encrypted": as_text(
        LEAF.key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        ),
        "base64",
    ),
    "no armour, SEC 1": "".join(sec1(LEAF.key).splitlines()[1:-1]),
    "no armour, PKCS#1": "".join(pkcs1(RSA_LEAF.key).splitlines()[1:-1]),
    "DER": as_text(DER_KEY, "latin-1"),
    "PuTTY": "PuTTY-User-Key-File-2: ssh-rsa\nEncryption: none\nPrivate-Lines: 8\nAAAA\n",
    "SSH2": (
        "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nAAAA\n---- END SSH2 ENCRYPTED PRIVATE "
        "KEY ----\n"
    ),
    "JWK": '{"kty": "EC", "crv": "P-256", "d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}',
    "as openssl prints it": "Private-Key: (256 bit)\npriv:\n    34:4b:a4\n",
}


@pytest.mark.parametrize("place", ["after", "before", "alone", "between"])
@pytest.mark.parametrize("case", HIDDEN_KEYS)
def test_a_key_in_odd_armour_in_the_certificate_field_is_refused(case: str, place: str) -> None:
    hidden = HIDDEN_KEYS[case]
    if case == "DER" and place == "before":
        hidden += "\n"
    first, others = pem(LEAF.certificate), pem(LEAF.issuers)
    text = {
        "after": CHAIN + hidden,
        "before": hidden + CHAIN,
        "alone": hidden,
        "between": first + hidden + others,
    }[place]
    judged = report(text)
    assert refusals(judged) == [Code.CERTIFICATE_CONTAINS_KEY]
    assert judged.pairs == ()


def test_a_key_as_a_header_inside_a_certificates_block_is_refused() -> None:
    first, rest = CHAIN.split("\n", 1)
    body = textwrap.fill(BARE_KEY, 64)
    assert refusals(report(f"{first}\nX-Key: 1\n{body}\n\n{rest}")) == [
        Code.CERTIFICATE_CONTAINS_KEY
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Your private key is not in this message; it begins where you made the request.\n",
        (
            "Bag Attributes\n    localKeyID: 01\nKey Attributes: <No "
            "Attributes>\nsubject=/CN=www.example.com\n"
        ),
        "MIME MIIC MAIL MEMORANDUM\n",
    ],
)
def test_text_that_only_mentions_keys_is_a_notice(text: str) -> None:
    assert codes(report(text + CHAIN)) == [Code.CERTIFICATE_NORMALISED]


def test_a_certificate_in_odd_armour_in_the_key_field_is_refused() -> None:
    bare = base64.b64encode(DER_LEAF).decode()
    for hidden in (CHAIN.replace("-----", "----"), bare, "X: " + bare):
        assert refusals(report(key=KEY + hidden)) == [Code.CERTIFICATE_CONTAINS_KEY]


def test_a_base64_key_without_armour_is_to_be_decoded_first() -> None:
    assert "base64 -d key.b64 > key.der" in report(key=BARE_KEY).findings[0].hint


def test_keys_of_ssh_programs_are_refused_with_the_command_that_converts_them() -> None:
    openssh = LEAF.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    ).decode()
    for key, code, command in (
        (openssh, Code.KEY_UNSUPPORTED, "ssh-keygen -p -m PKCS8"),
        (HIDDEN_KEYS["PuTTY"], Code.KEY_NOT_PEM, "puttygen"),
    ):
        judged = report(key=key)
        assert (refusals(judged), command in judged.findings[0].hint) == ([code], True)
