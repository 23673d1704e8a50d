"""Search for a private key: as raw numbers, DER, PEM, hex, decimal, base64 at every alignment, and
in what PostgreSQL compresses.

Only what is private is searched for: the certificate may be anywhere.
"""

from __future__ import annotations

import base64
import mmap
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from deploy.residue.residue_patterns import ResiduePatterns

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_PART_BYTES = 16
"""Bytes of a number that are searched for: enough to be unique, short enough for any line."""
_LITERALS = 8
"""pglz puts a control byte before every eight items: text that does not repeat stands in pieces of
eight bytes."""


def private_numbers(key: PrivateKey) -> dict[str, int]:
    """Return the private numbers by name."""
    if isinstance(key, rsa.RSAPrivateKey):
        found = key.private_numbers()
        return {
            "d": found.d,
            "p": found.p,
            "q": found.q,
            "dp": found.dmp1,
            "dq": found.dmq1,
            "qinv": found.iqmp,
        }
    return {"scalar": key.private_numbers().private_value}


def private_key_der(key: PrivateKey) -> dict[str, bytes]:
    return {
        name: key.private_bytes(Encoding.DER, form, NoEncryption())
        for name, form in _FORMATS.items()
    }


def private_key_pem(key: PrivateKey) -> dict[str, str]:
    return {
        name: key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()
        for name, form in _FORMATS.items()
    }


_FORMATS = {"PKCS8": PrivateFormat.PKCS8, "traditional": PrivateFormat.TraditionalOpenSSL}


def key_patterns(key: PrivateKey) -> ResiduePatterns:
    """Return what ``find_in_file`` and deploy.residue.residue_scan search for."""
    return ResiduePatterns(
        tuple(dict.fromkeys(_texts(key))), tuple(dict.fromkeys(_folded(key))), ()
    )


def _texts(key: PrivateKey) -> Iterator[tuple[str, bytes]]:
    for name, number in private_numbers(key).items():
        for part in _parts(_big_endian(number)):
            yield f"{name} raw", part
            yield f"{name} as Python bytes", repr(part)[2:-1].encode()
            yield from ((f"{name} base64", text) for text in _base64_forms(part))
        yield f"{name} decimal", str(number)[10:50].encode()
    for form, text in private_key_pem(key).items():
        lines = _private_lines(text, key)
        yield from ((f"{form} PEM line", line.encode()) for line in lines)
        # A PEM text in base64 once more, as some stores keep secrets.
        for line in lines:
            yield from ((f"{form} PEM in base64", coded) for coded in _base64_forms(line.encode()))


def _folded(key: PrivateKey) -> Iterator[tuple[str, bytes]]:
    for name, number in private_numbers(key).items():
        for part in _parts(_big_endian(number)):
            yield f"{name} hex", part.hex().encode()
            yield f"{name} hex", part.hex(":").encode()


def find_in_file(wanted: ResiduePatterns, path: Path) -> list[str]:
    """Return the names of the patterns that a file holds; none when it is empty or gone."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as hay:
            found = {what for what, needle in wanted.texts if hay.find(needle) >= 0}
            lower = {what for what, needle in wanted.folded if hay.find(needle) >= 0}
            upper = {what for what, needle in wanted.folded if hay.find(needle.upper()) >= 0}
            return sorted(found | lower | upper)
    except (FileNotFoundError, ValueError):
        return []


def find_compressed_in_file(key: PrivateKey, path: Path) -> list[str]:
    """Return what is found in a file that may hold values compressed by pglz: of each number any
    eight bytes in a row out of fifteen."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as hay:
            return sorted({what for what, needle in _pieces(key) if hay.find(needle) >= 0})
    except (FileNotFoundError, ValueError):
        return []


def _pieces(key: PrivateKey) -> Iterator[tuple[str, bytes]]:
    for name, number in private_numbers(key).items():
        whole = _big_endian(number)
        for form in (whole, *_base64_forms(whole)):
            run = form[8 : 8 + 2 * _LITERALS - 1]
            for start in range(_LITERALS):
                yield f"{name} compressed", run[start : start + _LITERALS]


def _parts(whole: bytes) -> list[bytes]:
    """Return a part of the beginning, the middle and the end: so a torn copy is found too."""
    starts = (0, len(whole) // 2 - _PART_BYTES // 2, len(whole) - _PART_BYTES)
    return [whole[start : start + _PART_BYTES] for start in starts]


def _private_lines(text: str, key: PrivateKey) -> list[str]:
    """Return the lines of a PEM that hold private bytes and none of the certificate."""
    public = base64.b64encode(_public_bytes(key)).decode()
    raw = base64.b64decode("".join(text.splitlines()[1:-1]))
    bodies = text.splitlines()[1:-1]
    found = []
    for number, line in enumerate(bodies):
        piece = raw[number * 48 : number * 48 + 48]
        if len(piece) == 48 and _mostly_private(piece, key) and line not in public:
            found.append(line)
    return found


def _mostly_private(piece: bytes, key: PrivateKey) -> bool:
    """Tell whether ten bytes in a row are of a private number, which makes them unique."""
    private = b"|".join(_big_endian(number) for number in private_numbers(key).values())
    return any(piece[at : at + 10] in private for at in range(len(piece) - 9))


def _public_bytes(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _big_endian(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _base64_forms(part: bytes) -> Iterator[bytes]:
    """Yield ``part`` in base64 that begins 0, 1 or 2 bytes before it, in both alphabets.

    Characters at the edges that encode other bytes too are cut off.
    """
    for before in range(3):
        text = base64.b64encode(b"\0" * before + part)
        cut = text[-(-before * 8 // 6) : (before + len(part)) * 8 // 6]
        yield cut
        yield cut.replace(b"+", b"-").replace(b"/", b"_")
