"""Peers that single events are compared with, each in a process of its own.

``python -m bench.ingest_peers KIND …``

pull: the fastest pull with the library's own means, messages taken and acked, nothing else.
transactions: the same rows by unnest with ON CONFLICT and a roll-up, one commit a thousand, nothing
else. faststream: a plain handler that inserts each event on one connection.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import uvloop
from faststream.nats import JStream, PullSub
from nats.aio.msg import Msg

from shared import catalogue
from shared import subjects as s
from shared.contracts.usage import HttpsRequest
from shared.ids import new_id
from shared.messaging.connection import connect, service_broker
from shared.settings import BrokerSettings
from shared.streams import PRIORITY_GROUP

BATCH = 1000
PULL = 16_000
USER = "billing"
RAW_TABLES = (
    'create table if not exists raw_requests (source text collate "C" not null, id text '
    'collate "C" not null,'
    " day integer not null, at bigint not null, domain text not null, node text not null, "
    "bytes bigint not null,"
    " status smallint not null, received_at timestamptz not null, primary key (source, id, day))",
    'create table if not exists raw_rollup (domain text collate "C", minute integer, node text '
    'collate "C",'
    " requests bigint not null, bytes bigint not null, primary key (domain, minute, node))",
)
_RAW = """
with new as (
    insert into raw_requests
    select *, now() from unnest($1::text[], $2::text[], $3::int[], $4::bigint[], $5::text[],
      $6::text[], $7::bigint[],
        $8::smallint[])
    on conflict do nothing returning domain, at, node, bytes
)
insert into raw_rollup as u select domain, (at / 60000000)::int, node, count(*), sum(bytes)
from new group by 1, 2, 3
order by 1, 2, 3
on conflict (domain, minute, node) do update set requests = u.requests + excluded.requests,
    bytes = u.bytes + excluded.bytes
"""
_PLAIN = (
    "insert into raw_requests values ($1, $2, $3, $4, $5, $6, $7, $8, now()) on conflict do nothing"
)


async def pull(url: str, seed: str) -> None:
    """Pull and ack with a callback on one inbox; ask for more at half. Runs until it is ended."""
    client = await connect(BrokerSettings(nats_url=url, nats_seed_file=Path(seed)), USER)
    inbox, owed = client.new_inbox(), 0
    wanted = json.dumps({"batch": PULL, "expires": 60 * 10**9, "group": PRIORITY_GROUP}).encode()

    async def ask() -> None:
        nonlocal owed
        owed += PULL
        await client.publish(
            s.js_next(s.STREAM_USAGE, s.DURABLE_BILLING_REQUESTS), wanted, reply=inbox
        )

    async def take(message: Msg) -> None:
        nonlocal owed
        await message.ack()
        owed -= 1
        if owed == PULL // 2:
            await ask()

    await client.subscribe(inbox, cb=take)
    await ask()
    _say("ready")
    await asyncio.Event().wait()


async def transactions(dsn: str, count: int, domains: int) -> None:
    """Write the rows, once a line arrives on stdin."""
    source, now = new_id(), int(datetime.now(UTC).timestamp() * 1e6)
    rows = [
        (
            source,
            f"{n:012}",
            now // 86_400_000_000,
            now,
            f"d{n % domains}.example.test",
            "node-1",
            1000,
            200,
        )
        for n in range(count)
    ]
    connection = await asyncpg.connect(dsn)
    _say("ready")
    sys.stdin.readline()
    for at in range(0, count, BATCH):
        columns = [list(column) for column in zip(*rows[at : at + BATCH], strict=True)]
        async with connection.transaction():
            await connection.execute(_RAW, *columns)
    _say("done")
    await connection.close()


async def faststream(url: str, seed: str, dsn: str) -> None:
    """Handle events as a first version would. Runs until it is ended."""
    connection, one_at_a_time = await asyncpg.connect(dsn), asyncio.Lock()
    broker, _ = await service_broker(BrokerSettings(nats_url=url, nats_seed_file=Path(seed)), USER)

    @broker.subscriber(
        catalogue.USAGE_REQUEST,
        stream=JStream(s.STREAM_USAGE, declare=False),
        durable=s.DURABLE_BILLING_REQUESTS,
        pull_sub=PullSub(batch_size=100, timeout=1),
        inbox_prefix=f"{s.inbox_prefix(USER)}.".encode(),
    )
    async def handle(event: HttpsRequest) -> None:
        at = int(event.time.timestamp() * 1e6)
        async with one_at_a_time:
            await connection.execute(
                _PLAIN,
                event.source,
                event.id,
                at // 86_400_000_000,
                at,
                event.domain,
                event.node,
                event.bytes,
                event.status,
            )

    await broker.start()
    _say("ready")
    await asyncio.Event().wait()


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(kind: str, *arguments: str) -> None:
    if kind == "transactions":
        dsn, count, domains = arguments
        uvloop.run(transactions(dsn, int(count), int(domains)))
    elif kind == "pull":
        uvloop.run(pull(*arguments))
    else:
        uvloop.run(faststream(*arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
