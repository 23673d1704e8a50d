"""A million requests while billing, the broker and PostgreSQL are killed ten times.

Once the broker also loses its store. Every request is counted once and charged once, and every
malformed one is a dead letter."""

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
from tests.faults.usage_load import ACCOUNTS, DOMAINS, NODES, Load, Senders
from tests.integration.billing.harness import Stage, stage
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
STORE_LOST_AFTER = 5
"""Kills."""


@pytest.fixture(scope="module")
async def billing(scratch: Path) -> AsyncIterator[Stage]:
    async with stage(scratch / "billing") as built:
        await asyncio.gather(*(built.start(name) for name in BILLING))
        for node in NODES:
            await built.enrol(node)
        built.clients["topology"] = await built.backend.client("topology")
        yield built


async def test_a_million_requests_survive_ten_kills_and_a_broker_that_forgets_everything(
    billing: Stage,
) -> None:
    load = Load.made(seed=6)
    total = load.expected.total()
    assert total == 1_000_000 and load.late > 500
    await _own(billing, load)
    began = time.monotonic()
    senders = Senders(billing, load)
    async with asyncio.TaskGroup() as group:
        group.create_task(senders.nodes())
        group.create_task(senders.single())
        group.create_task(_kill(billing, senders))
    await _all_counted(billing, total)
    print(
        f"{total} requests, {senders.sent} messages, {load.late} late: "
        f"{time.monotonic() - began:.0f} s"
    )
    await _ready(billing)
    assert await _usage(billing) == load.expected
    await _charged(billing, total)
    await _malformed_are_dead_letters(billing, load)
    await _complete(billing, total)


async def _own(staged: Stage, load: Load) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=40)
    for domain in DOMAINS:
        await staged.register(domain, load.account(domain), long_ago)
    await until(
        lambda: staged.database.fetchval("select count(*) = $1 from domain_facts", len(DOMAINS)),
        "owners known",
    )


async def _kill(staged: Stage, senders: Senders) -> None:
    """Kill one process after the other while messages are on their way, the next one when the
    last one runs again."""
    supervisor = staged.backend.supervisor
    for number, victim in enumerate(VICTIMS):
        goal = senders.messages * (number + 1) // (len(VICTIMS) + 4)
        await until(lambda goal=goal: senders.sent >= goal, f"{goal} messages are sent", limit=60)
        await until(
            lambda name=victim: supervisor.pid(name) is not None, f"{victim} runs", limit=30
        )
        supervisor.kill(victim)
        if number + 1 == STORE_LOST_AFTER:
            await _lose_store(staged)
            senders.lost.set()


async def _lose_store(staged: Stage) -> None:
    """Delete the broker's whole store, and apply the topology again, as the operator does."""
    supervisor, admin = staged.backend.supervisor, staged.clients["topology"]
    await until(lambda: supervisor.pid("nats") is not None, "the broker runs", limit=30)
    store = staged.backend.folder / "nats" / "store"
    store.rename(store.with_name("forgotten"))
    supervisor.kill("nats")

    async def applied() -> bool:
        try:
            return bool(await topology.apply(admin.jetstream(timeout=2)))
        except Exception:
            return False

    await until(applied, "the streams are created again", limit=40, every=0.3)
    for node in NODES:
        await staged.enrol(node)


async def _all_counted(staged: Stage, total: int) -> None:
    async def counted() -> bool:
        try:
            return (
                await staged.database.fetchval("select sum(https_requests)::int from usage_minutes")
                == total
            )
        except Exception:
            return False

    await until(counted, "every request is counted", limit=60, every=0.3)


async def _ready(staged: Stage) -> None:
    for name in BILLING:
        await staged.ready(name)


async def _usage(staged: Stage) -> Counter[str]:
    """Return usage by domain, as finance reads it."""
    now, found, after = datetime.now(UTC), Counter[str](), None
    while True:
        question = QueryUsage(
            start=now - timedelta(days=36),
            end=now + timedelta(hours=1),
            granularity="day",
            by="domain",
            after=after,
        )
        page = await staged.ask(catalogue.RPC_USAGE_QUERY, question)
        for row in page.rows:
            found[row.key] += row.https_requests
        if page.next is None:
            return found
        after = page.next


async def _charged(staged: Stage, total: int) -> None:
    await staged.close_hour(datetime.now(UTC) + timedelta(hours=1))
    await until(
        lambda: staged.database.fetchval("select bool_and(requests = charged) from account_hours"),
        "charged",
        limit=30,
    )
    lines = await staged.database.fetchrow(
        "select sum(requests)::int as requests, -sum(amount) as amount from ledger"
    )
    assert lines is not None and tuple(lines) == (total, Decimal("0.000005") * total)
    balances = [(await staged.balance(f"load-{number}")).ledger for number in range(ACCOUNTS)]
    assert sum(balances) == -lines["amount"]


async def _malformed_are_dead_letters(staged: Stage, load: Load) -> None:
    """Check that all are there. The broker lost dead letters, so some came again."""
    malformed = {body.decode() for body in load.malformed}

    async def letters() -> list[DeadLetter]:
        found, after = list[DeadLetter](), 0
        while True:
            question = ListDead(after=after, limit=500)
            page = await staged.ask(catalogue.RPC_DEAD_LIST["billing"], question, "operator")
            found += page.letters
            if page.next is None:
                return found
            after = page.next

    async def all_there() -> bool:
        return {letter.body for letter in await letters()} == malformed

    await until(all_there, "every malformed event is a dead letter, and nothing else is", limit=30)
    assert all(letter.reason.startswith("malformed: ") for letter in await letters())


async def _complete(staged: Stage, total: int) -> None:
    gaps = await staged.ask(catalogue.RPC_USAGE_GAPS, QueryGaps())
    assert [gap for gap in gaps.gaps if gap.node in NODES] == []
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    counted = 0
    for days in (36, 18):
        question = QueryAudit(start=end - timedelta(days=days), end=end - timedelta(days=days - 18))
        report = await ask(
            staged.clients["finance"], catalogue.RPC_USAGE_AUDIT, question, timeout=60
        )
        assert report.agrees and report.complete, report.differences
        counted += report.requests
    assert counted == total
