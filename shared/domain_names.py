"""Domain names as they are stored: lower-case A-labels (rule A3)."""

from __future__ import annotations

import re
from typing import Final

import idna

from shared.contracts.findings import Code, finding
from shared.errors import Refused

WILDCARD: Final = "*"
_NAME_LENGTH, _LABEL_LENGTH = 253, 63
_TEXT_LENGTH: Final = (
    1000  # no name is shorter in A-labels: what is longer is not even looked through
)
_LABEL: Final = r"(?!..--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# Nearly every name is normal already: a fifth of what a command costs was to find that out letter
# by letter.
_PLAIN: Final = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)+(?![0-9]+\Z){_LABEL}")
_LDH: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def normalise(text: str) -> str:
    """Return a domain name in its stored form: ``Bücher.Example`` -> ``xn--bcher-kva.example``.

    ``*`` is allowed only as the whole first label, with two labels under it. Refused with
    ``domain.invalid``; the message names the position (from 1, in ``text``) of the first fault."""
    if len(text) <= _NAME_LENGTH and _PLAIN.fullmatch(text):
        return text
    if not text:
        raise _refusal(1, "the name is empty")
    if len(text) > _TEXT_LENGTH:
        raise _refusal(
            _NAME_LENGTH + 1, f"the name has {len(text)} characters, {_NAME_LENGTH} at most"
        )
    labels, position = [], 1
    parts = text.split(".")
    for index, part in enumerate(parts):
        wildcard = index == 0 and part == WILDCARD
        labels.append(WILDCARD if wildcard else a_label(part, position))
        position += len(part) + 1
    plain = labels[1:] if labels[0] == WILDCARD else labels
    if len(plain) < 2:
        raise _refusal(
            len(text),
            "at least two labels are needed" + (" under *" if plain is not labels else ""),
        )
    if plain[-1].isdigit():
        raise _refusal(
            len(text) - len(parts[-1]) + 1, "the last label is a number: an address is not a domain"
        )
    name = ".".join(labels)
    if len(name) > _NAME_LENGTH:
        raise _refusal(
            min(len(text), _NAME_LENGTH + 1),
            f"the name has {len(name)} characters, {_NAME_LENGTH} at most",
        )
    return name


def a_label(label: str, position: int) -> str:
    """Return one label as a lower-case A-label. ``position``: where it begins, for the refusal."""
    if not label:
        raise _refusal(position, "a label is empty")
    lowered = "".join(_lower_each(character) for character in label)
    for offset, character in enumerate(lowered):
        if character.isascii() and character not in _LDH:
            raise _refusal(position + offset, f"{_shown_character(character)} is not allowed")
    if lowered.startswith("-"):
        raise _refusal(position, "a label begins with a hyphen")
    if lowered.endswith("-"):
        raise _refusal(position + len(lowered) - 1, "a label ends with a hyphen")
    if lowered.isascii() and not lowered.startswith("xn--"):
        return _plain_label(lowered, position)
    return _to_a_label(lowered, position)


def _plain_label(label: str, position: int) -> str:
    if len(label) > _LABEL_LENGTH:
        raise _refusal(
            position + _LABEL_LENGTH,
            f"a label has {len(label)} characters, {_LABEL_LENGTH} at most",
        )
    if label[2:4] == "--":
        raise _refusal(position + 2, "hyphens in the third and fourth place are kept for xn--")
    return label


def _to_a_label(label: str, position: int) -> str:
    try:
        return idna.alabel(label).decode("ascii")
    except idna.IDNAError as error:
        inside = getattr(error, "position", None) if not label.isascii() else None
        raise _refusal(position + (inside or 1) - 1, "not a label of IDNA 2008") from None


def _lower_each(character: str) -> str:
    """Lower each character alone.

    One character stays one, so that positions hold, and none becomes ASCII that was not (the
    Kelvin sign is no k)."""
    lowered = character.lower()
    return lowered if len(lowered) == 1 and lowered.isascii() == character.isascii() else character


def _shown_character(character: str) -> str:
    return repr(character) if character.isprintable() else f"U+{ord(character):04X}"


def _refusal(position: int, why: str) -> Refused:
    return Refused(
        [finding(Code.DOMAIN_INVALID, f"At position {position}: {why}.", field="domain")]
    )
