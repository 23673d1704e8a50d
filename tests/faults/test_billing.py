"""A million requests come in while billing, the broker and PostgreSQL are killed ten times and the
broker forgets everything: each is counted once and charged once, and each malformed one is a dead
letter."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from shared import catalogue, topology
from shared.contracts.audit import QueryAudit, QueryGaps
from shared.contracts.queries import DeadLetter, ListDead, QueryUsage
from shared.messaging.rpc import ask
from tests.faults.usage_load import (
    ACCOUNTS,
    DOMAINS,
    NODES,
    WHOLE_LOAD_SECONDS,
    UsageLoad,
    UsageSenders,
)
from tests.integration.billing.harness import BillingHarness, billing_harness
from tests.support.waiting import until

BILLING = ("billing", "billing-2")
VICTIMS = (
    "billing",
    "nats",
    "postgres",
    "billing-2",
    "nats",
    "billing",
    "postgres",
    "billing-2",
    "nats",
    "postgres",
)
KILLS_BEFORE_FORGETTING = 5


@pytest.fixture(scope="module")
async def billing(scratch: Path) -> AsyncIterator[BillingHarness]:
    async with billing_harness(scratch / "billing") as harness:
        await asyncio.gather(*(harness.start(name) for name in BILLING))
        for node in NODES:
            await harness.enrol(node)
        harness.clients["topology"] = await harness.cluster.client("topology")
        yield harness


@pytest.mark.timeout(900)
async def test_a_million_requests_survive_ten_kills_and_a_broker_that_forgets_everything(
    billing: BillingHarness,
) -> None:
    load = UsageLoad.generate(seed=6)
    total = load.expected.total()
    assert total == 1_000_000 and load.late > 500
    await _register_owners(billing, load)
    began = time.monotonic()
    senders = UsageSenders(billing, load)
    async with asyncio.TaskGroup() as group:
        group.create_task(senders.send_batches())
        group.create_task(senders.send_single_requests())
        group.create_task(_kill_in_turn(billing, senders))
    await _until_all_counted(billing, total)
    print(
        f"{total} requests, {senders.sent} messages, {load.late} late: "
        f"{time.monotonic() - began:.0f} s"
    )
    await _until_ready(billing)
    assert await _usage_by_domain(billing) == load.expected
    await _assert_all_charged(billing, total)
    await _assert_malformed_are_dead_letters(billing, load)
    await _assert_complete(billing, total)


async def _register_owners(harness: BillingHarness, load: UsageLoad) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=40)
    for domain in DOMAINS:
        await harness.register(domain, load.account(domain), long_ago)
    await until(
        lambda: harness.database.fetchval("select count(*) = $1 from domain_facts", len(DOMAINS)),
        "owners known",
    )


async def _kill_in_turn(harness: BillingHarness, senders: UsageSenders) -> None:
    """Kill one after the other while messages are on their way, each once it runs again."""
    processes = harness.cluster.processes
    for number, victim in enumerate(VICTIMS):
        goal = senders.message_count * (number + 1) // (len(VICTIMS) + 4)
        await until(
            lambda goal=goal: senders.sent >= goal,
            f"{goal} messages are sent",
            limit=WHOLE_LOAD_SECONDS,
        )
        await until(lambda name=victim: processes[name].pid, f"{victim} runs")
        processes[victim].kill()
        if number + 1 == KILLS_BEFORE_FORGETTING:
            await _make_broker_forget(harness)
            senders.broker_forgot.set()


async def _make_broker_forget(harness: BillingHarness) -> None:
    """Take the broker's whole store away; the operator applies the topology again."""
    broker = harness.cluster.processes["nats"]
    admin = harness.clients["topology"]
    await until(lambda: broker.pid, "the broker runs")
    store = harness.cluster.folder / "nats" / "store"
    store.rename(store.with_name("forgotten"))
    broker.kill()

    async def applied() -> bool:
        try:
            return bool(await topology.apply(admin.jetstream(timeout=5)))
        except Exception:
            return False

    await until(applied, "the streams are made again", every=0.3)
    for node in NODES:
        await harness.enrol(node)


async def _until_all_counted(harness: BillingHarness, total: int) -> None:
    async def counted() -> bool:
        try:
            return (
                await harness.database.fetchval(
                    "select sum(https_requests)::int from usage_minutes"
                )
                == total
            )
        except Exception:
            return False

    await until(counted, "every request is counted", limit=WHOLE_LOAD_SECONDS, every=0.3)


async def _until_ready(harness: BillingHarness) -> None:
    for name in BILLING:
        await harness.ready(name)


async def _usage_by_domain(harness: BillingHarness) -> Counter[str]:
    """Return the requests by domain, as finance reads them."""
    now = datetime.now(UTC)
    found = Counter[str]()
    after = None
    while True:
        question = QueryUsage(
            start=now - timedelta(days=36),
            end=now + timedelta(hours=1),
            granularity="day",
            by="domain",
            after=after,
        )
        page = await harness.ask(catalogue.RPC_USAGE_QUERY, question)
        for row in page.rows:
            found[row.key] += row.https_requests
        if page.next is None:
            return found
        after = page.next


async def _assert_all_charged(harness: BillingHarness, total: int) -> None:
    await harness.close_hour(datetime.now(UTC) + timedelta(hours=1))
    await until(
        lambda: harness.database.fetchval("select bool_and(requests = charged) from account_hours"),
        "charged",
    )
    lines = await harness.database.fetchrow(
        "select sum(requests)::int as requests, -sum(amount) as amount from ledger"
    )
    assert lines is not None and tuple(lines) == (total, Decimal("0.000005") * total)
    balances = [(await harness.balance(f"load-{number}")).ledger for number in range(ACCOUNTS)]
    assert sum(balances) == -lines["amount"]


async def _assert_malformed_are_dead_letters(harness: BillingHarness, load: UsageLoad) -> None:
    """Wait for all of them: the broker lost letters that were written, so some come again."""
    malformed = {body.decode() for body in load.malformed}

    async def letters() -> list[DeadLetter]:
        found, after = list[DeadLetter](), 0
        while True:
            question = ListDead(after=after, limit=500)
            page = await harness.ask(catalogue.RPC_DEAD_LIST["billing"], question, "operator")
            found += page.letters
            if page.next is None:
                return found
            after = page.next

    async def all_there() -> bool:
        return {letter.body for letter in await letters()} == malformed

    await until(all_there, "every malformed event is a dead letter, and nothing else is")
    assert all(letter.reason.startswith("malformed: ") for letter in await letters())


async def _assert_complete(harness: BillingHarness, total: int) -> None:
    gaps = await harness.ask(catalogue.RPC_USAGE_GAPS, QueryGaps())
    assert [gap for gap in gaps.gaps if gap.node in NODES] == []
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    counted = 0
    for days in (36, 18):
        question = QueryAudit(start=end - timedelta(days=days), end=end - timedelta(days=days - 18))
        report = await ask(
            harness.clients["finance"], catalogue.RPC_USAGE_AUDIT, question, timeout=60
        )
        assert report.agrees and report.complete, report.differences
        counted += report.requests
    assert counted == total
