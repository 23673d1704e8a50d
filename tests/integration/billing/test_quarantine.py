"""What cannot be counted for a fault of ours is kept and tried again; it costs nobody else
anything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from deploy.embedded.ready import service_fault
from shared import catalogue
from shared.contracts.audit import QueryGaps
from shared.contracts.usage import HttpsRequest, UsageCell
from shared.ids import new_id
from tests.integration.billing.harness import (
    HOST,
    Stage,
    cell,
    domain_name,
    minute_now,
    name,
    split,
    stage,
)
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def parked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("parked")) as built:
        await built.start()
        yield built


async def _owned(staged: Stage) -> tuple[str, str]:
    domain, account = domain_name(), name("acct")
    await staged.register(domain, account, datetime.now(UTC) - timedelta(days=2))
    await until(
        lambda: staged.database.fetchval("select true from domain_facts where domain = $1", domain),
        "owner known",
    )
    return domain, account


def _wild(domain: str) -> list[UsageCell]:
    """Each is what its contract allows; their sum is beyond 64 bits."""
    return [UsageCell(domain=domain, minute=minute_now(), https_requests=2**53)] * 1100


async def _counts(staged: Stage, account: str, requests: int) -> None:
    async def counted() -> bool:
        return await staged.counted(account=account) == requests

    await until(counted, f"{requests} are counted", limit=20)


async def test_a_batch_that_cannot_be_counted_is_parked_and_counted_when_it_can_be(
    parked: Stage,
) -> None:
    domain, account = await _owned(parked)
    wild, later = split(new_id(), [_wild(domain), [cell(domain, 7)]], node="node-2")
    others = split(new_id(), [[cell(domain, 1)]] * 20)
    for batch in (wild, later, *others):
        await parked.batch(batch)
    await parked.confirmed_to(others[-1])
    row = "select node, log, start_at, end_at, reason from parked_messages where log = $1"
    await until(lambda: parked.database.fetchrow(row, wild.log), "it is parked")
    found = await parked.database.fetchrow(row, wild.log)
    assert found is not None and tuple(found)[:4] == ("node-2", wild.log, 0, 100)
    assert "NumericValueOutOfRangeError" in found["reason"]
    assert await parked.counted(account=account) == 20
    page = await parked.ask(catalogue.RPC_USAGE_GAPS, QueryGaps(node="node-2"))
    assert [(gap.log, gap.start, gap.end, gap.kind) for gap in page.gaps] == [
        (wild.log, 0, 100, "parked")
    ]
    assert not [letter for letter in await parked.dead() if wild.log in (letter.body or "")]

    fixed = wild.model_copy(update={"cells": [cell(domain, 3)]})
    await parked.database.execute(
        "update parked_messages set body = $1 where log = $2", fixed.encode(), wild.log
    )
    await parked.confirmed_to(later)
    assert await parked.counted(account=account) == 30
    await until(lambda: _nothing_is_parked(parked), "it is let go")


async def test_an_event_that_cannot_be_counted_is_parked_alone(parked: Stage) -> None:
    domain, account = await _owned(parked)
    other, well = await _owned(parked)
    hour = minute_now() // 60
    full = "insert into account_hours (account, hour, requests, charged) values ($1, $2, $3, $3)"
    for at in (hour - 1, hour, hour + 1):
        await parked.database.execute(full, account, at, 2**63 - 1)

    async def happen(of: str, count: int) -> None:
        for _ in range(count):
            await parked.request(
                HttpsRequest(
                    id=new_id(),
                    source="parking",
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
    await _counts(parked, well, 7)
    two = "select count(*) = 2 from parked_messages where node is null"
    await until(lambda: parked.database.fetchval(two), "two are parked")
    assert await parked.counted(account=account) == 0
    assert (await parked.ask(catalogue.RPC_USAGE_GAPS, QueryGaps())).parked_events == 2
    await parked.database.execute("delete from account_hours where account = $1", account)
    await _counts(parked, account, 2)
    await until(lambda: _nothing_is_parked(parked), "they are let go")
    assert await parked.dead() == []


async def _nothing_is_parked(staged: Stage) -> bool:
    return bool(await staged.database.fetchval("select count(*) = 0 from parked_messages"))


async def test_an_account_that_cannot_be_charged_holds_up_no_other(parked: Stage) -> None:
    (bad_domain, bad), (good_domain, good) = await _owned(parked), await _owned(parked)
    (batch,) = split(
        new_id(), [[cell(bad_domain, 10_000, minute_now() - 60), cell(good_domain, 10_000)]]
    )
    await parked.batch(batch)
    await parked.confirmed_to(batch)
    await parked.database.execute(
        "update account_hours set postings = 2147483647 where account = $1", bad
    )
    await parked.close_hour(datetime.now(UTC) + timedelta(hours=1))

    async def charged(account: str) -> bool:
        return (await parked.balance(account)).ledger == Decimal("-0.05")

    await until(lambda: charged(good), "the other one is charged")
    assert (await parked.balance(bad)).accrued == Decimal("0.05")
    await parked.database.execute("update account_hours set postings = 0 where account = $1", bad)
    await parked.close_hour(datetime.now(UTC) + timedelta(hours=1))
    await until(lambda: charged(bad), "it is charged when it can be")


async def test_more_than_a_thousand_parked_messages_pause_the_stream(parked: Stage) -> None:
    await parked.database.execute(
        "insert into parked_messages (durable, digest, subject, reply, headers, body, reason, "
        "last_at)"
        " select 'billing-requests', n::text::bytea, '', '', '{}', '', 'a test', now() + "
        "interval '1 hour'"
        " from generate_series(1, 1000) as n"
    )
    domain, _ = await _owned(parked)
    (wild,) = split(new_id(), [_wild(domain)], node="node-2")
    await parked.batch(wild)
    await until(lambda: _pauses(parked), "it is not ready")
    assert (
        await parked.database.fetchval(
            "select count(*) from parked_messages where log = $1", wild.log
        )
        == 0
    )
    await parked.database.execute("delete from parked_messages where reason = 'a test'")
    await until(
        lambda: parked.database.fetchval(
            "select true from parked_messages where log = $1", wild.log
        ),
        "it is parked",
    )
    await parked.ready()


async def _pauses(staged: Stage) -> bool:
    return await service_fault(HOST, staged.ports_of["billing"]) is not None
