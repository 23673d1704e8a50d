"""The detector of private keys finds one in each form, and nothing of it in what is public."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.key_search import (
    PrivateKey,
    find_compressed_in_file,
    find_in_file,
    key_patterns,
    private_key_der,
    private_key_pem,
    private_numbers,
)
from tests.support.pki import Authority, rsa_key

RSA, EC = rsa_key(), ec.generate_private_key(ec.SECP256R1())
FILL = bytes(range(256)) * 40


def raw(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def pglz(data: bytes) -> bytes:
    """As PostgreSQL stores what does not repeat: a control byte before every eight literals."""
    return b"".join(b"\0" + data[at : at + 8] for at in range(0, len(data), 8))


PLANTS: dict[str, Callable[[PrivateKey], bytes]] = {
    "a PKCS#8 PEM": lambda key: private_key_pem(key)["PKCS8"].encode(),
    "a traditional PEM": lambda key: private_key_pem(key)["traditional"].encode(),
    "a PEM in a JSON string": lambda key: json.dumps(
        {"key": private_key_pem(key)["PKCS8"]}
    ).encode(),
    "a PEM in JSON in JSON": lambda key: json.dumps(
        json.dumps({"key": private_key_pem(key)["PKCS8"]})
    ).encode(),
    "a PEM in a Python repr": lambda key: repr({"key": private_key_pem(key)["PKCS8"]}).encode(),
    "a PKCS#8 DER": lambda key: private_key_der(key)["PKCS8"],
    "a traditional DER": lambda key: private_key_der(key)["traditional"],
    "a DER in a Python repr": lambda key: repr(private_key_der(key)["PKCS8"]).encode(),
    "a DER in hex": lambda key: private_key_der(key)["PKCS8"].hex().encode(),
    "a DER in upper-case hex with colons": lambda key: (
        private_key_der(key)["PKCS8"].hex(":").upper().encode()
    ),
    "a DER in base64": lambda key: base64.b64encode(private_key_der(key)["PKCS8"]),
    "a DER in base64, one byte later": lambda key: base64.b64encode(
        b"x" + private_key_der(key)["PKCS8"]
    ),
    "a DER in base64, two bytes later": lambda key: base64.b64encode(
        b"xy" + private_key_der(key)["PKCS8"]
    ),
    "a DER in base64 for URLs": lambda key: base64.urlsafe_b64encode(private_key_der(key)["PKCS8"]),
    "a PEM in base64": lambda key: base64.b64encode(private_key_pem(key)["PKCS8"].encode()),
    "a PEM in base64, one byte later": lambda key: base64.b64encode(
        b"x" + private_key_pem(key)["PKCS8"].encode()
    ),
    "a PEM in base64, two bytes later": lambda key: base64.b64encode(
        b"xy" + private_key_pem(key)["PKCS8"].encode()
    ),
    "one line of a PEM": lambda key: (
        private_key_pem(key)["PKCS8"].splitlines()[20 if key is RSA else 1].encode()
    ),
    "a number in decimal": lambda key: str(next(iter(private_numbers(key).values()))).encode(),
    "numbers in a JSON object": lambda key: json.dumps(private_numbers(key)).encode(),
    "the first half of a number": lambda key: (whole := raw(max(private_numbers(key).values())))[
        : len(whole) // 2
    ],
}


@pytest.mark.parametrize("key", [RSA, EC], ids=["RSA", "ECDSA"])
@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_a_planted_key_is_found(
    plant: Callable[[PrivateKey], bytes], key: PrivateKey, tmp_path: Path
) -> None:
    planted = FILL + plant(key) + FILL
    (tmp_path / "file").write_bytes(planted)
    assert find_in_file(key_patterns(key), tmp_path / "file")
    assert key_patterns(key).found_in(planted)


@pytest.mark.parametrize("key", [RSA, EC], ids=["RSA", "ECDSA"])
def test_each_private_number_is_found_raw_and_compressed(key: PrivateKey, tmp_path: Path) -> None:
    for name, number in private_numbers(key).items():
        (tmp_path / "file").write_bytes(FILL + raw(number) + FILL)
        assert f"{name} raw" in find_in_file(key_patterns(key), tmp_path / "file")
        for before in range(8):
            for form in (raw(number), base64.b64encode(b"x" * (before % 3) + raw(number))):
                (tmp_path / "file").write_bytes(FILL + pglz(b"-" * before + form) + FILL)
                assert find_compressed_in_file(key, tmp_path / "file") == [f"{name} compressed"]


@pytest.mark.parametrize("key", [RSA, EC], ids=["RSA", "ECDSA"])
def test_what_is_public_is_not_taken_for_the_key(key: PrivateKey, tmp_path: Path) -> None:
    leaf = Authority.create("Root").issue(["www.example.com"], key=key)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "file").write_bytes(
        FILL
        + leaf.chain_pem.encode()
        + public
        + base64.b64decode("".join(public.decode().splitlines()[1:-1]))
        + FILL
    )
    assert find_in_file(key_patterns(key), tmp_path / "file") == []
    assert find_compressed_in_file(key, tmp_path / "file") == []


def test_an_empty_and_a_missing_file_are_clean(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert (
        find_in_file(key_patterns(EC), tmp_path / "empty")
        == find_in_file(key_patterns(EC), tmp_path / "none")
        == []
    )
