"""A small reader of DER (X.690).

It shows the kind and the size of a key, and the layout of a certificate, before any library loads
them.
"""

from __future__ import annotations

from typing import NamedTuple

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OID = 0x06
SEQUENCE = 0x30
SET = 0x31
CONTEXT_0 = 0xA0
CONTEXT_1 = 0xA1
MAX_OID_BYTES = 128


class NotDer(ValueError):
    """The bytes are not DER. The text names the position, and never repeats the bytes."""


class DerElement(NamedTuple):
    """A tag, and where its content starts and ends in the bytes that it was read from."""

    tag: int
    start: int
    end: int


def read_element(data: bytes, at: int = 0, end: int | None = None) -> DerElement:
    """Read the element that begins at ``at`` and ends at or before ``end``.

    Only definite, minimal lengths are accepted. Raises NotDer.
    """
    if end is None:
        end = len(data)
    if at + 2 > end:
        raise NotDer(f"an element is cut short at byte {at}")
    length = data[at + 1]
    start = at + 2
    if length >= 0x80:
        size = length & 0x7F
        if not 1 <= size <= 3 or start + size > end:
            raise NotDer(f"a length is not DER at byte {at + 1}")
        length = int.from_bytes(data[start : start + size], "big")
        start += size
        if length < 0x80 or length < 1 << 8 * (size - 1):
            raise NotDer(f"a length is not minimal at byte {at + 1}")
    if start + length > end:
        raise NotDer(f"an element is cut short at byte {at}")
    return DerElement(data[at], start, start + length)


def read_children(data: bytes, parent: DerElement) -> list[DerElement]:
    """Read the elements inside a constructed element. They must fill it; raises NotDer."""
    children = []
    at = parent.start
    while at < parent.end:
        element = read_element(data, at, parent.end)
        children.append(element)
        at = element.end
    return children


def read_sequence(data: bytes) -> list[DerElement]:
    """Read the children of the one SEQUENCE that ``data`` is; raises NotDer."""
    outer = read_element(data)
    if outer.tag != SEQUENCE or outer.end != len(data):
        raise NotDer("not one SEQUENCE")
    return read_children(data, outer)


def read_integer(data: bytes, element: DerElement) -> int:
    """Read an INTEGER that is zero or positive and minimally encoded; raises NotDer."""
    body = data[element.start : element.end]
    if (
        element.tag != INTEGER
        or not body
        or body[0] & 0x80
        or (len(body) > 1 and body[0] == 0 and body[1] < 0x80)
    ):
        raise NotDer(f"not a positive INTEGER at byte {element.start}")
    return int.from_bytes(body, "big")


def read_oid(data: bytes, element: DerElement) -> str:
    """Read an OBJECT IDENTIFIER in dotted form; raises NotDer."""
    body = data[element.start : element.end]
    if element.tag != OID or not 1 <= len(body) <= MAX_OID_BYTES or body[-1] & 0x80:
        raise NotDer(f"not an OBJECT IDENTIFIER at byte {element.start}")
    # Seven bits a byte, the high bit set in all but the last byte of an arc. The first number
    # holds two arcs: 40 * first + second, the first at most 2 (X.690, 8.19.4).
    numbers = []
    value = 0
    for byte in body:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    first_arc = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first_arc, numbers[0] - 40 * first_arc, *numbers[1:]]))


def copy_element(data: bytes, element: DerElement) -> bytes:
    """Return the element with its tag and length."""
    return encode_element(element.tag, data[element.start : element.end])


def encode_element(tag: int, body: bytes) -> bytes:
    """Return the element with its tag and length."""
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def encode_oid(dotted: str) -> bytes:
    """Return the content of an OBJECT IDENTIFIER."""
    first, second, *others = [int(arc) for arc in dotted.split(".")]
    body = b""
    for number in (first * 40 + second, *others):
        digits = [number & 0x7F]
        number >>= 7
        while number:
            digits.append(0x80 | number & 0x7F)
            number >>= 7
        body += bytes(reversed(digits))
    return body
