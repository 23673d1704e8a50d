"""A tokeniser of PEM (RFC 7468), because a library's reader is too kind: it skips a private key
among certificates.

It reads any text in linear time, repairs what can be repaired and says so, and never repeats the
text. Pure.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from enum import StrEnum

CERTIFICATE = "CERTIFICATE"
KEY_SUFFIX = "PRIVATE KEY"
LINE = 64

_MARK = re.compile(r"-----(BEGIN|END) ([A-Z0-9][A-Z0-9 #.]{0,63})-----")
_CANONICAL = re.compile(r"\n(?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/=]{1,64}\n")
_BEGIN, _END = "-----BEGIN ", "-----END "
_ENCRYPTION = ("Proc-Type:", "DEK-Info:")
_BOM = "\ufeff"


class Oddity(StrEnum):
    """What was normalised; ``strict`` refuses it (rule D2)."""

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
class Block:
    """One block: its place (from 0), its label and its decoded body, which ``repr`` hides.

    The body of a legacy-encrypted block is empty."""

    index: int
    label: str
    body: bytes = field(repr=False)
    encrypted: bool = False

    @property
    def is_key(self) -> bool:
        return self.label.endswith(KEY_SUFFIX)


@dataclass(frozen=True, slots=True)
class Fault:
    """A block that cannot be read, and why."""

    index: int
    label: str
    reason: str

    @property
    def is_key(self) -> bool:
        return self.label.endswith(KEY_SUFFIX)


@dataclass(frozen=True, slots=True)
class Document:
    """What a text holds. ``oddities`` names the first block with each oddity (None: outside of
    blocks); ``strays``: every piece of text that is in no readable block's body, which ``repr``
    hides."""

    blocks: tuple[Block, ...]
    faults: tuple[Fault, ...]
    oddities: tuple[tuple[Oddity, int | None], ...]
    strays: tuple[str, ...] = field(default=(), repr=False)


def count(text: str) -> int:
    """How many blocks begin in ``text``, or end, whichever is more; cheap, to be asked before
    ``tokenise``."""
    return max(text.count(_BEGIN), text.count(_END))


def encode(label: str, body: bytes) -> str:
    """Canonical PEM: lines of 64, LF, one final LF."""
    packed = base64.b64encode(body).decode("ascii")
    lines = [packed[at : at + LINE] for at in range(0, len(packed), LINE)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def tokenise(text: str) -> Document:
    """The blocks, the faulty blocks and the oddities of ``text``; any text has an answer."""
    return _Tokeniser(text).document()


class _Tokeniser:
    def __init__(self, text: str) -> None:
        self._blocks: list[Block] = []
        self._faults: list[Fault] = []
        self._oddities: dict[Oddity, int | None] = {}
        self._strays: list[str] = []
        self._text = self._unify(text)

    def document(self) -> Document:
        opened: re.Match[str] | None = None
        index, gap_from = -1, 0
        for mark in _MARK.finditer(self._text):
            if mark[1] == "BEGIN":
                if opened:
                    self._fault(
                        index, opened, "has no END line", self._text[opened.end() : mark.start()]
                    )
                else:
                    self._look_at_gap(self._text[gap_from : mark.start()], index, first=index < 0)
                opened, index = mark, index + 1
            elif opened:
                self._close(index, opened, mark)
                opened, gap_from = None, mark.end()
            else:
                self._fault(
                    index + 1, mark, "has no BEGIN line", self._text[gap_from : mark.start()]
                )
                gap_from = mark.end()
        if opened:
            self._fault(index, opened, "has no END line", self._text[opened.end() :])
        else:
            self._look_at_gap(self._text[gap_from:], index, last=True)
        return Document(
            tuple(self._blocks),
            tuple(self._faults),
            tuple(self._oddities.items()),
            tuple(self._strays),
        )

    def _fault(self, index: int, mark: re.Match[str], reason: str, text: str) -> None:
        self._faults.append(Fault(index, _label(mark), reason))
        self._strays.append(text)

    def _note(self, oddity: Oddity, index: int | None) -> None:
        self._oddities.setdefault(oddity, index)

    def _unify(self, text: str) -> str:
        if _BOM in text:
            self._note(Oddity.BOM, None)
            text = text.replace(_BOM, "")
        if "\r\n" in text:
            self._note(Oddity.CRLF, None)
            text = text.replace("\r\n", "\n")
        if "\r" in text:
            self._note(Oddity.CR, None)
            text = text.replace("\r", "\n")
        return text

    def _look_at_gap(
        self, gap: str, index: int, *, first: bool = False, last: bool = False
    ) -> None:
        place = index if index >= 0 else None
        ends = gap.count("\n")
        if gap.strip():
            self._strays.append(gap)
            self._note(Oddity.TEXT, place)
        elif ends > (0 if first else 1):
            self._note(Oddity.BLANK_LINES, place)
        elif gap.strip("\n"):
            self._note(Oddity.WHITE_SPACE, place)
        if not ends and not first and not last:
            self._note(Oddity.ONE_LINE, place)

    def _close(self, index: int, begin: re.Match[str], end: re.Match[str]) -> None:
        raw, label = self._text[begin.end() : end.start()], begin[2]
        if label != end[2] or label[-1] == " " or "  " in label:
            label = _label(begin)
            if label != _label(end):
                self._fault(index, begin, "ends with another label", raw)
                return
            self._note(Oddity.MARK, index)
        if any(header in raw for header in _ENCRYPTION):
            self._blocks.append(Block(index, label, b"", encrypted=True))
            return
        try:
            packed = "".join(self._body_lines(raw, index))
            body = base64.b64decode(packed, validate=True)
        except (binascii.Error, ValueError):
            self._fault(index, begin, "is not base64", raw)
            return
        if body:
            if packed[-1] == "=" and not packed.endswith(
                base64.b64encode(body[len(body) // 3 * 3 :]).decode("ascii")
            ):
                self._note(Oddity.PADDING, index)
            self._blocks.append(Block(index, label, body))
        else:
            self._fault(index, begin, "is empty", raw)

    def _body_lines(self, raw: str, index: int) -> list[str]:
        if _CANONICAL.fullmatch(raw):
            return raw.split("\n")
        lines = raw.split("\n")
        if lines[0].strip() or lines[-1].strip() or len(lines) == 1:
            self._note(Oddity.ONE_LINE, index)
            return ["".join(line.split()) for line in lines]
        inner = self._without_headers(lines[1:-1], index)
        stripped = [line.strip() for line in inner]
        full = [line for line in stripped if line]
        if len(full) != len(stripped):
            self._note(Oddity.BLANK_LINES, index)
        if (
            any(line != bare for line, bare in zip(inner, stripped, strict=True))
            or lines[0]
            or lines[-1]
        ):
            self._note(Oddity.WHITE_SPACE, index)
        if any(len(line) != LINE for line in full[:-1]) or (full and len(full[-1]) > LINE):
            self._note(Oddity.LINE_LENGTHS, index)
        if any(len(line.split()) > 1 for line in full):
            self._note(Oddity.INSIDE, index)
        return ["".join(line.split()) for line in full]

    def _without_headers(self, lines: list[str], index: int) -> list[str]:
        """RFC 1421 headers end with a blank line."""
        if not lines or ":" not in lines[0]:
            return lines
        self._note(Oddity.HEADERS, index)
        for at, line in enumerate(lines):
            if not line.strip():
                self._strays.append("\n".join(lines[:at]))
                return lines[at + 1 :]
        return lines


def _label(mark: re.Match[str]) -> str:
    """With single spaces between its words."""
    return " ".join(mark[2].split())
