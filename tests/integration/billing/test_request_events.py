"""Single events: each (source, id) counts once."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

from shared import catalogue
from shared.contracts.usage import HttpsRequest
from tests.integration.billing.harness import Stage, domain_name, name
from tests.support.waiting import until


def _event(domain: str, number: int, source: str, **other: object) -> HttpsRequest:
    fields = {"time": datetime.now(UTC), "bytes": 10, "status": 200, "node": "node-1"} | other
    return HttpsRequest.model_validate(
        {"id": f"r{number}", "source": source, "domain": domain} | fields
    )


async def test_duplicates_count_once_and_the_same_id_of_another_source_is_another_event(
    staged: Stage,
) -> None:
    domain, account, source = domain_name(), name("acct"), name("src")
    await staged.register(domain, account)
    events = [_event(domain, n, source) for n in range(200)] + [
        _event(domain, n, f"{source}-b") for n in range(10)
    ]
    await asyncio.gather(*(staged.request(event) for event in events * 3))

    async def counted() -> bool:
        return await staged.counted(account=account) == 210

    await until(counted, "each counted once")
    rows = (await staged.usage(account=account)).rows
    assert sum(row.https_bytes for row in rows) == 2_100


async def test_the_same_id_with_another_content_is_kept_and_reported(staged: Stage) -> None:
    domain, source = domain_name(), name("src")
    first = _event(domain, 1, source)
    await staged.request(first)
    await until(lambda: staged.counted(domain=domain), "counted")
    await staged.request(first.model_copy(update={"bytes": 999}))
    await staged.until_dead_letter(f"id_conflict: event 'r1' of '{source}'")
    kept = await staged.database.fetchval(
        "select body from request_conflicts where source = $1", source
    )
    assert json.loads(kept)["bytes"] == 999
    assert await staged.counted(domain=domain) == 1


async def test_an_event_that_another_process_is_storing_is_waited_for_and_not_counted_again(
    staged: Stage,
) -> None:
    """Of two processes with the same event one is quicker. Here that is this transaction."""
    domain, source = domain_name(), name("src")
    events = [_event(domain, n, source) for n in range(3)]
    first = events[1]
    at = (first.time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    await staged.request(_event(domain, 9, source))
    await until(lambda: staged.counted(domain=domain), "the day has its partition")
    async with staged.database.acquire() as connection, connection.transaction():
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
        await asyncio.gather(*(staged.request(event) for event in events))
        await until(lambda: _waits(staged), "billing waits for this transaction")
    await until(lambda: _is(staged, domain, 3), "the other two are counted")
    await staged.request(first.model_copy(update={"bytes": 999}))
    await staged.until_dead_letter(f"id_conflict: event 'r1' of '{source}'")
    assert await staged.counted(domain=domain) == 3
    logs = [staged.backend.supervisor.log(process).read_text() for process in staged.ports_of]
    assert "batch.failed" not in "".join(logs)


async def _waits(staged: Stage) -> bool:
    return (
        await staged.database.fetchval(
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query "
            "ilike 'copy%requests%'"
        )
        > 0
    )


async def _is(staged: Stage, domain: str, count: int) -> bool:
    return await staged.counted(domain=domain) == count


async def test_late_early_and_malformed_events_become_dead_letters_each_alone(
    staged: Stage,
) -> None:
    domain, source, now = domain_name(), name("src"), datetime.now(UTC)
    await staged.request(_event(domain, 1, source, time=now - timedelta(days=36)))
    await staged.request(_event(domain, 2, source, time=now + timedelta(minutes=10)))
    await staged.request(_event("WWW.example.test", 3, source))
    await staged.raw(catalogue.USAGE_REQUEST, b"[]", user="platform")
    await staged.request(_event(domain, 4, source, time=now - timedelta(days=34)))
    await staged.request(_event(domain, 5, source, time=now + timedelta(minutes=3)))
    for text in ("minute_too_old", "minute_in_future", "domain_invalid", "not an HttpsRequest"):
        await staged.until_dead_letter(text)

    async def counted() -> bool:
        return await staged.counted(domain=domain) == 2

    await until(counted, "the good ones count")
