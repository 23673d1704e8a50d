"""Messages that fail for a fault of ours are kept and tried again, and delay no others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from shared import catalogue
from shared.contracts.audit import QueryGaps
from shared.contracts.usage import HttpsRequest, UsageCell
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
async def own_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BillingHarness]:
    async with billing_harness(tmp_path_factory.mktemp("quarantine")) as harness:
        await harness.start()
        yield harness


async def _owned(harness: BillingHarness) -> tuple[str, str]:
    domain, account = unique_domain(), unique_name("acct")
    await harness.register(domain, account, datetime.now(UTC) - timedelta(days=2))
    await until(
        lambda: harness.database.fetchval(
            "select true from domain_facts where domain = $1", domain
        ),
        "owner known",
    )
    return domain, account


def _wild(domain: str) -> list[UsageCell]:
    """Return cells that their contract allows; their sum is beyond 64 bits."""
    return [UsageCell(domain=domain, minute=current_minute(), https_requests=2**53)] * 1100


async def _counts(harness: BillingHarness, account: str, requests: int) -> None:
    async def counted() -> bool:
        return await harness.counted(account=account) == requests

    await until(counted, f"{requests} are counted")


async def test_a_batch_that_cannot_be_counted_is_quarantined_and_counted_when_it_can_be(
    own_stage: BillingHarness,
) -> None:
    domain, account = await _owned(own_stage)
    wild, later = split_into_batches(
        new_id(), [_wild(domain), [make_cell(domain, 7)]], node="node-2"
    )
    others = split_into_batches(new_id(), [[make_cell(domain, 1)]] * 20)
    for batch in (wild, later, *others):
        await own_stage.batch(batch)
    await own_stage.until_confirmed(others[-1])
    row = "select node, log, start_at, end_at, reason from parked_messages where log = $1"
    await until(lambda: own_stage.database.fetchrow(row, wild.log), "it is in quarantine")
    found = await own_stage.database.fetchrow(row, wild.log)
    assert found is not None and tuple(found)[:4] == ("node-2", wild.log, 0, 100)
    assert "NumericValueOutOfRangeError" in found["reason"]
    assert await own_stage.counted(account=account) == 20
    page = await own_stage.ask(catalogue.RPC_USAGE_GAPS, QueryGaps(node="node-2"))
    assert [(gap.log, gap.start, gap.end, gap.kind) for gap in page.gaps] == [
        (wild.log, 0, 100, "parked")
    ]
    assert not [
        letter for letter in await own_stage.dead_letters() if wild.log in (letter.body or "")
    ]

    fixed = wild.model_copy(update={"cells": [make_cell(domain, 3)]})
    await own_stage.database.execute(
        "update parked_messages set body = $1 where log = $2", fixed.encode(), wild.log
    )
    await own_stage.until_confirmed(later)
    assert await own_stage.counted(account=account) == 30
    await until(lambda: _quarantine_is_empty(own_stage), "it leaves the quarantine")


async def test_an_event_that_cannot_be_counted_is_quarantined_alone(
    own_stage: BillingHarness,
) -> None:
    domain, account = await _owned(own_stage)
    other, well = await _owned(own_stage)
    hour = current_minute() // 60
    full = "insert into account_hours (account, hour, requests, charged) values ($1, $2, $3, $3)"
    for at in (hour - 1, hour, hour + 1):
        await own_stage.database.execute(full, account, at, 2**63 - 1)

    async def happen(of: str, count: int) -> None:
        for _ in range(count):
            await own_stage.request(
                HttpsRequest(
                    id=new_id(),
                    source="quarantine",
                    time=datetime.now(UTC),
                    domain=of,
                    bytes=1,
                    status=200,
                    node="node-1",
                )
            )

    await happen(other, 3)
    await happen(domain, 2)
    await happen(other, 4)
    await _counts(own_stage, well, 7)
    two = "select count(*) = 2 from parked_messages where node is null"
    await until(lambda: own_stage.database.fetchval(two), "two are in quarantine")
    assert await own_stage.counted(account=account) == 0
    assert (await own_stage.ask(catalogue.RPC_USAGE_GAPS, QueryGaps())).parked_events == 2
    await own_stage.database.execute("delete from account_hours where account = $1", account)
    await _counts(own_stage, account, 2)
    await until(lambda: _quarantine_is_empty(own_stage), "they leave the quarantine")
    assert await own_stage.dead_letters() == []


async def _quarantine_is_empty(harness: BillingHarness) -> bool:
    return bool(await harness.database.fetchval("select count(*) = 0 from parked_messages"))


async def test_an_account_that_cannot_be_charged_holds_up_no_other(
    own_stage: BillingHarness,
) -> None:
    (bad_domain, bad), (good_domain, good) = await _owned(own_stage), await _owned(own_stage)
    (batch,) = split_into_batches(
        new_id(),
        [[make_cell(bad_domain, 10_000, current_minute() - 60), make_cell(good_domain, 10_000)]],
    )
    await own_stage.batch(batch)
    await own_stage.until_confirmed(batch)
    await own_stage.database.execute(
        "update account_hours set postings = 2147483647 where account = $1", bad
    )
    await own_stage.close_hour(datetime.now(UTC) + timedelta(hours=1))

    async def charged(account: str) -> bool:
        return (await own_stage.balance(account)).ledger == Decimal("-0.05")

    await until(lambda: charged(good), "the other one is charged")
    assert (await own_stage.balance(bad)).accrued == Decimal("0.05")
    await own_stage.database.execute(
        "update account_hours set postings = 0 where account = $1", bad
    )
    await own_stage.close_hour(datetime.now(UTC) + timedelta(hours=1))
    await until(lambda: charged(bad), "it is charged when it can be")


async def test_a_full_quarantine_pauses_the_stream_and_nothing_is_lost(
    own_stage: BillingHarness,
) -> None:
    await own_stage.database.execute(
        "insert into parked_messages (durable, digest, subject, reply, headers, body, reason, "
        "last_at)"
        " select 'billing-requests', n::text::bytea, '', '', '{}', '', 'a test', now() + "
        "interval '1 hour'"
        " from generate_series(1, 1000) as n"
    )
    domain, _ = await _owned(own_stage)
    (wild,) = split_into_batches(new_id(), [_wild(domain)], node="node-2")
    await own_stage.batch(wild)
    await until(lambda: _pauses(own_stage), "it is not ready")
    assert (
        await own_stage.database.fetchval(
            "select count(*) from parked_messages where log = $1", wild.log
        )
        == 0
    )
    await own_stage.database.execute("delete from parked_messages where reason = 'a test'")
    await until(
        lambda: own_stage.database.fetchval(
            "select true from parked_messages where log = $1", wild.log
        ),
        "it is in quarantine",
    )
    await own_stage.ready()


async def _pauses(harness: BillingHarness) -> bool:
    return not await harness.replicas["billing"].is_ready()
