"""Count the lines of a usage log. Pure: bytes in, counts out.

A line is `<end time> <scheme> <domain> <status> <bytes sent>`, one metered request, for example
`1767225600.123 https *.img.example.test 200 5120`. Lines of scheme `http` (port 80) are counted
apart: they are not billed.
"""

import re
from dataclasses import dataclass, field

# nginx writes these lines (`log_format usage`). The domain is the name of an entry, never a text
# that a visitor sent.
_LINE = re.compile(
    rb"(\d{9,11})\.\d{3} (https?) ((?:\*\.)?[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*) "
    rb"([1-5]\d\d) (\d{1,15})"
)
CellKey = tuple[str, int]
"""The domain (the name of the matched entry) and the minute (Unix time in minutes of the request's
end, rounded down)."""


@dataclass
class CellCounts:
    """Requests and bytes sent of one domain in one minute."""

    https_requests: int = 0
    https_bytes: int = 0
    http_requests: int = 0
    http_bytes: int = 0


@dataclass(frozen=True)
class CountedRange:
    """The counts of the bytes [start, end) of a log.

    ``bad_lines``: lines that did not parse; they are in no cell."""

    log_id: str
    start: int
    end: int
    cells: dict[CellKey, CellCounts] = field(default_factory=dict)
    bad_lines: int = 0


def count_lines(log_id: str, start: int, data: bytes) -> CountedRange:
    """Count ``data``, the bytes of a log from ``start`` on.

    Bytes without a newline at the end count as a line as well. The same bytes always give the same
    range: a rebuilt range depends on that."""
    cells: dict[CellKey, CellCounts] = {}
    bad_lines = 0
    for line in data.removesuffix(b"\n").split(b"\n") if data else ():
        match = _LINE.fullmatch(line)
        if match is None:
            bad_lines += 1
            continue
        end_time, scheme, domain, _, sent = match.groups()
        cell = cells.setdefault((domain.decode(), int(end_time) // 60), CellCounts())
        if scheme == b"https":
            cell.https_requests += 1
            cell.https_bytes += int(sent)
        else:
            cell.http_requests += 1
            cell.http_bytes += int(sent)
    return CountedRange(log_id, start, start + len(data), cells, bad_lines)


def whole_lines(data: bytes, limit: int, final: bool) -> bytes:
    """Return the part of ``data`` that can be counted now: up to its last newline.

    Return all of it where the log is final, or where ``limit`` bytes hold no newline at all (no
    line is that long)."""
    end = data.rfind(b"\n") + 1
    is_full = len(data) >= limit
    if is_full and end == 0:
        return data
    if final and not is_full:
        return data
    return data[:end]
