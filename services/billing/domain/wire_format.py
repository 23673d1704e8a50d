"""The hot messages, decoded by msgspec: structs that mirror shared/contracts/usage.py (a contract
test compares them).

Also the compact form in which an accepted batch is archived."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from shared.errors import Malformed

MAX_COUNT: Final = 2**53
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
_IDENTIFIERS: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}+\n)*+")
_NODES: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\n)*+")
Identifier = Annotated[
    str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*\Z")
]
NodeId = Annotated[
    str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
]
CellRow = tuple[str, int, int, int, int, int]
"""Domain, minute, HTTPS requests, HTTPS bytes, HTTP requests, HTTP bytes."""


class WireCell(Struct, forbid_unknown_fields=True, frozen=True):
    domain: Annotated[str, Meta(max_length=253)]
    minute: int
    https_requests: Count = 0
    https_bytes: Count = 0
    http_requests: Count = 0
    http_bytes: Count = 0


class WirePrevious(Struct, forbid_unknown_fields=True, frozen=True):
    log: Identifier
    length: Count


class WireBatch(Struct, forbid_unknown_fields=True, frozen=True):
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
    """Its names are checked by who reads it: of many at once that costs a twentieth of the
    decoder's own check."""

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
    """Malformed when it is not a UsageBatch, or says what cannot be; the text names the place,
    never the input."""
    try:
        batch = _batch.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"not a UsageBatch: {_place(error)}") from None
    if batch.start > batch.end:
        raise Malformed("not a UsageBatch: start lies after end")
    if batch.start == batch.end and batch.cells:
        raise Malformed("not a UsageBatch: an empty range has no cells")
    return batch


def read_request(body: bytes) -> WireRequest:
    """Malformed when it is not an HttpsRequest."""
    try:
        request = _request.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"not an HttpsRequest: {_place(error)}") from None
    if not _are_named([request]):
        raise Malformed("not an HttpsRequest: id, source or node is not a name")
    return request


def read_requests(bodies: Sequence[bytes]) -> list[WireRequest] | None:
    """All at once, which costs half as much; None when one of them is not an HttpsRequest: then
    read each."""
    try:
        requests = _requests.decode(b"[" + b",".join(bodies) + b"]")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return requests if len(requests) == len(bodies) and _are_named(requests) else None


def _are_named(requests: Sequence[WireRequest]) -> bool:
    return (
        _all(_IDENTIFIERS, [request.id for request in requests])
        and _all(_IDENTIFIERS, [request.source for request in requests])
        and _all(_NODES, [request.node for request in requests])
    )


def _all(names: re.Pattern[str], texts: Sequence[str]) -> bool:
    """Whether each is a name of its own: the count, for one with a line break in it would pass as
    two."""
    lines = "\n".join((*texts, ""))
    return lines.count("\n") == len(texts) and names.fullmatch(lines) is not None


def pack_cells(cells: Sequence[WireCell]) -> bytes:
    """MessagePack rows, deflated: about a tenth of the JSON."""
    return zlib.compress(_pack.encode(cell_rows(cells)), 1)


def cell_rows(cells: Sequence[WireCell]) -> list[CellRow]:
    """As they are archived. A minute that is none (it was diverted) is cut to what MessagePack
    holds."""
    return [
        (
            c.domain,
            max(-MAX_COUNT, min(c.minute, MAX_COUNT)),
            c.https_requests,
            c.https_bytes,
            c.http_requests,
            c.http_bytes,
        )
        for c in cells
    ]


def unpack_cells(data: bytes) -> list[CellRow]:
    """Inverse of pack_cells()."""
    return _cells.decode(zlib.decompress(data))


def _place(error: Exception) -> str:
    """msgspec quotes names of fields and limits; an unknown field's name and an invalid enum are
    input: cut them."""
    text = str(error)
    if "unknown field" in text:
        return "an unknown field"
    return text[:200]
