"""What RFC 5280, 4.1 and the CA/Browser Forum demand of the form of every certificate, and clients
hold CAs to.

Pure."""

from __future__ import annotations

from collections.abc import Iterator

from services.validator.x509 import der
from services.validator.x509.der_layout import Layout, layout

MAX_SERIAL = 20
GENERALIZED_TIME = 0x18
_SHA_2 = ("608648016503040201", 32), ("608648016503040202", 48), ("608648016503040203", 64)
# As the algorithms stand in a certificate, byte for byte: PKCS #1 v1.5, ECDSA and PSS, each with
# SHA-256, 384, 512.
ALGORITHMS = frozenset(
    [bytes.fromhex(f"06092a864886f70d0101{last}0500") for last in ("0b", "0c", "0d")]
    + [bytes.fromhex(f"06082a8648ce3d0403{last}") for last in ("02", "03", "04")]
    + [
        bytes.fromhex(
            f"06092a864886f70d01010a3034a00f300d0609{digest}0500a11c301a06092a864886f70d010108300d0609{digest}0500"
            f"a2030201{salt:02x}"
        )
        for digest, salt in _SHA_2
    ]
)


def faults(data: bytes) -> Iterator[str]:
    """What is wrong with the form of a certificate (its DER), each as a clause for people."""
    try:
        found = layout(data)
        yield from _serial(data[found.serial.start : found.serial.end])
        yield from _algorithms(data, found)
        yield from _times(data, found)
        if found.issuer.start == found.issuer.end:
            yield "names no issuer"
    except der.NotDer:
        yield "is not DER"


def _serial(number: bytes) -> Iterator[str]:
    if number[:1] >= b"\x80":
        yield "has a negative serial number"
    if len(number) > MAX_SERIAL:
        yield f"has a serial number of {len(number)} octets, of which {MAX_SERIAL} are allowed"


def _algorithms(data: bytes, found: Layout) -> Iterator[str]:
    inner = data[found.signed_algorithm.start : found.signed_algorithm.end]
    outer = data[found.algorithm.start : found.algorithm.end]
    if inner != outer:
        yield "names two signature algorithms that differ"


def _times(data: bytes, found: Layout) -> Iterator[str]:
    for time in der.children(data, found.validity):
        if time.tag == GENERALIZED_TIME and data[time.start : time.start + 4] < b"2050":
            yield "writes a year before 2050 as GeneralizedTime"
            return


def signed_as_usual(data: bytes) -> bool:
    """Is its signature's algorithm one that clients accept, written as they expect it?"""
    try:
        found = layout(data)
    except der.NotDer:
        return False
    return data[found.algorithm.start : found.algorithm.end] in ALGORITHMS
