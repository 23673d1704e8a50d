"""The hot messages, decoded by msgspec: structs that mirror shared/contracts/usage.py (a contract test compares them).

Also the compact form in which an accepted batch is archived."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from shared.errors import Malformed

MOST: Final = 2**53
Count = Annotated[int, Meta(ge=0, le=MOST)]
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_NODE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
Identifier = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*\Z")]
NodeId = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")]
CellRow = tuple[str, int, int, int, int, int]
"""Domain, minute, HTTPS requests, HTTPS bytes, HTTP requests, HTTP bytes."""


class Cell(Struct, forbid_unknown_fields=True, frozen=True):
    domain: Annotated[str, Meta(max_length=253)]
    minute: int
    https_requests: Count = 0
    https_bytes: Count = 0
    http_requests: Count = 0
    http_bytes: Count = 0


class Previous(Struct, forbid_unknown_fields=True, frozen=True):
    log: Identifier
    length: Count


class Batch(Struct, forbid_unknown_fields=True, frozen=True):
    node: NodeId
    log: Identifier
    start: Count
    end: Count
    read_to: Count
    cells: Annotated[list[Cell], Meta(max_length=50_000)]
    previous: Previous | None = None
    bad_lines: Count = 0
    final: bool = False


class Request(Struct, forbid_unknown_fields=True, frozen=True):
    """``source`` and ``node`` are checked by read_request(): few names come again and again."""

    id: Identifier
    source: str
    time: Annotated[datetime, Meta(tz=True)]
    domain: Annotated[str, Meta(min_length=1, max_length=253)]
    bytes: Count
    status: Annotated[int, Meta(ge=100, le=599)]
    node: str


_batch = msgspec.json.Decoder(Batch)
_request = msgspec.json.Decoder(Request)
_requests = msgspec.json.Decoder(list[Request])
_cells = msgspec.msgpack.Decoder(list[CellRow])
_pack = msgspec.msgpack.Encoder()


def read_batch(body: bytes) -> Batch:
    """Malformed when it is not a UsageBatch, or says what cannot be; the text names the place, never the input."""
    try:
        batch = _batch.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"not a UsageBatch: {_place(error)}") from None
    if batch.start > batch.end:
        raise Malformed("not a UsageBatch: start lies after end")
    if batch.start == batch.end and batch.cells:
        raise Malformed("not a UsageBatch: an empty range has no cells")
    return batch


def read_request(body: bytes) -> Request:
    """Malformed when it is not an HttpsRequest."""
    try:
        request = _request.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"not an HttpsRequest: {_place(error)}") from None
    if not _is_identifier(request.source) or not _is_node(request.node):
        raise Malformed("not an HttpsRequest: source or node is not a name")
    return request


def read_requests(bodies: Sequence[bytes]) -> list[Request] | None:
    """All at once, which costs half as much; None when one of them is not an HttpsRequest: then read each."""
    try:
        requests = _requests.decode(b"[" + b",".join(bodies) + b"]")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if len(requests) != len(bodies) or not all(
        _is_identifier(source) and _is_node(node) for source, node in {(r.source, r.node) for r in requests}
    ):
        return None
    return requests


@lru_cache(20_000)
def _is_identifier(text: str) -> bool:
    return _IDENTIFIER.fullmatch(text) is not None


@lru_cache(20_000)
def _is_node(text: str) -> bool:
    return _NODE.fullmatch(text) is not None


def pack_cells(cells: Sequence[Cell]) -> bytes:
    """MessagePack rows, deflated: about a tenth of the JSON."""
    return zlib.compress(_pack.encode(cell_rows(cells)), 1)


def cell_rows(cells: Sequence[Cell]) -> list[CellRow]:
    """As they are archived. A minute that is none (it was diverted) is cut to what MessagePack holds."""
    return [
        (c.domain, max(-MOST, min(c.minute, MOST)), c.https_requests, c.https_bytes, c.http_requests, c.http_bytes)
        for c in cells
    ]


def unpack_cells(data: bytes) -> list[CellRow]:
    """Inverse of pack_cells()."""
    return _cells.decode(zlib.decompress(data))


def _place(error: Exception) -> str:
    """msgspec quotes names of fields and limits; an unknown field's name and an invalid enum are input: cut them."""
    text = str(error)
    if "unknown field" in text:
        return "an unknown field"
    return text[:200]
