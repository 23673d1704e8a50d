"""Usage belongs to the owner of its minute, whether the usage or the event comes first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from shared.ids import new_id
from tests.integration.billing.harness import BillingHarness
from tests.support.factories import (
    current_minute,
    make_cell,
    split_into_batches,
    unique_domain,
    unique_name,
)
from tests.support.waiting import until


def _at(minute: int, seconds: int = 0) -> datetime:
    return datetime.fromtimestamp(minute * 60 + seconds, UTC)


async def test_usage_of_an_unknown_domain_is_kept_and_attributed_when_it_is_registered(
    harness: BillingHarness,
) -> None:
    domain, account = unique_domain(), unique_name("acct")
    (batch,) = split_into_batches(
        new_id(), [[make_cell(domain, 30), make_cell(domain, 12, current_minute() - 200)]]
    )
    await harness.batch(batch)
    await harness.until_confirmed(batch)
    assert {row.key for row in (await harness.usage(domain=domain)).rows} == {""}
    assert await harness.counted(domain=domain) == 42
    await harness.register(domain, account)
    await until(lambda: harness.counted(account=account), "it has its owner")
    assert await harness.counted(account=account) == 42
    assert (await harness.balance(account)).accrued == Decimal("0.00021")


async def test_a_change_of_owner_counts_from_the_next_full_minute_even_when_the_event_is_late(
    harness: BillingHarness,
) -> None:
    domain, first, second = unique_domain(), unique_name("acct"), unique_name("acct")
    minute = current_minute() - 120
    await harness.register(domain, first, _at(minute - 60))
    (batch,) = split_into_batches(
        new_id(), [[make_cell(domain, 2**k, minute + k) for k in range(4)]]
    )
    await harness.batch(batch)
    await harness.until_confirmed(batch)
    await until(lambda: harness.counted(account=first), "all of it is the first owner's")
    await harness.close_hour(datetime.now(UTC) + timedelta(hours=1))

    async def charged() -> bool:
        return (await harness.balance(first)).ledger == -Decimal("0.000005") * 15

    await until(charged, "and charged to it")
    await harness.remove(domain, first, _at(minute + 1, 20))
    await harness.register(domain, second, _at(minute + 1, 40))
    await until(lambda: harness.counted(account=second), "the rest moves to the second")
    assert (await harness.counted(account=first), await harness.counted(account=second)) == (3, 12)
    await harness.close_hour(datetime.now(UTC) + timedelta(hours=1))

    async def corrected() -> bool:
        return (await harness.balance(second)).accrued == 0 and (
            await harness.balance(first)
        ).accrued == 0

    await until(corrected, "charged anew")
    assert (await harness.balance(first)).ledger == -Decimal("0.000005") * 3
    assert (await harness.balance(second)).ledger == -Decimal("0.000005") * 12


async def test_hours_that_were_rolled_up_and_touched_again_read_the_same_at_every_granularity(
    harness: BillingHarness,
) -> None:
    domain, account = unique_domain(), unique_name("acct")
    await harness.register(domain, account)
    minute = current_minute() - 180
    expected = 0
    for wave in range(3):
        (batch,) = split_into_batches(
            new_id(), [[make_cell(domain, wave + 1, minute + step * 7) for step in range(20)]]
        )
        await harness.batch(batch)
        await harness.until_confirmed(batch)
        expected += (wave + 1) * 20
        for granularity in ("5m", "hour", "day"):
            assert (
                await harness.counted(domain=domain, granularity=granularity, limit=500) == expected
            )
        await harness.close_hour(datetime.now(UTC))
        await until(
            lambda: harness.database.fetchval(
                "select not exists (select from touched_hours where hour < $1)",
                current_minute() // 60,
            ),
            "the hours are rolled up",
        )
        assert await harness.counted(domain=domain, granularity="hour") == expected
        part = {"start": _at(minute + 1), "end": _at(minute + 100)}
        parts = [
            await harness.counted(domain=domain, granularity=g, **part)
            for g in ("5m", "hour", "day")
        ]
        assert len(set(parts)) == 1


async def test_pages_join_to_the_whole(harness: BillingHarness) -> None:
    account = unique_name("acct")
    domains = sorted(unique_domain() for _ in range(7))
    for domain in domains:
        await harness.register(domain, account)
    minute = current_minute() - 90
    (batch,) = split_into_batches(
        new_id(),
        [[make_cell(domain, 1, minute + step * 30) for domain in domains for step in range(2)]],
    )
    await harness.batch(batch)
    await harness.until_confirmed(batch)

    async def all_owned() -> bool:
        return await harness.counted(account=account) == 14

    await until(all_owned, "all have their owner")
    for granularity in ("5m", "hour"):
        rows, after = [], None
        while True:
            page = await harness.usage(
                account=account, by="domain", granularity=granularity, limit=3, after=after
            )
            rows += page.rows
            if page.next is None:
                break
            after = page.next
        assert sum(row.https_requests for row in rows) == 14
        keys = [(row.start, row.key) for row in rows]
        assert keys == sorted(set(keys))
