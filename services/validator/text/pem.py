"""A tokeniser of PEM (RFC 7468).

It reads any text in linear time, repairs what can be repaired, and reports each repair and every
block. A library's reader is too tolerant: it skips a private key among certificates. No message
repeats the text.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

CERTIFICATE = "CERTIFICATE"
KEY_SUFFIX = "PRIVATE KEY"
LINE_LENGTH = 64
DAMAGED_BEGIN = "has a damaged BEGIN line"

_MARK = re.compile(r"-----(BEGIN|END) ([A-Z0-9][A-Z0-9 #.]{0,63})-----")
# A BEGIN or END line that is not as RFC 7468 writes it: other dashes, too few, or no label. It
# stands on a line of its own, or between dashes.
_DASH = r"[-\u00ad\u2010-\u2015\u2212\u2500\u2501\ufe58\ufe63\uff0d_=~]"
# Every repetition is bounded, so the search is linear in the length of the text.
_DAMAGED_MARK = re.compile(
    rf"^[ \t>|]{{0,16}}(?P<a>{_DASH}{{0,12}})[ \t]{{0,4}}(?P<kind>BEGIN|END)[ \t]{{0,4}}"
    rf"(?P<label>[A-Z0-9 .#+]{{0,64}}?)[ \t]{{0,4}}(?P<b>{_DASH}{{0,12}})[ \t]{{0,4}}$"
    rf"|{_DASH}{{2,12}}[ \t]{{0,4}}(?P<kind2>BEGIN|END)[ \t]{{0,4}}"
    rf"(?P<label2>[A-Z0-9 .#+]{{0,64}}?)[ \t]{{0,4}}{_DASH}{{2,12}}",
    re.MULTILINE | re.IGNORECASE,
)
_KNOWN_LABEL = re.compile(r"CERTIFICATE|PRIVATE ?KEY", re.IGNORECASE)
_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/=\s]")
_CANONICAL_BODY = re.compile(r"\n(?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/=]{1,64}\n")
_BEGIN = "-----BEGIN "
_END = "-----END "
_BYTE_ORDER_MARK = "\ufeff"


class PemOddity(StrEnum):
    """A deviation from canonical PEM that was repaired; strict mode refuses it (rule D2).

    The value is its name in findings.
    """

    BOM = "a byte order mark"
    CRLF = "CRLF line ends"
    CR = "CR line ends"
    BLANK_LINES = "blank lines"
    WHITE_SPACE = "white space at the ends of lines"
    LINE_LENGTHS = "lines that are not 64 characters long"
    ONE_LINE = "a block that is not on lines of its own"
    HEADERS = "headers inside a block"
    TEXT = "text around the blocks"
    MARK = "white space inside a BEGIN or END line"
    INSIDE = "white space inside a line"
    PADDING = "base64 whose last bits are not zero"
    FORM_SPACES = "spaces in place of plus signs, as a form leaves them"
    UTF16 = "UTF-16 that was read as another encoding"
    FULL_WIDTH = "full-width characters"
    INVISIBLE = "invisible characters, or spaces of another kind"
    ESCAPED = "line ends or characters written as escapes (\\n as two characters)"
    FORM = "percent encoding, as of a form"
    ENTITIES = "HTML entities or tags"
    ENCODED = "base64 of the PEM text"
    HEX = "hexadecimal digits of the PEM text"
    QUOTED_PRINTABLE = "quoted-printable encoding, as of an e-mail"
    STRING_MARKS = "quotation marks"
    QUOTE_PREFIX = "marks of a quotation at the beginning of lines"
    LABEL = "a label that does not fit its block"
    REPEATED = "a certificate that stands twice"


@dataclass(frozen=True, slots=True)
class PemBlock:
    """A readable block: its index (from 0), its label and its decoded body.

    ``repr`` hides the body. The body of a block with legacy encryption is empty.
    """

    index: int
    label: str
    body: bytes = field(repr=False)
    encrypted: bool = False

    @property
    def is_key(self) -> bool:
        return self.label.endswith(KEY_SUFFIX)


@dataclass(frozen=True, slots=True)
class FaultyBlock:
    """A block that cannot be read, and why."""

    index: int
    label: str
    reason: str

    @property
    def is_key(self) -> bool:
        return self.label.endswith(KEY_SUFFIX)


@dataclass(frozen=True, slots=True)
class PemDocument:
    """The contents of a text.

    ``oddities``: each oddity once, with the index of the first block that has it, or None outside
    of blocks. ``outside_texts``: every piece of text that is not in the body of a readable block;
    ``repr`` hides them.
    """

    blocks: tuple[PemBlock, ...]
    faults: tuple[FaultyBlock, ...]
    oddities: tuple[tuple[PemOddity, int | None], ...]
    outside_texts: tuple[str, ...] = field(default=(), repr=False)


def count_blocks(text: str) -> int:
    """Count the BEGIN marks or the END marks of ``text``, whichever are more.

    This is cheap: call it before ``tokenise`` to enforce a limit.
    """
    return max(text.count(_BEGIN), text.count(_END))


def encode_block(label: str, body: bytes) -> str:
    """Return canonical PEM: lines of 64 characters, LF line ends, one LF at the end."""
    encoded = base64.b64encode(body).decode("ascii")
    lines = [encoded[at : at + LINE_LENGTH] for at in range(0, len(encoded), LINE_LENGTH)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def tokenise(text: str, repairs: Iterable[PemOddity] = ()) -> PemDocument:
    """Split ``text`` into blocks, faulty blocks and oddities. Any text has a result.

    ``repairs``: what was put right in the text before.
    """
    return _Tokeniser(text, repairs).read_document()


class _Tokeniser:
    def __init__(self, text: str, repairs: Iterable[PemOddity]) -> None:
        self._blocks: list[PemBlock] = []
        self._faults: list[FaultyBlock] = []
        self._oddities: dict[PemOddity, int | None] = {}
        self._outside_texts: list[str] = []
        for repair in repairs:
            self._note_oddity(repair, None)
        self._text = self._unify_line_ends(text)

    def read_document(self) -> PemDocument:
        # One pass over the BEGIN and END marks. ``opened`` is the BEGIN mark of the current block,
        # or None between blocks. ``gap_start`` is where the text since the last block begins.
        # ``index`` counts the BEGIN marks from 0, so a faulty block has an index as well.
        #
        # Invariant: each character of the text is in the body of a readable block, in a mark, or
        # in ``_outside_texts`` (gaps, headers, bodies of faulty blocks; blank gaps are left out).
        # The search for hidden private keys (rule D3) relies on it: a key that this tokeniser
        # takes for something else must still be seen by embedded_keys.
        opened: re.Match[str] | None = None
        index = -1
        gap_start = 0
        for mark in _MARK.finditer(self._text):
            if mark[1] == "BEGIN":
                if opened:
                    body = self._text[opened.end() : mark.start()]
                    index = self._add_unended(index, opened, body)
                else:
                    gap = self._text[gap_start : mark.start()]
                    index = self._check_gap(gap, index, first=index < 0)
                opened = mark
                index += 1
            elif opened:
                self._close_block(index, opened, mark)
                opened = None
                gap_start = mark.end()
            else:
                body = self._text[gap_start : mark.start()]
                index = self._add_unbegun(index, mark, body)
                gap_start = mark.end()
        if opened:
            self._add_unended(index, opened, self._text[opened.end() :])
        else:
            self._check_gap(self._text[gap_start:], index, last=True)
        return PemDocument(
            tuple(self._blocks),
            tuple(self._faults),
            tuple(self._oddities.items()),
            tuple(self._outside_texts),
        )

    def _add_fault(self, index: int, mark: re.Match[str], reason: str, body: str) -> None:
        self._faults.append(FaultyBlock(index, _clean_label(mark), reason))
        self._outside_texts.append(body)

    def _add_unended(self, index: int, opened: re.Match[str], body: str) -> int:
        """Add a block whose END line is not found; return the index of the last block so far."""
        damaged = _damaged_marks(body)
        ends = [found for found in damaged if not found.is_begin]
        reason = "has a damaged END line" if ends else "has no END line"
        self._add_fault(index, opened, reason, body)
        for found in damaged:
            if found.is_begin:
                index += 1
                self._faults.append(FaultyBlock(index, found.label, DAMAGED_BEGIN))
        return index

    def _add_unbegun(self, index: int, mark: re.Match[str], body: str) -> int:
        """Add the blocks before an END line without its BEGIN; return the last one's index."""
        begins = [found for found in _damaged_marks(body) if found.is_begin]
        self._outside_texts.append(body)
        for found in begins:
            index += 1
            self._faults.append(FaultyBlock(index, found.label, DAMAGED_BEGIN))
        if not begins:
            index += 1
            self._faults.append(FaultyBlock(index, _clean_label(mark), "has no BEGIN line"))
        return index

    def _note_oddity(self, oddity: PemOddity, index: int | None) -> None:
        self._oddities.setdefault(oddity, index)

    def _unify_line_ends(self, text: str) -> str:
        if _BYTE_ORDER_MARK in text:
            self._note_oddity(PemOddity.BOM, None)
            text = text.replace(_BYTE_ORDER_MARK, "")
        if "\r\n" in text:
            self._note_oddity(PemOddity.CRLF, None)
            text = text.replace("\r\n", "\n")
        if "\r" in text:
            self._note_oddity(PemOddity.CR, None)
            text = text.replace("\r", "\n")
        return text

    def _check_gap(self, gap: str, index: int, *, first: bool = False, last: bool = False) -> int:
        """Note what stands between two blocks, before the first or after the last.

        Return the index of the last block so far: a block whose marks are damaged counts.
        """
        place = index if index >= 0 else None
        line_ends = gap.count("\n")
        if gap.strip():
            self._outside_texts.append(gap)
            begins = [found for found in _damaged_marks(gap) if found.is_begin]
            for found in begins:
                index += 1
                self._faults.append(FaultyBlock(index, found.label, DAMAGED_BEGIN))
            if not begins:
                self._note_oddity(PemOddity.TEXT, place)
        elif line_ends > (0 if first else 1):
            self._note_oddity(PemOddity.BLANK_LINES, place)
        elif gap.strip("\n"):
            self._note_oddity(PemOddity.WHITE_SPACE, place)
        if not line_ends and not first and not last:
            self._note_oddity(PemOddity.ONE_LINE, place)
        return index

    def _close_block(self, index: int, begin: re.Match[str], end: re.Match[str]) -> None:
        raw = self._text[begin.end() : end.start()]
        label = begin[2]
        if label != end[2] or label[-1] == " " or "  " in label:
            label = _clean_label(begin)
            if label != _clean_label(end):
                self._add_fault(index, begin, "ends with another label", raw)
                return
            self._note_oddity(PemOddity.MARK, index)
        if "Proc-Type:" in raw or "DEK-Info:" in raw:
            self._blocks.append(PemBlock(index, label, b"", encrypted=True))
            return
        plus_body = _decode_with_plus_signs(raw)
        if plus_body is not None:
            self._note_oddity(PemOddity.FORM_SPACES, index)
            self._blocks.append(PemBlock(index, label, plus_body))
            return
        try:
            encoded = "".join(self._read_body_lines(raw, index))
            body = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            self._add_fault(index, begin, f"is not base64{_describe_fault(raw)}", raw)
            return
        if not body:
            self._add_fault(index, begin, "is empty", raw)
            return
        if encoded[-1] == "=" and not _has_canonical_end(encoded, body):
            self._note_oddity(PemOddity.PADDING, index)
        self._blocks.append(PemBlock(index, label, body))

    def _read_body_lines(self, raw: str, index: int) -> list[str]:
        """Return the base64 lines of a body without white space, and note each oddity."""
        lines = raw.split("\n")
        if _CANONICAL_BODY.fullmatch(raw):
            return lines
        if lines[0].strip() or lines[-1].strip() or len(lines) == 1:
            self._note_oddity(PemOddity.ONE_LINE, index)
            return ["".join(line.split()) for line in lines]
        inner_lines = self._skip_headers(lines[1:-1], index)
        stripped_lines: list[str] = []
        has_outer_space = bool(lines[0] or lines[-1])
        for line in inner_lines:
            stripped = line.strip()
            if stripped != line:
                has_outer_space = True
            if stripped:
                stripped_lines.append(stripped)
        bare_lines = ["".join(line.split()) for line in stripped_lines]
        # The order of these notes is the order of the findings.
        if len(stripped_lines) != len(inner_lines):
            self._note_oddity(PemOddity.BLANK_LINES, index)
        if has_outer_space:
            self._note_oddity(PemOddity.WHITE_SPACE, index)
        if not _has_canonical_lengths(stripped_lines):
            self._note_oddity(PemOddity.LINE_LENGTHS, index)
        if bare_lines != stripped_lines:
            self._note_oddity(PemOddity.INSIDE, index)
        return bare_lines

    def _skip_headers(self, lines: list[str], index: int) -> list[str]:
        """Drop RFC 1421 headers, which end with a blank line."""
        if not lines or ":" not in lines[0]:
            return lines
        self._note_oddity(PemOddity.HEADERS, index)
        for at, line in enumerate(lines):
            if not line.strip():
                self._outside_texts.append("\n".join(lines[:at]))
                return lines[at + 1 :]
        return lines


