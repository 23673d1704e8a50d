"""Totals stay the same when processes share the work and die in the middle of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from services.billing.domain.wire_format import unpack_cells
from shared.contracts.usage import HttpsRequest, UsageBatch
from shared.ids import new_id
from tests.integration.billing.harness import NODES, BillingHarness, billing_harness
from tests.support.factories import make_cell, split_into_batches, unique_domain, unique_name
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def shared_work(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BillingHarness]:
    """Two processes on the same streams and database."""
    async with billing_harness(tmp_path_factory.mktemp("two")) as harness:
        await harness.start("billing")
        await harness.start("billing-2")
        yield harness


def _flood(domains: list[str], logs: int, ranges: int) -> list[UsageBatch]:
    return [
        batch
        for number in range(logs)
        for batch in split_into_batches(
            new_id(),
            [[make_cell(domain, 1 + turn % 5) for domain in domains] for turn in range(ranges)],
            node=NODES[number % len(NODES)],
        )
    ]


def _total(batches: list[UsageBatch]) -> int:
    return sum(one.https_requests for batch in batches for one in batch.cells)


async def _all_in(harness: BillingHarness, batches: list[UsageBatch], account: str) -> None:
    ends = {batch.log: batch.end for batch in sorted(batches, key=lambda one: one.end)}

    async def stored() -> bool:
        rows = await harness.database.fetch(
            "select log, stored_to from node_logs where log = any($1::text[])", list(ends)
        )
        return {row["log"]: row["stored_to"] for row in rows} == ends

    await until(stored, "every byte is in")
    assert await harness.counted(account=account) == _total(batches)
    assert (await harness.balance(account)).accrued == Decimal("0.000005") * _total(batches)


async def _register(harness: BillingHarness, count: int) -> tuple[list[str], str]:
    account, domains = unique_name("acct"), [unique_domain() for _ in range(count)]
    for domain in domains:
        await harness.register(domain, account)
    await until(
        lambda: harness.database.fetchval(
            "select count(*) = $2 from domain_facts where account = $1", account, count
        ),
        "owners known",
    )
    return domains, account


async def test_two_processes_share_the_work_without_deadlock_or_double_count(
    shared_work: BillingHarness,
) -> None:
    domains, account = await _register(shared_work, 30)
    await shared_work.threshold(account, "1")
    await shared_work.credit(account, "1.001")
    await shared_work.until_balance_event(account, "credited")
    batches = _flood(domains, logs=9, ranges=20)
    sent = batches + batches[::3]
    random.Random(3).shuffle(sent)
    await asyncio.gather(*(shared_work.batch(batch) for batch in sent))
    await _all_in(shared_work, batches, account)
    await shared_work.close_hour(datetime.now(UTC) + timedelta(hours=1))
    await until(lambda: _is_charged(shared_work, account), "charged")
    await shared_work.until_balance_event(account, "low")
    assert len(await shared_work.balance_events(account, "low")) == 1
    for process in ("billing", "billing-2"):
        log = shared_work.replicas[process].log_file.read_text()
        assert "Deadlock" not in log and "batch.failed" not in log


async def _is_charged(harness: BillingHarness, account: str) -> bool:
    view = await harness.balance(account)
    return view.accrued == 0 and view.ledger != 0


async def test_kill_minus_nine_during_ingest_changes_no_total_and_flags_once(
    shared_work: BillingHarness,
) -> None:
    domains, account = await _register(shared_work, 20)
    await shared_work.threshold(account, "1")
    await shared_work.credit(account, "1.0001")
    await shared_work.until_balance_event(account, "credited")
    batches = _flood(domains, logs=6, ranges=30)
    single = [
        HttpsRequest(
            id=str(n),
            source=account,
            time=datetime.now(UTC),
            domain=domains[0],
            bytes=1,
            status=200,
            node="n",
        )
        for n in range(300)
    ]

    batches.sort(key=lambda one: one.start)
    third = len(batches) // 3
    for turn, process in enumerate(("billing", "billing-2", "billing")):
        floor = await _stored(shared_work, account)
        wave = batches[turn * third : (turn + 1) * third], single[turn * 100 : (turn + 1) * 100]
        feeding = asyncio.create_task(_feed(shared_work, *wave))
        await until(lambda floor=floor: _moved(shared_work, account, floor), "it is counting")
        await _kill(shared_work, process)
        await feeding
    for process in ("billing", "billing-2"):
        await shared_work.ready(process)
    expected = _total(batches) + len(single)

    async def complete() -> bool:
        return await _stored(shared_work, account) == expected

    await until(complete, "everything is counted")
    assert await shared_work.counted(account=account) == expected
    assert (await shared_work.balance(account)).accrued == Decimal("0.000005") * expected
    await shared_work.until_balance_event(account, "low")
    assert len(await shared_work.balance_events(account, "low")) == 1
    rows = await shared_work.database.fetch(
        "select count(*) as n from outbox where headers->>'ce-type' like '%balance.low%'"
        " and headers->>'ce-subject' = $1",
        account,
    )
    assert rows[0]["n"] == 1


async def _feed(
    harness: BillingHarness, batches: list[UsageBatch], single: list[HttpsRequest]
) -> None:
    for batch in batches:
        await harness.batch(batch)
    for event in single:
        await harness.request(event)


async def _kill(harness: BillingHarness, process: str) -> None:
    replica = harness.replicas[process]
    deaths = replica.deaths
    replica.kill()
    await until(lambda: replica.deaths > deaths and replica.pid, "it is started again")


async def _stored(harness: BillingHarness, account: str) -> int:
    """Read from the tables: no process may be there to answer."""
    return await harness.database.fetchval(
        "select coalesce(sum(https_requests), 0)::bigint from usage_minutes where account = $1",
        account,
    )


async def _moved(harness: BillingHarness, account: str, floor: int) -> bool:
    return await _stored(harness, account) > floor


async def test_the_archive_holds_exactly_what_was_counted(shared_work: BillingHarness) -> None:
    rows = await shared_work.database.fetch("select cells from batch_archive")
    archived = sum(cells[2] for row in rows for cells in unpack_cells(row["cells"]))
    single = await shared_work.database.fetchval("select count(*) from requests")
    counted = await shared_work.database.fetchval(
        "select sum(https_requests)::bigint from usage_minutes"
    )
    accrued = await shared_work.database.fetchval("select sum(requests)::bigint from account_hours")
    assert archived + single == counted == accrued


async def test_an_hour_is_closed_once_it_is_over(shared_work: BillingHarness) -> None:
    domains, account = await _register(shared_work, 1)
    batches = _flood(domains, logs=1, ranges=3)
    for batch in batches:
        await shared_work.batch(batch)
    await _all_in(shared_work, batches, account)
    shared_work.clock_file.write_text("7800")
    try:
        await until(lambda: _is_charged(shared_work, account), "charged by the clock")
    finally:
        shared_work.clock_file.write_text("0")
    lines = await shared_work.database.fetch(
        "select kind, requests from ledger where account = $1", account
    )
    assert [tuple(line) for line in lines] == [("charge", _total(batches))]


async def test_a_database_that_was_away_costs_time_not_usage(shared_work: BillingHarness) -> None:
    domains, account = await _register(shared_work, 3)
    batches = _flood(domains, logs=3, ranges=10)
    for batch in batches[:15]:
        await shared_work.batch(batch)
    shared_work.cluster.kill("postgres")
    for batch in batches[15:]:
        await shared_work.batch(batch)

    async def answers() -> bool:
        try:
            return bool(await shared_work.database.fetchval("select true"))
        except Exception:
            return False

    await until(answers, "PostgreSQL is back")
    await _all_in(shared_work, batches, account)
