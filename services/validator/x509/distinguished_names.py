"""Distinguished names, compared as RFC 5280, 7.1 demands.

The kind of string, case and white space make no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from services.validator.x509 import der
from services.validator.x509.der import DerElement, NotDer

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
CanonicalName = tuple[bytes, ...]
"""One item for each relative distinguished name.

Equal names have equal forms; the form of a name that begins with another begins with the other's.
"""


class AttributeTypeAndValue(NamedTuple):
    """An attribute of a name: its type as a dotted OID, its string tag, and its bytes."""

    kind: str
    tag: int
    value: bytes


@lru_cache(maxsize=4096)
def canonical_name(name: bytes) -> CanonicalName:
    """Return the form by which a Name in DER is compared.

    Case is folded in ASCII only, as OpenSSL does. A name that cannot be read equals only itself.
    """
    canonical = []
    try:
        for relative_name in read_relative_names(name):
            comparable = sorted(_comparable_attribute(attribute) for attribute in relative_name)
            canonical.append(repr(comparable).encode())
    except NotDer:
        return (name,)
    return tuple(canonical)


def read_attributes(name: bytes) -> list[AttributeTypeAndValue]:
    """Read all attributes of a Name in DER; raises NotDer."""
    attributes: list[AttributeTypeAndValue] = []
    for relative_name in read_relative_names(name):
        attributes += relative_name
    return attributes


def read_relative_names(name: bytes) -> Iterator[list[AttributeTypeAndValue]]:
    """Read the relative names of a Name in DER, each with its attributes; raises NotDer."""
    for element in der.read_sequence(name):
        if element.tag != der.SET:
            raise NotDer("a relative name is no SET")
        children = der.read_children(name, element)
        yield [_read_attribute(name, child) for child in children]


# The short names of RFC 4514, 3 and the ones that the library adds.
_SHORT_NAMES = {
    "2.5.4.3": "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.25": "DC",
    "0.9.2342.19200300.100.1.1": "UID",
}
_ESCAPED = frozenset(',+"\\<>;')


@lru_cache(maxsize=1024)
def describe_name(name: bytes) -> str:
    """Return a Name in DER as RFC 4514 text, for findings; ``?`` where it cannot be read."""
    try:
        relative_names = list(read_relative_names(name))
    except NotDer:
        return "?"
    shown = []
    for relative_name in reversed(relative_names):
        parts = []
        for attribute in relative_name:
            kind = _SHORT_NAMES.get(attribute.kind, attribute.kind)
            parts.append(f"{kind}={_escape(_text_of(attribute))}")
        shown.append("+".join(parts))
    return ",".join(shown)


def name_values(name: bytes) -> list[tuple[str, str]]:
    """Return the type (a dotted OID) and the text of each attribute of a Name in DER."""
    try:
        return [(attribute.kind, _text_of(attribute)) for attribute in read_attributes(name)]
    except NotDer:
        return []


def _text_of(attribute: AttributeTypeAndValue) -> str:
    encoding = _ENCODINGS.get(attribute.tag, "ascii")
    return attribute.value.decode(encoding, "replace")


def _escape(text: str) -> str:
    escaped = "".join(
        "\\" + character if character in _ESCAPED else character for character in text
    )
    if escaped.startswith(("#", " ")):
        escaped = "\\" + escaped
    if escaped.endswith(" ") and not escaped.endswith("\\ "):
        escaped = escaped[:-1] + "\\ "
    return escaped


def _read_attribute(name: bytes, element: DerElement) -> AttributeTypeAndValue:
    parts = der.read_children(name, element)
    if len(parts) != 2:
        raise NotDer("an attribute is no pair")
    kind, value = parts
    return AttributeTypeAndValue(der.read_oid(name, kind), value.tag, name[value.start : value.end])


def _comparable_attribute(attribute: AttributeTypeAndValue) -> tuple[str, int, bytes]:
    encoding = _ENCODINGS.get(attribute.tag)
    if encoding is not None:
        try:
            text = attribute.value.decode(encoding).encode("utf-8")
            return attribute.kind, 0, b" ".join(text.split()).lower()
        except UnicodeError:
            pass
    return attribute.kind, attribute.tag, attribute.value
