"""Searches everything that the platform keeps for parts of certificate pairs: every row of every
table, every message of every stream and bucket, every file of every node.

After a disable nothing may be found; each finding names a place that still holds a part.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import asyncpg
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from deploy.residue.residue_patterns import ResiduePatterns
from shared.topology import STREAMS

_PREFETCHED_ROWS: Final = 500
_TABLES: Final = """
select table_schema, table_name from information_schema.tables
where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')
order by 1, 2
"""
_BINARY_COLUMNS: Final = """
select column_name from information_schema.columns
where table_schema = $1 and table_name = $2 and data_type = 'bytea' order by 1
"""


async def find_residue(
    pairs: Mapping[str, ResiduePatterns],
    dsns: Mapping[str, str],
    searcher: Client,
    node_folders: Iterable[Path],
) -> list[str]:
    """Return every place that holds a part, such as ``old pair: config.history row 3: serial hex``.

    ``pairs``: patterns by the name to report them under. ``dsns``: by service. ``searcher``: a
    connection of that NATS user. ``node_folders``: the nodes' data.

    Faults of a database or of the broker are raised: a place that could not be searched is not a
    clean one."""
    found: list[str] = []
    for service, dsn in dsns.items():
        async for place, content in _table_rows(service, dsn):
            found += _describe_matches(pairs, place, content)
    for stream in STREAMS:
        async for place, content in _stream_messages(searcher, stream.name):
            found += _describe_matches(pairs, place, content)
    for folder in node_folders:
        found += await asyncio.to_thread(_search_files, pairs, folder)
    return found


def _describe_matches(
    pairs: Mapping[str, ResiduePatterns], place: str, content: bytes
) -> Iterator[str]:
    for pair, patterns in pairs.items():
        for what in patterns.found_in(content):
            yield f"{pair}: {place}: {what}"


async def _table_rows(service: str, dsn: str) -> AsyncIterator[tuple[str, bytes]]:
    connection = await asyncpg.connect(dsn)
    try:
        # One snapshot: a row that moves from one table to another is seen once at least.
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for schema, table in await connection.fetch(_TABLES):
                columns = ["t::text"]
                for (column,) in await connection.fetch(_BINARY_COLUMNS, schema, table):
                    columns.append(f't."{column}"')
                # Names from the database's own catalogue.
                query = f'select {", ".join(columns)} from "{schema}"."{table}" t'  # noqa: S608
                number = 0
                async for row in connection.cursor(query, prefetch=_PREFETCHED_ROWS):
                    number += 1
                    yield f"{service}.{table} row {number}", _row_bytes(row)
    finally:
        await connection.close()


def _row_bytes(row: asyncpg.Record) -> bytes:
    """Return the row as text, and its binary columns as they are."""
    # In a row as text bytea is hex, which hides the base64 of a PEM inside it.
    parts: list[bytes] = []
    for value in row.values():
        parts.append(value if isinstance(value, bytes) else str(value or "").encode())
    return b"\n".join(parts)


async def _stream_messages(client: Client, stream: str) -> AsyncIterator[tuple[str, bytes]]:
    js = client.jetstream(timeout=10)
    sequence = 0
    while True:
        try:
            message: Any = await js.get_msg(stream, seq=sequence + 1, subject=">", next=True)
        except NotFoundError:
            return
        sequence = message.seq
        headers = {str(key): value for key, value in (message.headers or {}).items()}
        parts = (message.subject.encode(), json.dumps(headers).encode(), message.data or b"")
        yield f"{stream} message {sequence}", b"\n".join(parts)


def _search_files(pairs: Mapping[str, ResiduePatterns], folder: Path) -> list[str]:
    found: list[str] = []
    for path in sorted(folder.rglob("*")):
        # Sockets and the like have no content.
        if not path.is_file():
            continue
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            # The node works meanwhile and removes files.
            continue
        found += _describe_matches(pairs, f"{folder.name}/{path.relative_to(folder)}", content)
    return found