class _DamagedMark(NamedTuple):
    is_begin: bool
    label: str


def _damaged_marks(text: str) -> list[_DamagedMark]:
    """Return each BEGIN or END line in ``text`` that is damaged, in order."""
    if "BEGIN" not in text.upper() and "END" not in text.upper():
        return []
    return list(_find_damaged_marks(text))


def _find_damaged_marks(text: str) -> Iterator[_DamagedMark]:
    for found in _DAMAGED_MARK.finditer(text):
        kind = found["kind"] or found["kind2"]
        label = found["label"] or found["label2"] or ""
        has_dashes = found["kind2"] or len(found["a"] + found["b"]) >= 2
        if has_dashes or (_KNOWN_LABEL.search(label) and (found["a"] or kind.isupper())):
            yield _DamagedMark(kind.upper() == "BEGIN", " ".join(label.upper().split()))


def _decode_with_plus_signs(raw: str) -> bytes | None:
    """Decode a body whose plus signs a form has turned into spaces; None for any other body.

    It is one only if it is whole DER with the plus signs, and is not without them.
    """
    if " " not in raw.strip("\n "):
        return None
    lines = [line for line in raw.split("\n") if line.strip()]
    if any(":" in line for line in lines):
        return None
    for encoded in ("".join(raw.split()), "".join(line.replace(" ", "+") for line in lines)):
        try:
            body = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            continue
        if is_whole_der(body):
            is_repaired = encoded.count("+") > raw.count("+")
            return body if is_repaired else None
    return None


