"""What programs and forms do to PEM text on its way, undone where it is unambiguous (rule D2).

PEM is letters, digits, ``+ / =``, hyphens and line ends. Each form below leaves marks that no PEM
has, so undoing it cannot change a text that was not damaged.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

from services.validator.text.pem import PemOddity

MAX_ROUNDS = 4  # a text may be damaged in several ways, one after the other

_ESCAPES = re.compile(r"\\{1,4}(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|(r\\+n|n|r|t|/|\"|'|\r?\n))")
_SIMPLE_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "/": "/", '"': '"', "'": "'"}
_PERCENT = re.compile(r"%(0[AaDd]|2[0BbDdFf]|3[Dd])")
_ANY_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})")
_QUOTED_PRINTABLE = re.compile(r"=(?:3D|0A|0D|2D|2B|2F|20)")
_ANY_QUOTED_PRINTABLE = re.compile(r"=(?:([0-9A-F]{2})|[ \t]*\r?\n)")
_ENTITY = re.compile(r"&(?:#[0-9]{2,4}|#[xX][0-9A-Fa-f]{1,4}|plus|sol|equals|NewLine|nbsp|amp);")
_LINE_BREAK_TAG = re.compile(r"</?(?:br|p|pre|div|code)\s*/?>", re.IGNORECASE)
_ENCODED_PEM = re.compile(  # base64 of -----BEGIN, on one line or several
    r"LS0tLS1CRUdJTi[A-Za-z0-9+/_-]*(?:\s+[A-Za-z0-9+/_-]{20,})*={0,2}"
    r"(?:\s+[A-Za-z0-9+/_-]+={0,2}(?=\s|$))?"
)
_HEX_PEM = re.compile(r"(?:2[dD][\s:]*){5}42[\s:]*45[\s:]*47[\s:]*49[\s:]*4[eE][0-9A-Fa-f\s:]*")
_ENCODED_LINE_ENDS = re.compile(r"(?:\\{1,4}[rn]|%0[AaDd]|&#1[03];|=0[AD]|<br>)*")
_TWO_HYPHENS = "\u2d2d\u2d2d"  # UTF-16 read in pairs of bytes: -- in one character
_LINE_SEPARATORS = re.compile("[\u0085\u2028\u2029\v\f]")
_STRING_MARKS = re.compile(r"[\"'`](?:[ \t]*[+.,;\\](?=[ \t]*$))?", re.MULTILINE)
_QUOTE_PREFIX = re.compile(r"^[ \t]*[>|][>| \t]*", re.MULTILINE)
# Nearly every text is of these characters alone, and has no = but as padding.
_CLEAN = re.compile(r"[A-Za-z0-9+/=\-\n\r\t :.,_#()*@!?;\[\]{}~^$]*")
_NO_PADDING = re.compile(r"=[0-9A-F]{2}")
_PEM_MARK = re.compile(r"-----(?:BEGIN|END) ")


@dataclass(frozen=True)
class RepairedText:
    """A text as it was before it was damaged, and the kinds of damage; ``repr`` hides the text."""

    text: str = field(repr=False)
    repairs: tuple[PemOddity, ...] = ()


def repair_text(text: str) -> RepairedText:
    """Undo every kind of damage that is found.

    A text comes back as it is without damage, or where no PEM comes of it: then it may be another
    format.
    """
    if _CLEAN.fullmatch(text) and not _NO_PADDING.search(text) and _PEM_MARK.search(text):
        return RepairedText(text)
    original = text
    repairs: list[PemOddity] = []
    for _ in range(MAX_ROUNDS):
        before = text
        for oddity, repair in _REPAIRS:
            is_of_all = oddity in _REPAIRS_OF_ALL
            repaired = repair(text) if is_of_all else _within_marks(text, repair)
            if repaired != text:
                text = repaired
                if oddity not in repairs:
                    repairs.append(oddity)
        if text == before:
            break
    if not _PEM_MARK.search(text):
        return RepairedText(original)
    return RepairedText(text, tuple(repairs))


def _within_marks(text: str, repair: Callable[[str], str]) -> str:
    """Apply ``repair`` from the first mark to the last, or to the whole text without marks.

    What stands around the blocks is the writer's own, and is left alone.
    """
    first = _PEM_MARK.search(text)
    if first is None:
        return repair(text)
    last_mark = text.rfind("-----") + len("-----")
    encoded_line_ends = _ENCODED_LINE_ENDS.match(text, last_mark)
    end = encoded_line_ends.end() if encoded_line_ends else last_mark
    return text[: first.start()] + repair(text[first.start() : end]) + text[end:]


def _decode_utf16(text: str) -> str:
    if "\0" in text:
        # UTF-16 that was read byte by byte: every second character is NUL.
        return text.replace("\0", "").lstrip("\ufffd\xff\xfe")
    if _TWO_HYPHENS in text:
        for encoding in ("utf-16-le", "utf-16-be"):
            decoded = text.encode(encoding, "replace").decode("latin-1")
            if _PEM_MARK.search(decoded):
                return decoded
    return text


def _fold_full_width(text: str) -> str:
    if not any("\uff01" <= character <= "\uff5e" for character in text):
        return text
    folded = []
    for character in text:
        if "\uff01" <= character <= "\uff5e" and character != "\uff0d":
            character = chr(ord(character) - 0xFEE0)
        folded.append(character)
    return "".join(folded)


def _drop_invisible(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    text = _LINE_SEPARATORS.sub("\n", text)
    kept = []
    for character in text:
        if character in "\t\n\r" or " " <= character <= "~" or character == "\ufeff":
            kept.append(character)
            continue
        kind = unicodedata.category(character)
        if kind == "Zs":
            kept.append(" ")
        elif kind not in ("Cf", "Cc"):
            kept.append(character)
    return "".join(kept)


def _decode_escapes(text: str) -> str:
    if "\\" not in text:
        return text

    def decode(match: re.Match[str]) -> str:
        code = match[1] or match[2]
        if code:
            return chr(int(code, 16))
        if match[3].startswith("r\\"):
            return "\n"
        return _SIMPLE_ESCAPES.get(match[3], "")  # a backslash at the end of a line joins two

    return _ESCAPES.sub(decode, text)


def _decode_percent(text: str) -> str:
    if not _PERCENT.search(text):
        return text
    if re.search(r"-----BEGIN\+|BEGIN\+[A-Z]", text):
        text = text.replace("+", " ")  # a form writes a space as + and a plus as %2B
    return _ANY_PERCENT.sub(lambda match: chr(int(match[1], 16)), text)


def _decode_quoted_printable(text: str) -> str:
    if not _QUOTED_PRINTABLE.search(text):
        return text

    def decode(match: re.Match[str]) -> str:
        return chr(int(match[1], 16)) if match[1] else ""

    return _ANY_QUOTED_PRINTABLE.sub(decode, text)


def _decode_entities(text: str) -> str:
    if _ENTITY.search(text):
        text = html.unescape(text)
    if _LINE_BREAK_TAG.search(text):
        text = _LINE_BREAK_TAG.sub("\n", text)
    return text


def _decode_base64(text: str) -> str:
    if _PEM_MARK.search(text):
        return text  # what is encoded beside a block is not the field's own content
    # What stands around it, such as the name of a YAML key, stays as text around the blocks.
    return _ENCODED_PEM.sub(lambda match: decode_encoded_pem(match[0]) or match[0], text)


def decode_encoded_pem(encoded: str) -> str | None:
    """Decode base64 that begins as PEM text does; None where it cannot be decoded."""
    packed = "".join(encoded.split()).replace("-", "+").replace("_", "/")
    packed = packed.rstrip("=")
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4)).decode("latin-1")
    except (binascii.Error, ValueError):
        return None


def _decode_hex(text: str) -> str:
    if _PEM_MARK.search(text):
        return text
    match = _HEX_PEM.search(text)
    if match is None:
        return text
    digits = re.sub(r"[^0-9A-Fa-f]", "", match[0])
    decoded = bytes.fromhex(digits[: len(digits) // 2 * 2]).decode("latin-1")
    return text[: match.start()] + decoded + text[match.end() :]


def _drop_string_marks(text: str) -> str:
    """Drop quotation marks, and what joins the lines of a string in a program's source."""
    return _STRING_MARKS.sub("", text) if _PEM_MARK.search(text) else text


