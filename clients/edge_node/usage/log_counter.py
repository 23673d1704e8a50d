"""What a stretch of the usage log says, counted. Pure: bytes in, counts out.

A line is `<end time> <scheme> <domain> <status> <bytes sent>`, one metered request, e.g.
`1767225600.123 https *.img.example.test 200 5120`. Lines of scheme `http` (port 80) are counted
apart: unbilled.
"""

import re
from dataclasses import dataclass, field

_LINE = re.compile(
    rb"(\d{9,11})\.\d{3} (https?) ((?:\*\.)?[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*) "
    rb"([1-5]\d\d) (\d{1,15})"
)
CellKey = tuple[str, int]
"""Domain (the matched entry's name) and minute (the request's end: Unix time in minutes, rounded
down)."""


@dataclass
class Cell:
    """Requests and bytes sent of one domain in one minute."""

    https_requests: int = 0
    https_bytes: int = 0
    http_requests: int = 0
    http_bytes: int = 0


@dataclass(frozen=True)
class Range:
    """What the bytes [start, end) of a log count up to. `bad_lines` did not parse and are in no
    cell."""

    log_id: str
    start: int
    end: int
    cells: dict[CellKey, Cell] = field(default_factory=dict)
    bad_lines: int = 0


def count(log_id: str, start: int, data: bytes) -> Range:
    """Counts `data`, the bytes of a log from `start` on. A last piece without a newline is a line
    as well.

    The same bytes always give the same range: that is what a rebuilt range rests on.
    """
    cells: dict[CellKey, Cell] = {}
    bad_lines = 0
    for line in data.removesuffix(b"\n").split(b"\n") if data else ():
        match = _LINE.fullmatch(line)
        if match is None:
            bad_lines += 1
            continue
        time, scheme, domain, _, sent = match.groups()
        _add(cells.setdefault((domain.decode(), int(time) // 60), Cell()), scheme, int(sent))
    return Range(log_id, start, start + len(data), cells, bad_lines)


def whole_lines(data: bytes, limit: int, final: bool) -> bytes:
    """The part of `data` that can be counted now: up to its last newline.

    All of it where the log is final, or where `limit` bytes hold no newline at all (no line is that
    long).
    """
    end = data.rfind(b"\n") + 1
    full = len(data) >= limit
    return data if (full and end == 0) or (final and not full) else data[:end]


def _add(cell: Cell, scheme: bytes, sent: int) -> None:
    if scheme == b"https":
        cell.https_requests += 1
        cell.https_bytes += sent
    else:
        cell.http_requests += 1
        cell.http_bytes += sent
