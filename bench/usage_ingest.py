"""The rate at which usage is counted exactly once, through JetStream and PostgreSQL.

Cells: prepared batches of 1,000 distinct (domain, minute) cells, every tenth sent twice, from three
nodes' logs. Measured from the first publish to the last commit, with one billing process. Beside
it: the bare transactions, the same rows by unnest into a table of the same shape, one commit for
20 batches.
Single events (bench/usage_events.py): a stream full of them, every tenth sent twice, emptied by one
and by two processes. There are so many that the first pull and the last commit, when others wait,
are a small part. Beside it, with as many processes: the bare transactions, and on the same stream
the fastest pull of nats-py (a callback on one inbox; billing's own is faster still). The goal is
60 % of the smaller of the two, and four times a plain FastStream handler.
Flat: the same with few and with many events stored already. Low: from the publish of an event to
the event that flags its account.
``--full-size`` fills 100 million stored events instead of 20 (ten minutes and 20 GB).
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import asyncpg

from bench.report import Result, main
from bench.usage_events import DOMAINS, Events
from shared import catalogue
from shared.contracts.usage import UsageBatch, UsageCell
from shared.ids import new_id
from shared.messages import Outgoing
from shared.observability import logs
from tests.integration.billing.harness import NODES, BillingHarness, billing_harness

GOAL = 50_000
CELLS = 1_000
ACCOUNTS = 500
BATCHES_TOGETHER = 20
"""Batches of one bare transaction."""
_ADD = (
    "insert into raw_minutes as u select * from unnest($1::text[], $2::int[], $3::text[], "
    "$4::text[], $5::bigint[],"
    " $6::bigint[], $7::bigint[], $8::bigint[]) on conflict (domain, minute, node) do update set"
    " https_requests = u.https_requests + excluded.https_requests, https_bytes = u.https_bytes "
    "+ excluded.https_bytes,"
    " http_requests = u.http_requests + excluded.http_requests, http_bytes = u.http_bytes + "
    "excluded.http_bytes"
)


@dataclass(frozen=True)
class Size:
    """``few`` and ``many``: events that are stored before the flat cost is measured."""

    runs: int
    batches: int
    events: int
    latencies: int
    few: int
    many: int


QUICK = Size(runs=2, batches=60, events=40_000, latencies=20, few=100_000, many=500_000)
NORMAL = Size(runs=5, batches=300, events=150_000, latencies=200, few=1_000_000, many=20_000_000)


async def measure(quick: bool) -> list[Result]:
    logs.setup("bench", "error")  # on stderr: stdout is for the results
    size = QUICK if quick else NORMAL
    if "--full-size" in sys.argv:
        size = replace(size, many=100_000_000)
    with tempfile.TemporaryDirectory(prefix="edgetls-bench-") as folder:
        async with billing_harness(Path(folder)) as harness:
            events = await Events.on(harness)
            beside = await _beside(events, size)
            await harness.start()
            await _owners(harness)
            results = await _cell_results(harness, size)
            results += await _event_results(harness, events, size, beside)
            return results + await _flat_results(harness, events, size)


@dataclass(frozen=True)
class Beside:
    """Events a second by number of processes; ``plain``: the FastStream handler."""

    pull: dict[int, float]
    transactions: dict[int, float]
    plain: float

    def smaller(self, processes: int) -> float:
        return min(self.pull[processes], self.transactions[processes])


async def _beside(events: Events, size: Size) -> Beside:
    pull = {n: await _median(size.runs, partial(events.pulled, size.events, n)) for n in (1, 2)}
    raw = {n: await _median(size.runs, partial(events.transacted, size.events, n)) for n in (1, 2)}
    return Beside(pull, raw, await events.handled(size.events // 50))


async def _median(runs: int, measured: Callable[[], Awaitable[float]]) -> float:
    return statistics.median([await measured() for _ in range(runs)])


async def _cell_results(harness: BillingHarness, size: Size) -> list[Result]:
    cells = [await _cells(harness, run, size.batches) for run in range(size.runs)]
    raw = [await _raw(harness, run, size.batches) for run in range(size.runs)]
    return [
        Result.of(
            "usage_ingest",
            "distinct cells counted exactly once",
            statistics.median(cells),
            "cells/s",
            statistics.median(raw),
            at_least=GOAL,
        )
    ]


async def _event_results(
    harness: BillingHarness, events: Events, size: Size, beside: Beside
) -> list[Result]:
    found = []
    for processes in (1, 2):
        if processes == 2:
            await harness.start("billing-2")
        rate = await _median(size.runs, lambda: events.counted(size.events))
        found.append(
            Result.of(
                "usage_ingest",
                f"single events counted exactly once, {processes} process(es)",
                rate,
                "events/s",
                beside.smaller(processes),
                at_least=0.6 * beside.smaller(processes),
            )
        )
    found.append(
        Result.of(
            "usage_ingest",
            "single events, times a plain FastStream handler",
            found[0].value / beside.plain,
            "times",
            1,
            at_least=4,
        )
    )
    found.append(
        Result.of(
            "usage_ingest",
            "event to low-balance flag, p99",
            await events.latency(size.latencies),
            "ms",
            0,
            at_most=2000,
        )
    )
    return found


async def _flat_results(harness: BillingHarness, events: Events, size: Size) -> list[Result]:
    rates = []
    for stored in (size.few, size.many):
        await events.fill(stored)
        # By itself PostgreSQL does this in the background, for minutes: a cost of the filling, not
        # of what is stored.
        await harness.database.execute("vacuum (analyze) requests", timeout=3600)
        await events.counted(size.events)
        rates.append(await _median(max(size.runs, 3), lambda: events.counted(size.events)))
    change = rates[0] / rates[1]
    name = f"cost of a single event, {size.many:,} stored against {size.few:,}"
    return [Result.of("usage_ingest", name, change, "times", 1, at_most=1.2)]


async def _owners(harness: BillingHarness) -> None:
    """Give every domain an owner, as the events of config would."""
    await harness.database.execute(
        "insert into domain_facts (domain, revision, kind, account, at) select 'd' || n || "
        "'.example.test', n,"
        " 'registered', 'account-' || n % $2, now() from generate_series(0, $1 - 1) n",
        DOMAINS,
        ACCOUNTS,
    )


def _batches(run: int, count: int) -> list[UsageBatch]:
    """Make the batches of a run, with minutes of its own.

    A minute has DOMAINS / CELLS batches; every third batch is of the same log."""
    first = int(datetime.now(UTC).timestamp()) // 60 - 2 - run * 1000
    files, made = [new_id() for _ in NODES], []
    for number in range(count):
        minute, part = divmod(number, DOMAINS // CELLS)
        place, turn = number % len(NODES), number // len(NODES)
        cells = [
            UsageCell(
                domain=f"d{part * CELLS + i}.example.test",
                minute=first - minute,
                https_requests=i % 50 + 1,
                https_bytes=40_000 + i,
                http_requests=1,
                http_bytes=300,
            )
            for i in range(CELLS)
        ]
        made.append(
            UsageBatch(
                node=NODES[place],
                log=files[place],
                start=turn * 1000,
                end=(turn + 1) * 1000,
                read_to=(turn + 1) * 1000,
                cells=cells,
            )
        )
    return made


async def _cells(harness: BillingHarness, run: int, count: int) -> float:
    """Return cells a second. AssertionError unless every cell is there once."""
    batches = _batches(run, count)
    bodies = [(catalogue.USAGE_BATCH.for_node(batch.node), batch.encode()) for batch in batches]
    sent = [body for number, body in enumerate(bodies) for _ in range(2 if number % 10 == 0 else 1)]
    files, goal = sorted({b.log for b in batches}), sum(b.end - b.start for b in batches)
    started = time.perf_counter()
    publishing = asyncio.create_task(_publish(harness, sent, 16))
    await _until(
        harness.database,
        "select sum(stored_to) from node_logs where log = any($1::text[])",
        goal,
        files,
    )
    took = time.perf_counter() - started
    await publishing
    wanted = (count * CELLS, sum(cell.https_requests for batch in batches for cell in batch.cells))
    minutes = [batch.cells[0].minute for batch in batches]
    found = await harness.database.fetchrow(
        "select count(*), sum(https_requests)::bigint from usage_minutes where minute between "
        "$1 and $2"
        " and domain like 'd%.example.test'",
        min(minutes),
        max(minutes),
    )
    if found is None or tuple(found) != wanted:
        raise AssertionError(
            f"{wanted} cells and requests were sent, {found and tuple(found)} were counted"
        )
    return count * CELLS / took


async def _raw(harness: BillingHarness, run: int, count: int) -> float:
    """Return cells a second for the same rows in bare transactions."""
    batches = _batches(run, count)
    rows = [
        (
            cell.domain,
            cell.minute,
            batch.node,
            "account-1",
            cell.https_requests,
            cell.https_bytes,
            cell.http_requests,
            cell.http_bytes,
        )
        for batch in batches
        for cell in batch.cells
    ]
    async with harness.database.acquire() as connection:
        await connection.execute("drop table if exists raw_minutes")
        await connection.execute("create table raw_minutes (like usage_minutes including all)")
        started = time.perf_counter()
        for at in range(0, len(rows), BATCHES_TOGETHER * CELLS):
            columns = [
                list(column)
                for column in zip(*sorted(rows[at : at + BATCHES_TOGETHER * CELLS]), strict=True)
            ]
            async with connection.transaction():
                await connection.execute(_ADD, *columns)
        return len(rows) / (time.perf_counter() - started)


async def _publish(
    harness: BillingHarness, messages: Sequence[tuple[str, bytes]], in_flight: int
) -> float:
    """Publish, and return the seconds until the last PubAck."""
    started = time.perf_counter()
    js = harness.clients["billing"].jetstream(timeout=30)
    queue = iter(messages)

    async def work() -> None:
        for subject, body in queue:
            await js.publish(
                subject, body, headers=Outgoing(subject, body, {"ce-id": new_id()}).headers
            )

    await asyncio.gather(*(work() for _ in range(in_flight)))
    return time.perf_counter() - started


async def _until(
    pool: asyncpg.Pool[asyncpg.Record], question: str, goal: int, names: list[str]
) -> None:
    limit = time.monotonic() + 120
    while (await pool.fetchval(question, names) or 0) < goal:
        if time.monotonic() > limit:
            raise AssertionError("not counted within two minutes")
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    main(__doc__, measure)
