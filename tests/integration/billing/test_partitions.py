"""Partitions are created and dropped while the tables are read, and nothing waits for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from services.billing.app import MIGRATIONS
from services.billing.store.partitions import (
    ArchiveMonths,
    RequestDays,
    drop_old_days,
    drop_old_months,
)
from shared.contracts.usage import HttpsRequest
from shared.ids import new_id
from shared.storage.migrate import migrate
from tests.integration.billing.harness import BillingHarness, billing_harness
from tests.support.factories import unique_domain, unique_name
from tests.support.waiting import until

_NAMES = "select relname from pg_class where relname like $1 and relkind = 'r'"
_FILL = """
insert into requests select 's', n::text, $1::int, $1::int * 86400000000 + n % 7 * 60000000,
  'd.example.test',
    'node-1', 2, 200, now() from generate_series(1, $2::int) as n
"""
OLD = datetime(2020, 3, 1, tzinfo=UTC)
OLD_DAY = int(OLD.timestamp()) // 86_400


@pytest.fixture(scope="module")
async def quiet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BillingHarness]:
    """The tables without a billing process, which would drop old partitions itself."""
    async with billing_harness(tmp_path_factory.mktemp("partitions")) as harness:
        await migrate(harness.database, MIGRATIONS)
        yield harness


@asynccontextmanager
async def reader(harness: BillingHarness) -> AsyncIterator[None]:
    """Read the tables for long, as an audit or a copy of the database does."""
    connection = await asyncpg.connect(harness.cluster.dsns["billing"])
    transaction = connection.transaction(isolation="repeatable_read", readonly=True)
    await transaction.start()
    for table in ("requests", "batch_archive"):
        await connection.fetchval(f"select count(*) from {table}")
    yield
    await transaction.rollback()
    await connection.close()


async def names(harness: BillingHarness, like: str) -> set[str]:
    return {row["relname"] for row in await harness.database.fetch(_NAMES, like)}


async def test_a_month_is_made_once_and_dropped_after_thirteen(quiet: BillingHarness) -> None:
    for month in (datetime(2023, 12, 31, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)):
        for _ in range(2):
            await ArchiveMonths(quiet.database).ensure(month)
    assert await drop_old_months(quiet.database, datetime(2025, 1, 31, tzinfo=UTC)) == []
    assert await drop_old_months(quiet.database, datetime(2025, 2, 1, tzinfo=UTC)) == [
        "batch_archive_202312"
    ]
    assert "batch_archive_202401" in await names(quiet, "batch_archive_2%")
    await drop_old_months(quiet.database, datetime(2026, 3, 1, tzinfo=UTC))


async def test_days_and_months_are_there_before_they_are_needed(harness: BillingHarness) -> None:
    now = datetime.now(UTC)
    today = int(now.timestamp()) // 86_400
    wanted = {f"requests_{today + ahead}" for ahead in range(4)}
    wanted |= {f"batch_archive_{at:%Y%m}" for at in (now, now + timedelta(days=7))}

    async def there() -> bool:
        return wanted <= await names(harness, "%\\_2%") | await names(harness, "requests\\_%")

    await until(there, "all are made")


async def test_nothing_that_is_counted_waits_for_a_long_reader(harness: BillingHarness) -> None:
    """Not even where the partition of a day must be created first."""
    account, domain = unique_name("acct"), unique_domain()
    await harness.register(domain, account, datetime.now(UTC) - timedelta(days=40))

    async def happen(days: int) -> None:
        await harness.request(
            HttpsRequest(
                id=new_id(),
                source="reader",
                time=datetime.now(UTC) - timedelta(days=days),
                domain=domain,
                bytes=1,
                status=200,
                node="node-1",
            )
        )

    async with reader(harness):
        for days in (0, 17, 0, 18, 0):
            await happen(days)

        async def counted() -> bool:
            return await harness.counted(account=account) == 5

        await until(counted, "all five are counted")


async def test_a_day_that_is_being_read_is_dropped_later_and_holds_up_nobody(
    quiet: BillingHarness,
) -> None:
    database, now = quiet.database, OLD + timedelta(days=40)
    await RequestDays(database).ensure([OLD_DAY])
    await database.execute(_FILL, OLD_DAY, 30_000)
    async with reader(quiet):
        dropping = asyncio.create_task(drop_old_days(database, now))
        await asyncio.sleep(0)
        await RequestDays(database).ensure([OLD_DAY + 39])
        assert await dropping == []
        assert await drop_old_days(database, now) == [], "and asking again changes nothing"
    assert await drop_old_days(database, now) == [f"requests_{OLD_DAY}"]
    assert await drop_old_days(database, now) == []
    row = await database.fetchrow(
        "select sum(requests)::int as requests, sum(bytes)::int as bytes from request_days "
        "where minute / 1440 = $1",
        OLD_DAY,
    )
    assert row is not None and tuple(row) == (30_000, 60_000)
    await drop_old_days(database, OLD + timedelta(days=400))


async def test_a_day_that_was_half_added_up_when_the_process_died_is_added_up_once(
    quiet: BillingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, day = quiet.database, OLD_DAY + 100
    monkeypatch.setattr("services.billing.store.partitions._BLOCKS", 20)
    await RequestDays(database).ensure([day])
    await database.execute(_FILL, day, 10_000)
    async with database.acquire() as connection, connection.transaction():
        await connection.execute(
            "insert into request_days select domain, (at / 60000000)::int, node, count(*), "
            "sum(bytes)"
            f" from requests_{day} where ctid < '(40,0)' group by 1, 2, 3"
        )
        await connection.execute("insert into request_days_kept values ($1, 40, false)", day)
    assert await drop_old_days(database, OLD + timedelta(days=200)) == [f"requests_{day}"]
    assert (
        await database.fetchval(
            "select sum(requests)::int from request_days where minute / 1440 = $1", day
        )
        == 10_000
    )
