"""A slow database costs time and no memory: unwritten messages stay in the stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared import catalogue
from shared import subjects as s
from shared.contracts.usage import HttpsRequest
from shared.ids import new_id
from tests.integration.billing.harness import BillingHarness, billing_harness
from tests.support.factories import make_cell, split_into_batches, unique_domain, unique_name
from tests.support.waiting import until

EVENTS, TOGETHER = 60_000, 500
MORE_MEMORY = 60_000_000
"""Bytes that one process may grow by, however full the stream is: two pulls."""
HOLD_UP = "lock table owners_gate in exclusive mode"
"""Every transaction of billing that counts takes this lock, shared."""


@pytest.fixture(scope="module")
async def pressed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BillingHarness]:
    async with billing_harness(tmp_path_factory.mktemp("pressed")) as harness:
        await harness.start()
        yield harness


def _memory(harness: BillingHarness) -> int:
    """Resident bytes."""
    pid = harness.replicas["billing"].pid
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def _events(harness: BillingHarness, domain: str, source: str) -> None:
    at, client = datetime.now(UTC) - timedelta(seconds=5), harness.clients["billing"]
    for start in range(0, EVENTS, TOGETHER):
        batch = new_id()
        for place in range(1, TOGETHER + 1):
            body = HttpsRequest(
                id=f"{start + place:08}",
                source=source,
                time=at,
                domain=domain,
                bytes=1,
                status=200,
                node="node-1",
            ).encode()
            headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(place)}
            if place < TOGETHER:
                await client.publish(catalogue.USAGE_REQUEST, body, headers=headers)
        headers["Nats-Batch-Commit"] = "1"
        answer = json.loads(
            (await client.request(catalogue.USAGE_REQUEST, body, timeout=10, headers=headers)).data
        )
        assert answer["count"] == TOGETHER


async def test_memory_stays_flat_while_the_database_stands_still_and_nothing_is_lost(
    pressed: BillingHarness,
) -> None:
    domain, account, source = unique_domain(), unique_name("acct"), unique_name("src")
    await pressed.register(domain, account)
    warm = split_into_batches(new_id(), [[make_cell(domain, 1)]] * 5)
    for batch in warm:
        await pressed.batch(batch)
    await pressed.until_confirmed(warm[-1])
    before, most = _memory(pressed), 0
    async with pressed.database.acquire() as connection, connection.transaction():
        await connection.execute(HOLD_UP)
        sending = asyncio.gather(
            _events(pressed, domain, source),
            *(
                pressed.batch(b)
                for b in split_into_batches(new_id(), [[make_cell(domain, 1)]] * 300)
            ),
        )
        while not sending.done():
            most = max(most, _memory(pressed))
            await asyncio.sleep(0.05)
        await sending
        await until(lambda: _waits(pressed), "billing waits for the database")
        most = max(most, _memory(pressed))
    assert most - before < MORE_MEMORY, f"grew by {(most - before) / 1e6:.0f} MB"

    async def counted() -> bool:
        return await pressed.counted(account=account) == EVENTS + 305

    await until(counted, "all is counted")


async def _waits(harness: BillingHarness) -> bool:
    return bool(
        await harness.database.fetchval(
            "select count(*) > 0 from pg_locks where relation = 'owners_gate'::regclass and "
            "not granted"
        )
    )


async def test_counted_messages_are_trimmed_from_the_stream_and_others_stay(
    pressed: BillingHarness,
) -> None:
    js = (await pressed.cluster.client("topology")).jetstream(timeout=5)

    async def left() -> int:
        return (await js.stream_info(s.STREAM_USAGE)).state.messages

    async def empty() -> bool:
        return not await left()

    await until(empty, "all that was counted is trimmed")
    domain = unique_domain()
    (batch,) = split_into_batches(new_id(), [[make_cell(domain, 1)]])
    async with pressed.database.acquire() as connection, connection.transaction():
        await connection.execute(HOLD_UP)
        await pressed.batch(batch)
        await until(lambda: _waits(pressed), "billing waits for the database")
        assert await left() == 1
    await pressed.until_confirmed(batch)
    await until(empty, "it is trimmed")
