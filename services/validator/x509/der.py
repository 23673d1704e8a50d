"""A small reader of DER (X.690): enough to see what a key is, and how large, before any library
loads it."""

from __future__ import annotations

from typing import NamedTuple

INTEGER, BIT_STRING, OCTET_STRING, NULL, OID, SEQUENCE, SET = (
    0x02,
    0x03,
    0x04,
    0x05,
    0x06,
    0x30,
    0x31,
)
CONTEXT_0, CONTEXT_1 = 0xA0, 0xA1


class NotDer(ValueError):
    """The bytes are not DER; the text says where, never what."""


class Element(NamedTuple):
    """A tag with the borders of its content in the bytes it was read from."""

    tag: int
    start: int
    end: int


def read(data: bytes, at: int = 0, end: int | None = None) -> Element:
    """The element that begins at ``at``. Definite, minimal lengths only, and inside ``end``."""
    end = len(data) if end is None else end
    if at + 2 > end:
        raise NotDer(f"an element is cut short at byte {at}")
    tag, length, start = data[at], data[at + 1], at + 2
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
    return Element(tag, start, start + length)


def children(data: bytes, parent: Element) -> list[Element]:
    """The elements inside a constructed one, which they must fill."""
    found, at = [], parent.start
    while at < parent.end:
        element = read(data, at, parent.end)
        found.append(element)
        at = element.end
    return found


def whole(data: bytes) -> list[Element]:
    """The children of the one SEQUENCE that ``data`` is."""
    outer = read(data)
    if outer.tag != SEQUENCE or outer.end != len(data):
        raise NotDer("not one SEQUENCE")
    return children(data, outer)


def integer(data: bytes, element: Element) -> int:
    """A positive INTEGER or zero, minimally encoded."""
    body = data[element.start : element.end]
    if (
        element.tag != INTEGER
        or not body
        or body[0] & 0x80
        or (len(body) > 1 and body[0] == 0 and body[1] < 0x80)
    ):
        raise NotDer(f"not a positive INTEGER at byte {element.start}")
    return int.from_bytes(body, "big")


def oid(data: bytes, element: Element) -> str:
    """An OBJECT IDENTIFIER in dotted form."""
    body = data[element.start : element.end]
    if element.tag != OID or not 1 <= len(body) <= 32 or body[-1] & 0x80:
        raise NotDer(f"not an OBJECT IDENTIFIER at byte {element.start}")
    arcs, value = [], 0
    for byte in body:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    top = min(arcs[0] // 40, 2)
    return ".".join(map(str, [top, arcs[0] - 40 * top, *arcs[1:]]))


def tlv(tag: int, body: bytes) -> bytes:
    """An element with its length."""
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body
