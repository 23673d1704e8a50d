"""Single events: each (source, id) counts once."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

from shared import catalogue
from shared.contracts.usage import HttpsRequest
from tests.integration.billing.harness import BillingHarness
from tests.support.factories import unique_domain, unique_name
from tests.support.waiting import until


def _event(domain: str, number: int, source: str, **other: object) -> HttpsRequest:
    fields = {"time": datetime.now(UTC), "bytes": 10, "status": 200, "node": "node-1"} | other
    return HttpsRequest.model_validate(
        {"id": f"r{number}", "source": source, "domain": domain} | fields
    )


async def test_duplicates_count_once_and_the_same_id_of_another_source_is_another_event(
    harness: BillingHarness,
) -> None:
    domain, account, source = unique_domain(), unique_name("acct"), unique_name("src")
    await harness.register(domain, account)
    events = [_event(domain, n, source) for n in range(200)] + [
        _event(domain, n, f"{source}-b") for n in range(10)
    ]
    await asyncio.gather(*(harness.request(event) for event in events * 3))

    async def counted() -> bool:
        return await harness.counted(account=account) == 210

    await until(counted, "each counted once")
    rows = (await harness.usage(account=account)).rows
    assert sum(row.https_bytes for row in rows) == 2_100


async def test_the_same_id_with_another_content_is_kept_and_reported(
    harness: BillingHarness,
) -> None:
    domain, source = unique_domain(), unique_name("src")
    first = _event(domain, 1, source)
    await harness.request(first)
    await until(lambda: harness.counted(domain=domain), "counted")
    await harness.request(first.model_copy(update={"bytes": 999}))
    await harness.until_dead_letter(f"id_conflict: event 'r1' of '{source}'")
    kept = await harness.database.fetchval(
        "select body from request_conflicts where source = $1", source
    )
    assert json.loads(kept)["bytes"] == 999
    assert await harness.counted(domain=domain) == 1


async def test_an_event_that_another_process_is_storing_is_waited_for_and_not_counted_again(
    harness: BillingHarness,
) -> None:
    """Of two processes with the same event one is quicker. Here that is this transaction."""
    domain, source = unique_domain(), unique_name("src")
    events = [_event(domain, n, source) for n in range(3)]
    first = events[1]
    at = (first.time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    await harness.request(_event(domain, 9, source))
    await until(lambda: harness.counted(domain=domain), "the day has its partition")
    async with harness.database.acquire() as connection, connection.transaction():
        await connection.execute(
            "insert into requests values ($1, $2, $3, $4, $5, $6, $7, $8, now())",
            source,
            first.id,
            at // 86_400_000_000,
            at,
            domain,
            first.node,
            first.bytes,
            first.status,
        )
        await asyncio.gather(*(harness.request(event) for event in events))
        await until(lambda: _waits(harness), "billing waits for this transaction")
    await until(lambda: _is(harness, domain, 3), "the other two are counted")
    await harness.request(first.model_copy(update={"bytes": 999}))
    await harness.until_dead_letter(f"id_conflict: event 'r1' of '{source}'")
    assert await harness.counted(domain=domain) == 3
    logs = [replica.log_file.read_text() for replica in harness.replicas.values()]
    assert "batch.failed" not in "".join(logs)


async def _waits(harness: BillingHarness) -> bool:
    return (
        await harness.database.fetchval(
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query "
            "ilike 'copy%requests%'"
        )
        > 0
    )


async def _is(harness: BillingHarness, domain: str, count: int) -> bool:
    return await harness.counted(domain=domain) == count


async def test_late_early_and_malformed_events_become_dead_letters_each_alone(
    harness: BillingHarness,
) -> None:
    domain, source, now = unique_domain(), unique_name("src"), datetime.now(UTC)
    await harness.request(_event(domain, 1, source, time=now - timedelta(days=36)))
    await harness.request(_event(domain, 2, source, time=now + timedelta(minutes=10)))
    await harness.request(_event("WWW.example.test", 3, source))
    await harness.publish_raw("platform", catalogue.USAGE_REQUEST, b"[]")
    await harness.request(_event(domain, 4, source, time=now - timedelta(days=34)))
    await harness.request(_event(domain, 5, source, time=now + timedelta(minutes=3)))
    for text in ("minute_too_old", "minute_in_future", "domain_invalid", "not an HttpsRequest"):
        await harness.until_dead_letter(text)

    async def counted() -> bool:
        return await harness.counted(domain=domain) == 2

    await until(counted, "the good ones count")
