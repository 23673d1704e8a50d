"""The bytes of usage messages and of the archive, read and written by msgspec.

The structs mirror ``shared/contracts/usage.py``; a test compares the two. They are the fast way
for the messages that come in by the thousand.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from services.billing.domain.units import UnixMinute
from shared.errors import Malformed

MAX_COUNT: Final = 2**53
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
# A name and a line break, many times. ``++`` and ``*+`` never give back what they matched, so a
# text that fails does so in linear time.
_IDENTIFIERS: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}+\n)*+")
_NODES: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\n)*+")
_MAX_FAULT_CHARACTERS: Final = 200
Identifier = Annotated[
    str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*\Z")
]
NodeId = Annotated[
    str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
]
CellRow = tuple[str, UnixMinute, int, int, int, int]
"""Domain, minute, HTTPS requests, HTTPS bytes, HTTP requests, HTTP bytes."""


class WireCell(Struct, forbid_unknown_fields=True, frozen=True):
    """The counts of one domain in one minute (contract UsageCell)."""

    domain: Annotated[str, Meta(max_length=253)]
    minute: UnixMinute
    https_requests: Count = 0
    https_bytes: Count = 0
    http_requests: Count = 0
    http_bytes: Count = 0


class WirePrevious(Struct, forbid_unknown_fields=True, frozen=True):
    """The log before this one, and its final length (contract PreviousLog)."""

    log: Identifier
    length: Count


class WireBatch(Struct, forbid_unknown_fields=True, frozen=True):
    """The counts of the bytes [start, end) of a node's log (contract UsageBatch)."""

    node: NodeId
    log: Identifier
    start: Count
    end: Count
    read_to: Count
    cells: Annotated[list[WireCell], Meta(max_length=50_000)]
    previous: WirePrevious | None = None
    bad_lines: Count = 0
    final: bool = False


class WireRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """A single HTTPS request (contract HttpsRequest).

    The readers below check its names: for many at once that costs a twentieth of the decoder's own
    check."""

    id: str
    source: str
    time: Annotated[datetime, Meta(tz=True)]
    domain: Annotated[str, Meta(min_length=1, max_length=253)]
    bytes: Count
    status: Annotated[int, Meta(ge=100, le=599)]
    node: str


_batch = msgspec.json.Decoder(WireBatch)
_request = msgspec.json.Decoder(WireRequest)
_requests = msgspec.json.Decoder(list[WireRequest])
_cells = msgspec.msgpack.Decoder(list[CellRow])
_pack = msgspec.msgpack.Encoder()


def read_batch(body: bytes) -> WireBatch:
    """Read a UsageBatch. Malformed names the place of the fault and never quotes the input."""
    try:
        batch = _batch.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"not a UsageBatch: {_describe_fault(error)}") from None
    if batch.start > batch.end:
        raise Malformed("not a UsageBatch: start lies after end")
    if batch.start == batch.end and batch.cells:
        raise Malformed("not a UsageBatch: an empty range has no cells")
    return batch


def read_request(body: bytes) -> WireRequest:
    """Read an HttpsRequest, or raise Malformed."""
    try:
        request = _request.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"not an HttpsRequest: {_describe_fault(error)}") from None
    if not _have_valid_names([request]):
        raise Malformed("not an HttpsRequest: id, source or node is not a name")
    return request


def read_requests(bodies: Sequence[bytes]) -> list[WireRequest] | None:
    """Read many at once, which costs half as much as one by one.

    None when one of them is not an HttpsRequest: then read each by itself."""
    try:
        requests = _requests.decode(b"[" + b",".join(bodies) + b"]")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    # A body like `{},{}` would count as two.
    if len(requests) != len(bodies) or not _have_valid_names(requests):
        return None
    return requests


def _have_valid_names(requests: Sequence[WireRequest]) -> bool:
    return (
        _match_all(_IDENTIFIERS, [request.id for request in requests])
        and _match_all(_IDENTIFIERS, [request.source for request in requests])
        and _match_all(_NODES, [request.node for request in requests])
    )


def _match_all(names: re.Pattern[str], texts: Sequence[str]) -> bool:
    """Match all texts with one search, a line each. The lines are counted, because a text with a
    line break in it would pass as two names."""
    lines = "\n".join((*texts, ""))
    return lines.count("\n") == len(texts) and names.fullmatch(lines) is not None


def pack_cells(cells: Sequence[WireCell]) -> bytes:
    """Write cells for the archive: MessagePack rows, deflated, about a tenth of the JSON."""
    return zlib.compress(_pack.encode(cell_rows(cells)), 1)


def cell_rows(cells: Sequence[WireCell]) -> list[CellRow]:
    """Return the rows of cells as they are archived.

    A minute that MessagePack cannot hold (its cell was diverted) is cut to the nearest one."""
    # Not UnixMinute(...): this runs for every cell.
    return [
        (
            cell.domain,
            max(-MAX_COUNT, min(cell.minute, MAX_COUNT)),  # type: ignore[misc]
            cell.https_requests,
            cell.https_bytes,
            cell.http_requests,
            cell.http_bytes,
        )
        for cell in cells
    ]


def unpack_cells(data: bytes) -> list[CellRow]:
    """Read what pack_cells() wrote."""
    return _cells.decode(zlib.decompress(data))


def _describe_fault(error: Exception) -> str:
    """Return msgspec's text, which quotes names of fields and limits only.

    The name of an unknown field is input: it is left out."""
    text = str(error)
    if "unknown field" in text:
        return "an unknown field"
    return text[:_MAX_FAULT_CHARACTERS]
