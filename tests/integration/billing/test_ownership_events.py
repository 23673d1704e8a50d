"""Usage belongs to the owner of its minute, whether the usage or the event comes first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from shared.ids import new_id
from tests.integration.billing.harness import Stage, cell, current_minute, domain_name, name, split
from tests.support.waiting import until


def _at(minute: int, seconds: int = 0) -> datetime:
    return datetime.fromtimestamp(minute * 60 + seconds, UTC)


async def test_usage_of_an_unknown_domain_is_kept_and_attributed_when_it_is_registered(
    staged: Stage,
) -> None:
    domain, account = domain_name(), name("acct")
    (batch,) = split(new_id(), [[cell(domain, 30), cell(domain, 12, current_minute() - 200)]])
    await staged.batch(batch)
    await staged.until_confirmed(batch)
    assert {row.key for row in (await staged.usage(domain=domain)).rows} == {""}
    assert await staged.counted(domain=domain) == 42
    await staged.register(domain, account)
    await until(lambda: staged.counted(account=account), "it has its owner")
    assert await staged.counted(account=account) == 42
    assert (await staged.balance(account)).accrued == Decimal("0.00021")


async def test_a_change_of_owner_counts_from_the_next_full_minute_even_when_the_event_is_late(
    staged: Stage,
) -> None:
    domain, first, second = domain_name(), name("acct"), name("acct")
    minute = current_minute() - 120
    await staged.register(domain, first, _at(minute - 60))
    (batch,) = split(new_id(), [[cell(domain, 2**k, minute + k) for k in range(4)]])
    await staged.batch(batch)
    await staged.until_confirmed(batch)
    await until(lambda: staged.counted(account=first), "all of it is the first owner's")
    await staged.close_hour(datetime.now(UTC) + timedelta(hours=1))

    async def charged() -> bool:
        return (await staged.balance(first)).ledger == -Decimal("0.000005") * 15

    await until(charged, "and charged to it")
    await staged.remove(domain, first, _at(minute + 1, 20))
    await staged.register(domain, second, _at(minute + 1, 40))
    await until(lambda: staged.counted(account=second), "the rest moves to the second")
    assert (await staged.counted(account=first), await staged.counted(account=second)) == (3, 12)
    await staged.close_hour(datetime.now(UTC) + timedelta(hours=1))

    async def corrected() -> bool:
        return (await staged.balance(second)).accrued == 0 and (
            await staged.balance(first)
        ).accrued == 0

    await until(corrected, "charged anew")
    assert (await staged.balance(first)).ledger == -Decimal("0.000005") * 3
    assert (await staged.balance(second)).ledger == -Decimal("0.000005") * 12


async def test_hours_that_were_rolled_up_and_touched_again_read_the_same_at_every_granularity(
    staged: Stage,
) -> None:
    domain, account = domain_name(), name("acct")
    await staged.register(domain, account)
    minute = current_minute() - 180
    expected = 0
    for wave in range(3):
        (batch,) = split(
            new_id(), [[cell(domain, wave + 1, minute + step * 7) for step in range(20)]]
        )
        await staged.batch(batch)
        await staged.until_confirmed(batch)
        expected += (wave + 1) * 20
        for granularity in ("5m", "hour", "day"):
            assert (
                await staged.counted(domain=domain, granularity=granularity, limit=500) == expected
            )
        await staged.close_hour(datetime.now(UTC))
        await until(
            lambda: staged.database.fetchval(
                "select not exists (select from touched_hours where hour < $1)",
                current_minute() // 60,
            ),
            "the hours are rolled up",
        )
        assert await staged.counted(domain=domain, granularity="hour") == expected
        part = {"start": _at(minute + 1), "end": _at(minute + 100)}
        parts = [
            await staged.counted(domain=domain, granularity=g, **part)
            for g in ("5m", "hour", "day")
        ]
        assert len(set(parts)) == 1


async def test_pages_join_to_the_whole(staged: Stage) -> None:
    account = name("acct")
    domains = sorted(domain_name() for _ in range(7))
    for domain in domains:
        await staged.register(domain, account)
    minute = current_minute() - 90
    (batch,) = split(
        new_id(), [[cell(domain, 1, minute + step * 30) for domain in domains for step in range(2)]]
    )
    await staged.batch(batch)
    await staged.until_confirmed(batch)

    async def all_owned() -> bool:
        return await staged.counted(account=account) == 14

    await until(all_owned, "all have their owner")
    for granularity in ("5m", "hour"):
        rows, after = [], None
        while True:
            page = await staged.usage(
                account=account, by="domain", granularity=granularity, limit=3, after=after
            )
            rows += page.rows
            if page.next is None:
                break
            after = page.next
        assert sum(row.https_requests for row in rows) == 14
        keys = [(row.start, row.key) for row in rows]
        assert keys == sorted(set(keys))
