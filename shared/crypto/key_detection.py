"""Detection of private keys in clear, so that a key in the wrong field is not kept (rule C1).

Found: PEM of any kind; PKCS #8, PKCS #1 and SEC 1 as DER, in base64 or hexadecimal; OpenSSH's
form; a JWK. Each is also found inside JSON, inside JSON in JSON, and PEM in base64 once more.
Not found: a key's bare numbers, or a part without its head.

It may be wrong about a text that only mentions a private key: what it guards is dropped too
often, not too seldom."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Final

_LEVELS: Final = 4
_ESCAPE: Final = re.compile(rb"\\(?:u([0-9A-Fa-f]{4})|(.))", re.DOTALL)
_SHORT: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"", b"f": b""}
_SPACE: Final = b" \t\r\n\0"
_PEM: Final = re.compile(rb"PRIVATE.{0,6}KEY", re.DOTALL)
_JWK: Final = re.compile(rb'"d"\s*:')
# SEQUENCE, its length, INTEGER 0 or 1, and what follows in PKCS #8, PKCS #1, SEC 1: a certificate
# has no INTEGER there.
_DER: Final = re.compile(
    rb"0(?:\x82..|\x81.|[\x00-\x7f])\x02\x01(?:\x00[0\x02]|\x01[0\x04])", re.DOTALL
)
_HEX: Final = re.compile(
    rb"30(?:82[0-9a-f]{4}|81[0-9a-f]{2}|[0-7][0-9a-f])0201(?:00(?:30|02)|01(?:30|04))"
)
# The same in base64, by the length of the length; each begins with letters that a search can leap
# to.
_LONG: Final = re.compile(rb"MII.{2}[AQgw]IBA[ADQT]")
_MIDDLE: Final = re.compile(rb"MI[GH].AgE[AB]")
_BRIEF: Final = re.compile(rb"CAQ(?:Aw|EE|AC|Ew)")
_BEFORE_BRIEF: Final = re.compile(rb"M[A-H].")


def _inside_base64(word: bytes) -> Iterator[bytes]:
    """Yield how base64 writes ``word`` when it begins 0, 1 or 2 bytes into a group, without the
    letters that it shares with its neighbours."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + word)
        yield text[-(-before * 8 // 6) : (before + len(word)) * 8 // 6]


_OPENSSH: Final = b"openssh-key-v1"
_CODED: Final = (*_inside_base64(b"PRIVATE KEY"), *_inside_base64(_OPENSSH))


def contains_private_key(data: bytes) -> bool:
    """Return whether ``data`` holds a private key in clear, in one of the forms above."""
    return any(_looks_like_key(reading) for reading in _json_readings(data))


def _json_readings(data: bytes) -> Iterator[bytes]:
    """Yield the bytes, then what they are when read as JSON strings, level by level."""
    for _ in range(_LEVELS):
        yield data
        if b"\\" not in data:
            return
        data = _ESCAPE.sub(_unescape, data)


def _unescape(match: re.Match[bytes]) -> bytes:
    if match[1]:
        return chr(int(match[1], 16)).encode(errors="replace")
    return _SHORT.get(match[2], match[2])


def _looks_like_key(data: bytes) -> bool:
    dense = data.translate(None, _SPACE)
    return bool(
        _PEM.search(dense.upper())
        or _LONG.search(dense)
        or _MIDDLE.search(dense)
        or _is_brief(dense)
        or _OPENSSH in dense
        or any(word in dense for word in _CODED)
        or (not data.isascii() and _DER.search(data))
        or (b'"kty"' in data and _JWK.search(data))
        or _HEX.search(data.translate(None, _SPACE + b":,").lower())
    )


def _is_brief(dense: bytes) -> bool:
    return any(
        _BEFORE_BRIEF.fullmatch(dense, found.start() - 3, found.start())
        for found in _BRIEF.finditer(dense)
        if found.start() >= 3
    )
