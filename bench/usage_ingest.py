"""How fast usage is counted exactly once, through JetStream and PostgreSQL, by one billing process.

Cells: prepared batches of 1,000 distinct (domain, minute) cells, every tenth sent twice, from three nodes' logs; from
the first publish to the last commit. Beside it, in the same run: the bare transactions, the same rows by unnest into a
table of the same shape on the same PostgreSQL, one commit for 20 batches.
Requests: single events, every tenth sent twice; beside it, how fast the broker stores them (an fsync each).
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from bench.report import Result, main
from shared import subjects as s
from shared.contracts.usage import HttpsRequest, UsageBatch, UsageCell
from shared.ids import new_id
from shared.messaging.cloudevents import Outgoing
from shared.observability import logs
from tests.integration.billing.harness import NODES, Stage, stage

GOAL = 20_000
DOMAINS, CELLS = 5_000, 1_000
ACCOUNTS = 500
LOT = 20
_ADD = (
    "insert into raw_minutes as u select * from unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::bigint[],"
    " $6::bigint[], $7::bigint[], $8::bigint[]) on conflict (domain, minute, node) do update set"
    " https_requests = u.https_requests + excluded.https_requests, https_bytes = u.https_bytes + excluded.https_bytes,"
    " http_requests = u.http_requests + excluded.http_requests, http_bytes = u.http_bytes + excluded.http_bytes"
)


async def measure(quick: bool) -> list[Result]:
    logs.setup("bench", "error")  # on stderr: stdout is for the results
    runs, batches, events = (3, 100, 3_000) if quick else (5, 300, 10_000)
    with tempfile.TemporaryDirectory(prefix="edgetls-bench-") as folder:
        async with stage(Path(folder)) as staged:
            await staged.start()
            await _own(staged)
            cells = [await _cells(staged, run, batches) for run in range(runs)]
            raw = [await _raw(staged, run, batches) for run in range(runs)]
            requests, stored = zip(*[await _requests(staged, events) for _ in range(runs)], strict=True)
    return [
        Result.of("usage_ingest", "distinct cells counted exactly once", statistics.median(cells), "cells/s",
                  statistics.median(raw), at_least=GOAL),
        Result.of("usage_ingest", "single requests counted exactly once", statistics.median(requests), "requests/s",
                  statistics.median(stored)),
    ]


async def _own(staged: Stage) -> None:
    """Every domain has an owner, as config would have told it."""
    await staged.database.execute(
        "insert into domain_facts (domain, revision, kind, account, at) select 'd' || n || '.example.test', n,"
        " 'registered', 'account-' || n % $2, now() from generate_series(0, $1 - 1) n", DOMAINS, ACCOUNTS,
    )


def _batches(run: int, count: int) -> list[UsageBatch]:
    """Each run has minutes of its own; a minute has DOMAINS / CELLS batches, a log every third batch."""
    first = int(datetime.now(UTC).timestamp()) // 60 - 2 - run * 1000
    files, made = [new_id() for _ in NODES], []
    for number in range(count):
        minute, part = divmod(number, DOMAINS // CELLS)
        place, turn = number % len(NODES), number // len(NODES)
        cells = [
            UsageCell(domain=f"d{part * CELLS + i}.example.test", minute=first - minute, https_requests=i % 50 + 1,
                      https_bytes=40_000 + i, http_requests=1, http_bytes=300)
            for i in range(CELLS)
        ]
        made.append(UsageBatch(
            node=NODES[place], log=files[place], start=turn * 1000, end=(turn + 1) * 1000, read_to=(turn + 1) * 1000,
            cells=cells,
        ))
    return made


async def _cells(staged: Stage, run: int, count: int) -> float:
    """Cells a second; fails unless every cell is there once."""
    batches = _batches(run, count)
    bodies = [(s.usage_batch(batch.node), batch.encode()) for batch in batches]
    sent = [body for number, body in enumerate(bodies) for _ in range(2 if number % 10 == 0 else 1)]
    files, goal = sorted({b.log for b in batches}), sum(b.end - b.start for b in batches)
    started = time.perf_counter()
    publishing = asyncio.create_task(_publish(staged, sent, 16))
    await _until(staged.database, "select sum(stored_to) from node_logs where log = any($1::text[])", goal, files)
    took = time.perf_counter() - started
    await publishing
    wanted = (count * CELLS, sum(cell.https_requests for batch in batches for cell in batch.cells))
    minutes = [batch.cells[0].minute for batch in batches]
    found = await staged.database.fetchrow(
        "select count(*), sum(https_requests)::bigint from usage_minutes where minute between $1 and $2"
        " and domain like 'd%.example.test'", min(minutes), max(minutes),
    )
    if found is None or tuple(found) != wanted:
        raise AssertionError(f"{wanted} cells and requests were sent, {found and tuple(found)} were counted")
    return count * CELLS / took


async def _raw(staged: Stage, run: int, count: int) -> float:
    """The same rows, with nothing around them."""
    batches = _batches(run, count)
    rows = [
        (cell.domain, cell.minute, batch.node, "account-1", cell.https_requests, cell.https_bytes, cell.http_requests,
         cell.http_bytes)
        for batch in batches for cell in batch.cells
    ]
    async with staged.database.acquire() as connection:
        await connection.execute("drop table if exists raw_minutes")
        await connection.execute("create table raw_minutes (like usage_minutes including all)")
        started = time.perf_counter()
        for at in range(0, len(rows), LOT * CELLS):
            columns = [list(column) for column in zip(*sorted(rows[at : at + LOT * CELLS]), strict=True)]
            async with connection.transaction():
                await connection.execute(_ADD, *columns)
        return len(rows) / (time.perf_counter() - started)


async def _requests(staged: Stage, count: int) -> tuple[float, float]:
    """Counted a second, and stored by the broker a second."""
    source, at = new_id(), datetime.now(UTC)
    bodies = [
        (s.USAGE_REQUEST, HttpsRequest(id=str(n), source=source, time=at, domain=f"d{n % DOMAINS}.example.test",
                                       bytes=1000, status=200, node="node-1").encode())
        for n in range(count)
    ]
    sent = [body for number, body in enumerate(bodies) for _ in range(2 if number % 10 == 0 else 1)]
    started = time.perf_counter()
    publishing = asyncio.create_task(_publish(staged, sent, 400))
    await _until(staged.database, "select count(*) from requests where source = any($1::text[])", count, [source])
    took = time.perf_counter() - started
    return count / took, len(sent) / await publishing


async def _publish(staged: Stage, messages: Sequence[tuple[str, bytes]], in_flight: int) -> float:
    """Seconds until the last PubAck."""
    started = time.perf_counter()
    js = staged.clients["billing"].jetstream(timeout=30)
    queue = iter(messages)

    async def work() -> None:
        for subject, body in queue:
            await js.publish(subject, body, headers=Outgoing(subject, body, {"ce-id": new_id()}).headers)

    await asyncio.gather(*(work() for _ in range(in_flight)))
    return time.perf_counter() - started


async def _until(pool: asyncpg.Pool[asyncpg.Record], question: str, goal: int, names: list[str]) -> None:
    limit = time.monotonic() + 120
    while (await pool.fetchval(question, names) or 0) < goal:
        if time.monotonic() > limit:
            raise AssertionError("not counted within two minutes")
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    main(__doc__, measure)