def _drop_quote_prefix(text: str) -> str:
    """Drop the marks at the beginning of each line of a quoted e-mail or a table."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or not all(_QUOTE_PREFIX.match(line) for line in lines):
        return text
    return _QUOTE_PREFIX.sub("", text)


# In this order: what changes single characters comes before what looks for marks of PEM.
_REPAIRS_OF_ALL = (
    PemOddity.QUOTE_PREFIX,
    PemOddity.UTF16,
    PemOddity.FULL_WIDTH,
    PemOddity.INVISIBLE,
)
"""They are applied to the whole text: a mark may be unreadable before."""
_REPAIRS: tuple[tuple[PemOddity, Callable[[str], str]], ...] = (
    (PemOddity.QUOTE_PREFIX, _drop_quote_prefix),
    (PemOddity.UTF16, _decode_utf16),
    (PemOddity.FULL_WIDTH, _fold_full_width),
    (PemOddity.INVISIBLE, _drop_invisible),
    (PemOddity.ESCAPED, _decode_escapes),
    (PemOddity.FORM, _decode_percent),
    (PemOddity.ENTITIES, _decode_entities),
    (PemOddity.ENCODED, _decode_base64),
    (PemOddity.HEX, _decode_hex),
    (PemOddity.QUOTED_PRINTABLE, _decode_quoted_printable),
    (PemOddity.STRING_MARKS, _drop_string_marks),
)


def find_encoded_pem(text: str) -> list[str]:
    """Return what each run of base64 of PEM text in ``text`` decodes to."""
    found = []
    for match in _ENCODED_PEM.finditer(text):
        decoded = decode_encoded_pem(match[0])
        if decoded is not None:
            found.append(decoded)
    return found
