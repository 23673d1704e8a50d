"""Single events for bench/usage_ingest.py: filling the stream, and timing those who empty it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from nats.aio.client import Client

from bench.ingest_peers import RAW_TABLES
from shared import catalogue
from shared import subjects as s
from shared.contracts.balance import BalanceEvent
from shared.contracts.usage import HttpsRequest
from shared.ids import new_id
from shared.streams import CONSUMERS
from tests.integration.billing.harness import BillingHarness

DOMAINS = 5_000
_ATOMIC = 500
_CONSUMER = next(
    consumer for consumer in CONSUMERS if consumer.durable == s.DURABLE_BILLING_REQUESTS
)


class Events:
    """The stream USAGE with single events in it.

    The billing processes are those that the stage has started."""

    def __init__(self, stage: BillingHarness, admin: Client) -> None:
        self._stage, self._admin = stage, admin
        self._js = admin.jetstream(timeout=10)

    @classmethod
    async def on(cls, stage: BillingHarness) -> Events:
        admin = await stage.cluster.client("topology")
        for statement in RAW_TABLES:
            await stage.database.execute(statement)
        return cls(stage, admin)

    async def counted(self, count: int) -> float:
        """Return events a second from the first delivery to the last commit.

        Every tenth event is sent twice. AssertionError unless each is there once."""
        source = new_id()
        bodies = self.bodies(source, count)
        sent = [
            body for number, body in enumerate(bodies) for _ in range(2 if number % 10 == 0 else 1)
        ]
        pids = [replica.pid for replica in self._stage.replicas.values() if replica.pid]
        took = await self._emptied(sent, pids)
        stored = await self._stage.database.fetchrow(
            "select count(*), count(distinct id) from requests where source = $1", source
        )
        if stored is None or tuple(stored) != (count, count):
            raise AssertionError(
                f"{count} events were sent, {stored and tuple(stored)} were counted"
            )
        return len(sent) / took

    async def pulled(self, count: int, processes: int) -> float:
        """Return events a second of the bare pull."""
        async with self._peers("pull", processes, self._stage.cluster.url, self._seed()) as running:
            return count / await self._emptied(self.bodies(new_id(), count), _pids(running))

    async def handled(self, count: int) -> float:
        """Return events a second of a plain FastStream handler, which names no group in a pull."""
        dsn, config = self._stage.cluster.dsns["billing"], _CONSUMER.config()
        await self._js.add_consumer(
            s.STREAM_USAGE, config, priority_groups=None, priority_policy=None
        )
        try:
            async with self._peers(
                "faststream", 1, self._stage.cluster.url, self._seed(), dsn
            ) as running:
                return count / await self._emptied(self.bodies(new_id(), count), _pids(running))
        finally:
            await self._js.add_consumer(s.STREAM_USAGE, config)

    async def transacted(self, count: int, processes: int) -> float:
        """Return events a second of bare transactions by some processes at once."""
        dsn = self._stage.cluster.dsns["billing"]
        share = count // processes
        async with self._peers("transactions", processes, dsn, str(share), str(DOMAINS)) as running:
            started = time.perf_counter()
            for process in running:
                assert process.stdin is not None
                process.stdin.write(b"go\n")
            await _said("done", running)
            return share * processes / (time.perf_counter() - started)

    async def latency(self, times: int) -> float:
        """Return milliseconds from an event to the event that flags its account as low.

        The 99th percentile of ``times``."""
        stage, heard = self._stage, dict[str, asyncio.Future[float]]()

        async def hear(message: object) -> None:
            event = BalanceEvent.model_validate_json(message.data)  # type: ignore[attr-defined]
            if event.account in heard and not heard[event.account].done():
                heard[event.account].set_result(time.perf_counter())

        await stage.clients["platform"].subscribe(catalogue.EVENT_BALANCE_LOW, cb=hear)
        found = []
        for _ in range(times):
            account, domain = f"low-{new_id()[:8]}", f"low-{new_id()[:8]}.example.test"
            await stage.register(domain, account)
            await stage.threshold(account, "1")
            await stage.credit(account, str(Decimal(1)))
            await stage.until_balance_event(account, "credited")
            heard[account] = asyncio.get_running_loop().create_future()
            started = time.perf_counter()
            await stage.request(_event(new_id(), "1", domain))
            found.append((await asyncio.wait_for(heard[account], 20) - started) * 1000)
        return statistics.quantiles(found, n=100)[98] if times > 1 else found[0]

    async def fill(self, events: int, days: int = 30) -> None:
        """Write stored events of the last days into the database."""
        today = int(datetime.now(UTC).timestamp()) // 86_400
        for day in range(today - days, today):
            await self._stage.database.execute(
                f"create table if not exists requests_{day} partition of requests for values "
                f"in ({day})"
            )
            await self._stage.database.execute(
                "insert into requests select 'filled', lpad(n::text, 12, '0'), $1::int, "
                "$1::bigint * 86400000000,"
                " 'd' || n % 5000 || '.example.test', 'node-1', 1000, 200, now()"
                " from generate_series($2::int, $3::int) n"
                " on conflict do nothing",
                day,
                day * 10_000_000 % 2**30,
                day * 10_000_000 % 2**30 + events // days - 1,
                timeout=3600,
            )

    def bodies(self, source: str, count: int) -> list[bytes]:
        return [
            _event(source, f"{n:012}", f"d{n % DOMAINS}.example.test").encode()
            for n in range(count)
        ]

    async def _emptied(self, bodies: Sequence[bytes], consumers: Sequence[int]) -> float:
        """Fill the stream, and return the seconds until everything is acked.

        The ``consumers`` (process ids) are stopped while it fills: the server has sent ahead to
        them one pull each by then."""
        for pid in consumers:
            os.kill(pid, signal.SIGSTOP)
        await self._fill_stream(bodies)
        for pid in consumers:
            os.kill(pid, signal.SIGCONT)
        started = time.perf_counter()
        while True:
            info = await self._js.consumer_info(s.STREAM_USAGE, s.DURABLE_BILLING_REQUESTS)
            if not info.num_pending and not info.num_ack_pending:
                return time.perf_counter() - started
            if time.perf_counter() - started > 120:
                raise AssertionError("the stream was not emptied within two minutes")
            await asyncio.sleep(0.01)

    async def _fill_stream(self, bodies: Sequence[bytes]) -> None:
        client = self._stage.clients["billing"]
        for at in range(0, len(bodies), _ATOMIC):
            together = bodies[at : at + _ATOMIC]
            batch = new_id()
            for number, body in enumerate(together, start=1):
                headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
                if number < len(together):
                    await client.publish(catalogue.USAGE_REQUEST, body, headers=headers)
            headers["Nats-Batch-Commit"] = "1"
            answer = json.loads(
                (
                    await client.request(
                        catalogue.USAGE_REQUEST, together[-1], timeout=20, headers=headers
                    )
                ).data
            )
            if answer.get("count") != len(together):
                raise AssertionError(f"not stored: {answer}")

    def _seed(self) -> str:
        return str(self._stage.cluster.keys.seed("billing"))

    @asynccontextmanager
    async def _peers(
        self, kind: str, processes: int, *arguments: str
    ) -> AsyncIterator[list[Process]]:
        running = [await self._start(kind, *arguments) for _ in range(processes)]
        try:
            await _said("ready", running)
            yield running
        finally:
            for process in running:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _start(self, kind: str, *arguments: str) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.ingest_peers",
            kind,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )


def _pids(running: Sequence[Process]) -> list[int]:
    return [process.pid for process in running]


async def _said(word: str, running: Sequence[Process]) -> None:
    """Wait until every process has written ``word``."""
    for process in running:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        if line.decode().strip() != word:
            raise AssertionError(f"a peer ended before it was {word}")


def _event(source: str, id: str, domain: str) -> HttpsRequest:
    at = datetime.now(UTC) - timedelta(seconds=1)
    return HttpsRequest(
        id=id, source=source, time=at, domain=domain, bytes=1000, status=200, node="node-1"
    )