def is_whole_der(body: bytes) -> bool:
    """Check that ``body`` is as long as its first element of DER says."""
    if len(body) < 2 or body[0] != 0x30:
        return False
    length = body[1]
    start = 2
    if length > 0x80:
        start += length & 0x7F
        length = int.from_bytes(body[2:start], "big")
    return start + length == len(body)


def _describe_fault(raw: str) -> str:
    """Say where a body is no base64, without repeating what stands there."""
    for number, line in enumerate(raw.strip("\n").split("\n"), start=1):
        found = _NO_BASE64.search(line)
        if found:
            return f" (its line {number} has the character U+{ord(found[0]):04X})"
    return " (characters are missing, or its padding is wrong)"


def _has_canonical_lengths(lines: list[str]) -> bool:
    """Check that every line has 64 characters and the last one no more."""
    for line in lines[:-1]:
        if len(line) != LINE_LENGTH:
            return False
    return not lines or len(lines[-1]) <= LINE_LENGTH


def _has_canonical_end(encoded: str, body: bytes) -> bool:
    """Check that the unused last bits of padded base64 are zero (RFC 4648, 3.5)."""
    last_bytes = body[len(body) // 3 * 3 :]
    return encoded.endswith(base64.b64encode(last_bytes).decode("ascii"))


def _clean_label(mark: re.Match[str]) -> str:
    """Return the label with single spaces between its words."""
    return " ".join(mark[2].split())
