"""The outbox, the lease and migrations: on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from prometheus_client import REGISTRY

from shared import catalogue, streams, subjects
from shared.contracts.domains import DomainRemoved
from shared.errors import SettingsError, TooLarge
from shared.faults import describe, is_transient
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing
from shared.messaging.direct_get import get_batch
from shared.messaging.publisher import Publisher
from shared.observability.health import Health
from shared.storage.idle_transactions import terminate_idle_transactions
from shared.storage.lease import Lease
from shared.storage.migrate import migrate
from shared.storage.outbox import BATCH, Relay, enqueue
from shared.storage.pool import Pool, open_pool
from tests.support.cluster import LocalCluster
from tests.support.waiting import until, within


@pytest.fixture
async def pool(cluster: LocalCluster) -> AsyncIterator[Pool]:
    pool = await open_pool(cluster.dsns["config"])
    await migrate(pool)
    await pool.execute("truncate outbox, leases")
    yield pool
    await pool.close()


def _event(domain: str) -> Outgoing:
    body = DomainRemoved(domain=domain, account="a", revision=1, at=datetime.now(UTC))
    return outgoing(
        catalogue.EVENT_DOMAIN_REMOVED, body, source="config", about=domain, at=datetime.now(UTC)
    )


async def _published(cluster: LocalCluster) -> list[str]:
    client = await cluster.client("platform")
    found = await get_batch(client, subjects.STREAM_EVENTS, 1, 5000, catalogue.EVENT_DOMAIN_REMOVED)
    await client.close()
    return [message.headers["ce-id"] for message in found]


@pytest.fixture
async def relay(cluster: LocalCluster, pool: Pool) -> AsyncIterator[Relay]:
    client = await cluster.client("config")
    relay = Relay(pool, Publisher(client), Lease(pool, "outbox"), Health())
    task = asyncio.create_task(relay.run())
    yield relay
    if task.done():  # it runs for ever: what ended it is the fault to show
        task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _sent(pool: Pool) -> bool:
    try:
        return not await pool.fetchval("select count(*) from outbox where sent_at is null")
    except Exception as error:
        if not is_transient(error):
            raise
        return False


async def test_a_committed_effects_messages_go_out_in_order_and_a_rolled_back_ones_never(
    cluster: LocalCluster, pool: Pool, relay: Relay
) -> None:
    kept, lost = [_event(f"d{i}.example") for i in range(50)], _event("lost.example")
    async with pool.acquire() as connection:
        async with connection.transaction():
            await enqueue(connection, kept)
        transaction = connection.transaction()
        await transaction.start()
        await enqueue(connection, [lost])
        await transaction.rollback()
    await until(lambda: _sent(pool), "the outbox is sent")
    ids = await _published(cluster)
    wanted = {message.id for message in kept}
    assert [i for i in ids if i in wanted] == [message.id for message in kept]
    assert lost.id not in ids


async def test_a_body_that_carries_a_pair_is_gone_after_its_pub_ack(
    pool: Pool, relay: Relay
) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await enqueue(connection, [_event("pair.example")], carries_pair=True)
        await enqueue(connection, [_event("plain.example")])
    await until(lambda: _sent(pool), "both are sent")
    bodies = {
        r["carries_pair"]: r["body"]
        for r in await pool.fetch("select carries_pair, body from outbox")
    }
    assert bodies[True] is None
    assert bodies[False] is not None


class HeldPublisher(Publisher):
    """Gets its PubAcks when ``release`` is set."""

    def __init__(self) -> None:
        self.entered, self.release = asyncio.Event(), asyncio.Event()

    async def publish_all(self, messages: Sequence[Outgoing], *, timeout: float) -> None:
        self.entered.set()
        await self.release.wait()


async def test_the_outbox_tells_how_much_is_unsent_and_how_long_it_took_to_the_pub_ack(
    pool: Pool,
) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await enqueue(connection, [_event(f"m{number}.example") for number in range(BATCH + 100)])
    before = REGISTRY.get_sample_value("edgetls_outbox_seconds_sum") or 0
    publisher = HeldPublisher()
    task = asyncio.create_task(Relay(pool, publisher, Lease(pool, "outbox"), Health()).run())
    await publisher.entered.wait()
    await until(
        lambda: REGISTRY.get_sample_value("edgetls_outbox_unsent") == BATCH + 100,
        "more than a lot is shown as unsent",
    )
    # The lot was read before: only a measure taken after the PubAck sees the hour.
    await pool.execute(
        "update outbox set created_at = created_at - interval '1 hour' where id in"
        " (select id from outbox order by id limit $1)",
        BATCH,
    )
    publisher.release.set()
    await until(lambda: _sent(pool), "all is sent")
    await until(
        lambda: REGISTRY.get_sample_value("edgetls_outbox_unsent") == 0,
        "nothing is shown as unsent",
    )
    assert (REGISTRY.get_sample_value("edgetls_outbox_seconds_sum") or 0) - before >= BATCH * 3600
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_no_stream_takes_is_refused_before_it_is_committed(pool: Pool) -> None:
    huge = replace(_event("huge.example"), body=b"x" * streams.MAX_MESSAGE_BYTES)
    async with pool.acquire() as connection, connection.transaction():
        with pytest.raises(
            TooLarge, match=f"{huge.subject} with 983,.* bytes is more than its stream takes"
        ):
            await enqueue(connection, [_event("small.example"), huge])


async def test_what_no_stream_takes_holds_back_nothing_that_comes_after_it(
    cluster: LocalCluster, pool: Pool, relay: Relay
) -> None:
    def too_large(name: str, size: int) -> Outgoing:
        return replace(_event(name), body=b"x" * size)

    rows = [
        _event("before.example"),
        too_large("a.example", streams.MAX_MESSAGE_BYTES),
        too_large("b.example", streams.MAX_PAYLOAD - 200),
        too_large("c.example", 2 * streams.MAX_PAYLOAD),
        *(_event(f"after-{number}.example") for number in range(5)),
    ]
    await pool.executemany(
        "insert into outbox (message_id, subject, headers, body, carries_pair) values ($1, $2, "
        "$3, $4, true)",
        [(m.id, m.subject, m.headers, m.body) for m in rows],
    )

    async def done() -> bool:
        open_rows = "select count(*) from outbox where sent_at is null and set_aside_at is null"
        return not await pool.fetchval(open_rows)

    await until(done, "the rest is sent")
    ids = await _published(cluster)
    wanted = [m.id for m in (rows[0], *rows[4:])]
    assert [identity for identity in ids if identity in {m.id for m in rows}] == wanted
    aside = await pool.fetch(
        "select message_id, body from outbox where set_aside_at is not null order by id"
    )
    assert [row["message_id"] for row in aside] == [m.id for m in rows[1:4]]
    assert not any(row["body"] for row in aside), "what carries a pair keeps no body"


async def test_the_outbox_outlives_a_killed_broker_and_a_killed_database(
    cluster: LocalCluster, pool: Pool, relay: Relay
) -> None:
    wanted = []
    for victim in ("nats", "postgres"):
        cluster.kill(victim)

        async def commit(name: str = victim) -> bool:
            message = _event(f"{name}.example")
            try:
                async with pool.acquire(timeout=1) as connection, connection.transaction():
                    await enqueue(connection, [message])
            except Exception:
                return False
            wanted.append(message.id)
            return True

        await until(commit, f"a commit after {victim} was killed")
    await until(lambda: _sent(pool), "everything is sent")
    ids = await _published(cluster)
    assert [ids.count(identity) for identity in wanted] == [1] * len(wanted)


async def test_one_holds_a_lease_and_another_takes_it_when_its_term_is_over(pool: Pool) -> None:
    held: list[tuple[str, int]] = []

    async def work(name: str, fencing: int) -> None:
        held.append((name, fencing))
        await asyncio.Event().wait()

    first = asyncio.create_task(Lease(pool, "x").hold(lambda fencing: work("first", fencing)))
    await until(lambda: held, "the first has it")
    second = asyncio.create_task(Lease(pool, "x").hold(lambda fencing: work("second", fencing)))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await until(lambda: len(held) == 2, "the second takes it")
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert held == [("first", 1), ("second", 2)]


async def test_work_ends_when_the_lease_was_taken_away(pool: Pool) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def work(_: int) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(Lease(pool, "y").hold(work))
    await within(started.wait(), "it has started")
    await pool.execute(
        "update leases set holder = 'other', fencing = fencing + 1, expires_at = now() + "
        "interval '1 hour'"
        " where name = 'y'"
    )
    await within(ended.wait(), "it has ended")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _reads_no_answer(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    connection._transport.pause_reading()
    await connection.fetch("select repeat('x', 1000000) from generate_series(1, 50)")


async def _sends_half_a_copy(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"1\n"
        await asyncio.Event().wait()

    await connection.copy_to_table("stalling", source=half(), columns=["n"])


async def _goes_on(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    while True:
        await connection.fetchval("select 1")
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("stop", [_reads_no_answer, _sends_half_a_copy])
async def test_who_was_stopped_in_the_middle_of_a_statement_keeps_no_locks(
    cluster: LocalCluster,
    pool: Pool,
    stop: Callable[[asyncpg.Connection[asyncpg.Record]], Awaitable[None]],
) -> None:
    """And who is at work keeps them."""
    stopped, works = 1, 2
    await pool.execute("create table stalling (n integer); insert into stalling values (1), (2)")

    async def keep(
        row: int, then: Callable[[asyncpg.Connection[asyncpg.Record]], Awaitable[None]]
    ) -> None:
        connection = await asyncpg.connect(cluster.dsns["config"])
        try:
            await connection.execute("begin")
            await connection.execute("select from stalling where n = $1 for update", row)
            await then(connection)
        finally:
            connection.terminate()

    async def is_kept(row: int) -> bool:
        return not await pool.fetch("select from stalling where n = $1 for update skip locked", row)

    async def is_free() -> bool:
        return not await is_kept(stopped)

    tasks = [asyncio.create_task(keep(stopped, stop)), asyncio.create_task(keep(works, _goes_on))]
    await until(lambda: is_kept(stopped), "one keeps its row")
    await until(lambda: is_kept(works), "so does the other")
    tasks.append(asyncio.create_task(terminate_idle_transactions(pool, 1.0)))
    await until(is_free, "whoever was stopped has lost its lock")
    assert await is_kept(works)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await pool.execute("drop table stalling")


async def test_migrations_are_applied_once_and_never_changed_behind_our_back(
    pool: Pool, tmp_path: Path
) -> None:
    folder = tmp_path / "thing" / "migrations"
    folder.mkdir(parents=True)
    file = folder / "0001_thing.sql"
    file.write_text(
        "-- migrate:up\ncreate table thing (id int);\n-- migrate:down\ndrop table thing;\n"
    )
    done = await asyncio.gather(*(migrate(pool, folder) for _ in range(4)))
    assert sorted(map(len, done)) == [0, 0, 0, 1]
    file.write_text(file.read_text().replace("id int", "id bigint"))
    with pytest.raises(SettingsError, match="add a new one instead"):
        await migrate(pool, folder)


async def test_a_withdrawn_login_is_no_fault_of_a_message_and_a_value_that_does_not_fit_is(
    cluster: LocalCluster, pool: Pool
) -> None:
    async def fault(work: Awaitable[object]) -> Exception:
        with pytest.raises(Exception) as error:
            await work
        return error.value

    good = cluster.dsns["config"]
    withdrawn = [
        await fault(asyncpg.connect(good.replace("config:", "config:x"))),
        await fault(asyncpg.connect(good.replace("/config?", "/nothing?"))),
        await fault(pool.execute("create role another superuser")),
    ]
    assert [is_transient(error) for error in withdrawn] == [True, True, True], withdrawn
    unfit = await fault(pool.fetchval("select $1::bigint", 2**63))
    assert not is_transient(unfit)
    assert str(2**63) in str(unfit) and str(2**63) not in describe(unfit)


async def test_a_refused_login_and_a_missing_database_are_one_clear_line(
    cluster: LocalCluster,
) -> None:
    good = cluster.dsns["config"]
    with pytest.raises(SettingsError, match="PostgreSQL refused config@") as error:
        await open_pool(good.replace("config:", "config:x"))
    assert good.split(":")[2].split("@")[0] not in str(error.value)
    with pytest.raises(SettingsError, match="PostgreSQL refused"):
        await open_pool(good.replace("/config?", "/nothing?"))
