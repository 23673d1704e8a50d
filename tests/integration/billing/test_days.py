"""The effects of passing days: overdue, retention, single events by the day."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from services.billing.store import retention
from shared.contracts.usage import HttpsRequest
from shared.ids import new_id
from tests.integration.billing.harness import BillingHarness, billing_harness
from tests.support.factories import (
    current_minute,
    make_cell,
    split_into_batches,
    unique_domain,
    unique_name,
)
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def timed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BillingHarness]:
    """Two processes with a clock that tests move."""
    async with billing_harness(tmp_path_factory.mktemp("days")) as harness:
        harness.clock_file.write_text("0")
        await harness.start("billing")
        await harness.start("billing-2")
        yield harness


def _shift(harness: BillingHarness, **by: float) -> None:
    harness.clock_file.write_text(str(timedelta(**by).total_seconds()))


async def _account(harness: BillingHarness) -> tuple[str, str]:
    domain, account = unique_domain(), unique_name("acct")
    await harness.register(domain, account)
    await until(
        lambda: harness.database.fetchval(
            "select true from domain_facts where domain = $1", domain
        ),
        "owner known",
    )
    return domain, account


def _event(domain: str, id: str, source: str, at: datetime) -> HttpsRequest:
    return HttpsRequest(
        id=id, source=source, time=at, domain=domain, bytes=10, status=200, node="node-1"
    )


async def test_the_same_id_on_another_day_is_a_conflict(timed: BillingHarness) -> None:
    domain, _ = await _account(timed)
    now, source = datetime.now(UTC), unique_name("src")
    for number in range(20):
        await timed.request(_event(domain, f"r{number}", source, now - timedelta(days=number % 10)))

    async def counted(wanted: int) -> bool:
        return await timed.counted(domain=domain) == wanted

    await until(lambda: counted(20), "each counts in its day")
    await timed.request(_event(domain, "r3", source, now - timedelta(days=30)))
    await timed.until_dead_letter(f"id_conflict: event 'r3' of '{source}'")
    await timed.request(_event(domain, "r20", source, now - timedelta(days=30)))
    await until(lambda: counted(21), "another id of that day counts")
    partitions = await timed.database.fetchval(
        "select count(distinct day) from requests where source = $1", source
    )
    assert partitions == 11


async def test_depleted_for_24_hours_is_overdue_once_across_restarts_and_only_a_credit_settles_it(
    timed: BillingHarness,
) -> None:
    domain, account = await _account(timed)
    await timed.credit(account, "0.001")
    await timed.until_balance_event(account, "credited")
    (batch,) = split_into_batches(new_id(), [[make_cell(domain, 1000)]])
    await timed.batch(batch)
    await timed.until_balance_event(account, "depleted")
    _shift(timed, hours=23.9)
    await timed.credit(unique_name("acct"), "1")
    assert await timed.balance_events(account, "overdue") == []
    _shift(timed, hours=24.1)
    overdue = await timed.until_balance_event(account, "overdue")
    assert overdue.balance == Decimal("-0.004")
    assert (await timed.balance(account)).overdue
    for process in ("billing", "billing-2"):
        timed.kill(process)
        await timed.ready(process)
    _shift(timed, hours=60)
    await timed.credit(account, "0.004", "not-enough")
    await timed.until_balance_event(account, "credited", 2)
    view = await timed.balance(account)
    assert (view.balance, view.overdue, view.depleted) == (Decimal(0), True, True)
    await timed.credit(account, "0.001", "enough")
    await timed.until_balance_event(account, "settled")
    assert not (await timed.balance(account)).overdue
    money = ("depleted", "overdue", "settled")
    said = [
        event.change for event in timed.events if event.account == account and event.change in money
    ]
    assert said == ["depleted", "overdue", "settled"]
    _shift(timed)


async def test_days_of_single_events_are_dropped_after_the_late_window_and_their_sums_are_kept(
    timed: BillingHarness,
) -> None:
    domain, _ = await _account(timed)
    source, old = unique_name("src"), datetime.now(UTC) - timedelta(days=34)
    for number in range(7):
        await timed.request(_event(domain, f"r{number}", source, old))
    await until(
        lambda: timed.database.fetchval(
            "select count(*) = 7 from requests where source = $1", source
        ),
        "in",
    )
    _shift(timed, days=4)
    await until(
        lambda: timed.database.fetchval(
            "select count(*) = 0 from requests where source = $1", source
        ),
        "the day is dropped",
    )
    assert (
        await timed.database.fetchval(
            "select sum(requests)::int from request_days where domain = $1", domain
        )
        == 7
    )
    assert await timed.counted(domain=domain) == 7
    _shift(timed)


async def _rolled(harness: BillingHarness, hour: int) -> None:
    await harness.database.execute("insert into touched_hours (hour) values ($1)", hour)
    await harness.close_hour(datetime.now(UTC))
    marks = "select count(*) = 0 from touched_hours where hour = $1"
    await until(lambda: harness.database.fetchval(marks, hour), "it is rolled up")


async def test_usage_is_kept_by_the_hour_when_its_minutes_are_forgotten(
    timed: BillingHarness,
) -> None:
    domain, account = await _account(timed)
    hour = current_minute() // 60 - 4100 * 24
    for offset in (3, 17):
        await timed.database.execute(
            "insert into usage_minutes values ($1, $2, 'node-1', $3, 5, 50, 0, 0)",
            domain,
            hour * 60 + offset,
            account,
        )
    await _rolled(timed, hour)
    _shift(timed, days=6)
    await until(
        lambda: timed.database.fetchval(
            "select count(*) = 0 from usage_minutes where domain = $1", domain
        ),
        "its minutes are forgotten",
    )
    kept = await timed.database.fetch(
        "select hour, account, https_requests from usage_hours where domain = $1", domain
    )
    assert [tuple(row) for row in kept] == [(hour, account, 10)]
    _shift(timed)


async def test_a_late_owner_after_the_minutes_are_forgotten_costs_no_others_usage_of_that_hour(
    timed: BillingHarness,
) -> None:
    (mine, account), unknown, strange = await _account(timed), unique_domain(), unique_domain()
    hour = current_minute() // 60 - 4005 * 24
    for domain, who, requests in (
        (mine, account, 1_000_000),
        (unknown, "", 38),
        (unknown, "", 2),
        (strange, "", 5),
    ):
        await timed.database.execute(
            "insert into usage_minutes values ($1, $2, 'node-1', $3, $4, 0, 0, 0)",
            domain,
            hour * 60 + requests % 60,
            who,
            requests,
        )
    await _rolled(timed, hour)
    while await retention.forget_minutes(timed.database, datetime.now(UTC), 4000):
        pass
    assert (
        await timed.database.fetchval("select count(*) from usage_minutes where domain = $1", mine)
        == 0
    )
    finder = unique_name("acct")
    await timed.register(unknown, finder)

    async def usage() -> list[tuple[str, str, int]]:
        rows = await timed.database.fetch(
            "select domain, account, https_requests from usage_hours where hour = $1 and "
            "https_requests > 0",
            hour,
        )
        return sorted(tuple(row) for row in rows)

    expected = sorted([(mine, account, 1_000_000), (unknown, finder, 40), (strange, "", 5)])

    async def moved() -> bool:
        return await usage() == expected

    await until(moved, "the found usage has its owner, the rest is as it was")
    assert (await timed.balance(finder)).accrued == Decimal("0.0002")
    await timed.close_hour(datetime.now(UTC))
    await until(
        lambda: timed.database.fetchval(
            "select count(*) = 1 from ledger where account = $1", finder
        ),
        "it is charged",
    )
    assert await usage() == expected


async def test_removing_old_usage_slowly_holds_up_no_close_and_no_decision(
    timed: BillingHarness,
) -> None:
    """Another session keeps partitions from being created or dropped during the whole test."""
    domain, account = await _account(timed)
    (batch,) = split_into_batches(new_id(), [[make_cell(domain, 1000)]])
    async with timed.database.acquire() as connection, connection.transaction():
        await timed.batch(batch)
        await timed.until_confirmed(batch)
        await timed.until_balance_event(account, "depleted")
        await connection.execute("lock table catalogue_gate in exclusive mode")
        _shift(timed, days=10)
        assert (await timed.until_balance_event(account, "overdue")).balance == Decimal("-0.005")

        async def charged() -> bool:
            return (await timed.balance(account)).ledger == Decimal("-0.005")

        await until(charged, "the hour is closed")
    _shift(timed)
