"""A tokeniser of PEM (RFC 7468).

It reads any text in linear time, repairs what can be repaired, and reports each repair and every
block. A library's reader is too tolerant: it skips a private key among certificates. No message
repeats the text.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from enum import StrEnum

CERTIFICATE = "CERTIFICATE"
KEY_SUFFIX = "PRIVATE KEY"
LINE_LENGTH = 64

_MARK = re.compile(r"-----(BEGIN|END) ([A-Z0-9][A-Z0-9 #.]{0,63})-----")
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


def tokenise(text: str) -> PemDocument:
    """Split ``text`` into blocks, faulty blocks and oddities. Any text has a result."""
    return _Tokeniser(text).read_document()


class _Tokeniser:
    def __init__(self, text: str) -> None:
        self._blocks: list[PemBlock] = []
        self._faults: list[FaultyBlock] = []
        self._oddities: dict[PemOddity, int | None] = {}
        self._outside_texts: list[str] = []
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
                    self._add_fault(index, opened, "has no END line", body)
                else:
                    self._check_gap(self._text[gap_start : mark.start()], index, first=index < 0)
                opened = mark
                index += 1
            elif opened:
                self._close_block(index, opened, mark)
                opened = None
                gap_start = mark.end()
            else:
                body = self._text[gap_start : mark.start()]
                self._add_fault(index + 1, mark, "has no BEGIN line", body)
                gap_start = mark.end()
        if opened:
            self._add_fault(index, opened, "has no END line", self._text[opened.end() :])
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

    def _check_gap(self, gap: str, index: int, *, first: bool = False, last: bool = False) -> None:
        """Note what stands between two blocks, before the first or after the last."""
        place = index if index >= 0 else None
        line_ends = gap.count("\n")
        if gap.strip():
            self._outside_texts.append(gap)
            self._note_oddity(PemOddity.TEXT, place)
        elif line_ends > (0 if first else 1):
            self._note_oddity(PemOddity.BLANK_LINES, place)
        elif gap.strip("\n"):
            self._note_oddity(PemOddity.WHITE_SPACE, place)
        if not line_ends and not first and not last:
            self._note_oddity(PemOddity.ONE_LINE, place)

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
        try:
            encoded = "".join(self._read_body_lines(raw, index))
            body = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            self._add_fault(index, begin, "is not base64", raw)
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
