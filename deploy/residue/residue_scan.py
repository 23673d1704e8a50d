"""What is left of a pair: in every row of every table, every stream and bucket message, every node
file.

An empty list after a disable is the promise; anything in it says where the promise is broken.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

import asyncpg
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from deploy.residue.residue_patterns import Needles
from shared.topology import STREAMS

_ROWS = 500
_TABLES = """
select table_schema, table_name from information_schema.tables
where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')
order by 1, 2
"""
_BINARY = """
select column_name from information_schema.columns
where table_schema = $1 and table_name = $2 and data_type = 'bytea' order by 1
"""


async def leftovers(
    pairs: Mapping[str, Needles],
    dsns: Mapping[str, str],
    searcher: Client,
    node_folders: Iterable[Path],
) -> list[str]:
    """Places as text, ``old pair: config.history row 3: serial hex``. ``pairs``: by a name to
    report them under;
    ``dsns``: by service; ``searcher``: a connection of that NATS user; ``node_folders``: the nodes'
    data.

    Raises what the database or the broker raises: a place that could not be searched is not a clean
    one."""
    found: list[str] = []
    for service, dsn in dsns.items():
        async for place, hay in _rows(service, dsn):
            found += _report(pairs, place, hay)
    for stream in STREAMS:
        async for place, hay in _messages(searcher, stream.name):
            found += _report(pairs, place, hay)
    for folder in node_folders:
        for place, hay in await asyncio.to_thread(_files, folder):
            found += _report(pairs, place, hay)
    return found


def _report(pairs: Mapping[str, Needles], place: str, hay: bytes) -> list[str]:
    return [
        f"{name}: {place}: {what}"
        for name, needles in pairs.items()
        for what in needles.found_in(hay)
    ]


async def _rows(service: str, dsn: str) -> AsyncIterator[tuple[str, bytes]]:
    connection = await asyncpg.connect(dsn)
    try:
        # One snapshot: a row that moves between two tables is seen once at least.
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for schema, table in await connection.fetch(_TABLES):
                binary = [row[0] for row in await connection.fetch(_BINARY, schema, table)]
                columns = "".join(f', t."{column}"' for column in binary)
                query = f'select t::text{columns} from "{schema}"."{table}" t'  # noqa: S608 (names of the catalogue)
                number = 0
                async for row in connection.cursor(query, prefetch=_ROWS):
                    number += 1
                    yield f"{service}.{table} row {number}", _row_bytes(row)
    finally:
        await connection.close()


def _row_bytes(row: asyncpg.Record) -> bytes:
    """The row as text, and its binary columns as they are: JSON with PEM in it is stored so."""
    return b"\n".join(
        part if isinstance(part, bytes) else str(part or "").encode() for part in row.values()
    )


async def _messages(client: Client, stream: str) -> AsyncIterator[tuple[str, bytes]]:
    js = client.jetstream(timeout=10)
    sequence = 0
    while True:
        try:
            message: Any = await js.get_msg(stream, seq=sequence + 1, subject=">", next=True)
        except NotFoundError:
            return
        sequence = message.seq
        headers = json.dumps({str(key): value for key, value in (message.headers or {}).items()})
        yield (
            f"{stream} message {sequence}",
            b"\n".join((message.subject.encode(), headers.encode(), message.data or b"")),
        )


def _files(folder: Path) -> list[tuple[str, bytes]]:
    """Sockets and the like have no content; a file may go while the node works."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            try:
                found.append((f"{folder.name}/{path.relative_to(folder)}", path.read_bytes()))
            except FileNotFoundError:
                continue
    return found
