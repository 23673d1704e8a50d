"""Distinguished names as RFC 5280, 7.1 compares them: the kind of string, case and white space make
no difference. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from services.validator.x509 import der

EMAIL = "1.2.840.113549.1.9.1"
IA5_STRING = 0x16
_ENCODINGS = {
    0x0C: "utf-8",
    0x13: "latin-1",
    0x14: "latin-1",
    IA5_STRING: "latin-1",
    0x1A: "latin-1",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}
Canonical = tuple[bytes, ...]
"""One item for each relative name. Equal names have equal forms; one that is the beginning of
another holds it."""


class Attribute(NamedTuple):
    kind: str
    tag: int
    value: bytes


@lru_cache(maxsize=4096)
def canonical(name: bytes) -> Canonical:
    """Of a Name in DER. Case is folded in ASCII alone, as OpenSSL does; what cannot be read stands
    for itself."""
    try:
        return tuple(
            repr(sorted(_comparable(attribute) for attribute in relative)).encode()
            for relative in _relatives(name)
        )
    except der.NotDer:
        return (name,)


def attributes(name: bytes) -> list[Attribute]:
    """Of a Name in DER; NotDer."""
    return [attribute for relative in _relatives(name) for attribute in relative]


def _relatives(name: bytes) -> Iterator[list[Attribute]]:
    for relative in der.whole(name):
        if relative.tag != der.SET:
            raise der.NotDer("a relative name is no SET")
        yield [_attribute(name, element) for element in der.children(name, relative)]


def _attribute(name: bytes, element: der.Element) -> Attribute:
    parts = der.children(name, element)
    if len(parts) != 2:
        raise der.NotDer("an attribute is no pair")
    return Attribute(der.oid(name, parts[0]), parts[1].tag, name[parts[1].start : parts[1].end])


def _comparable(attribute: Attribute) -> tuple[str, int, bytes]:
    encoding = _ENCODINGS.get(attribute.tag)
    if encoding is not None:
        try:
            text = attribute.value.decode(encoding).encode("utf-8")
            return attribute.kind, 0, b" ".join(text.split()).lower()
        except UnicodeError:
            pass
    return attribute.kind, attribute.tag, attribute.value
