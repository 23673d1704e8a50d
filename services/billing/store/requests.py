"""Single events: each (source, id) once; the same with another content is a conflict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from shared.storage.pool import Connection


class RequestRow(NamedTuple):
    """Sorts by its identity; ``digest``: SHA-256 of its content."""

    source: str
    id: str
    digest: bytes
    domain: str
    node: str
    minute: int
    bytes: int


Identity = tuple[str, str]


async def add(connection: Connection, rows: Sequence[RequestRow], now: datetime) -> set[Identity]:
    """``rows`` sorted, each identity once. The identities that are new."""
    if not rows:
        return set()
    found = await connection.fetch(
        "insert into requests (source, id, digest, domain, node, minute, bytes, received_at)"
        " select *, $8::timestamptz from unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[],"
        " $6::int[], $7::bigint[]) on conflict do nothing returning source, id",
        *(list(column) for column in zip(*rows, strict=True)), now,
    )
    return {(row["source"], row["id"]) for row in found}


async def digests(connection: Connection, identities: Iterable[Identity]) -> dict[Identity, bytes]:
    """What is stored under each identity."""
    wanted = list(identities)
    if not wanted:
        return {}
    rows = await connection.fetch(
        "select source, id, digest from requests where (source, id) in (select * from unnest($1::text[], $2::text[]))",
        [source for source, _ in wanted], [id for _, id in wanted],
    )
    return {(row["source"], row["id"]): row["digest"] for row in rows}


async def keep_conflict(connection: Connection, identity: Identity, digest: bytes, body: bytes, at: datetime) -> None:
    await connection.execute(
        "insert into request_conflicts (source, id, digest, body, at) values ($1, $2, $3, $4, $5)"
        " on conflict do nothing", *identity, digest, body, at,
    )
