"""The inbox on its own database: what is settled, what is ready, what is the same message again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from shared.messages import StreamPosition
from shared.messaging.delivery import Delivery
from shared.storage import inbox
from shared.storage.inbox import ArrivedMessage, Inbox
from shared.storage.migrate import migrate
from shared.storage.pool import Pool, open_pool
from tests.support.cluster import local_cluster

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = FIRST + timedelta(days=1)


@pytest.fixture(scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    async with local_cluster(tmp_path_factory.mktemp("inbox"), ["inbox"]) as cluster:
        opened = await open_pool(cluster.dsns["inbox"], size=4)
        await migrate(opened)
        yield opened
        await opened.close()


@pytest.fixture
async def box(pool: Pool) -> Inbox:
    await pool.execute("truncate inbox_streams, inbox, inbox_targets, inbox_keys")
    return Inbox(pool, "S")


def arrival(
    sequence: int,
    *,
    id: str = "",
    body: bytes = b"{}",
    key: str | None = "k",
    made: datetime = FIRST,
    source: str = "",
) -> ArrivedMessage:
    headers = {"ce-id": id or f"m{sequence}", "ce-source": source}
    delivery = Delivery.of("subject", body, headers, StreamPosition("S", sequence, made))
    return ArrivedMessage(delivery, made, (key,) if key else ())


async def ready(pool: Pool) -> list[tuple[str, int]]:
    async with pool.acquire() as connection, connection.transaction():
        keys = await inbox.lock_ready_keys(connection, 50)
        waiting = await inbox.load_queues(connection, keys)
    return sorted((key, target.sequence) for key, targets in waiting.items() for target in targets)


async def test_what_comes_out_of_order_waits_for_the_sequence_before_it(
    box: Inbox, pool: Pool
) -> None:
    await box.store([arrival(2), arrival(3, key="other")])
    assert await ready(pool) == []
    assert await box.waits_for_gap()
    await box.store([arrival(1)])
    assert await ready(pool) == [("k", 1), ("k", 2), ("other", 3)]
    assert not await box.waits_for_gap()


async def test_poison_in_between_does_not_hang_the_order(box: Inbox, pool: Pool) -> None:
    await box.store([arrival(1), arrival(2, key=None), arrival(3)])
    assert await ready(pool) == [("k", 1), ("k", 3)]


async def test_a_gap_below_the_ack_floor_counts_as_settled(box: Inbox, pool: Pool) -> None:
    await box.store([arrival(7), arrival(8)])
    assert await ready(pool) == []
    assert await box.settle_below(FIRST, 6)
    assert not await box.settle_below(FIRST, 6)
    assert await ready(pool) == [("k", 7), ("k", 8)]


async def test_an_older_incarnation_counts_as_settled_and_runs_first(
    box: Inbox, pool: Pool
) -> None:
    await box.store([arrival(5, id="old")])
    await box.store([arrival(1, id="new", made=SECOND)])
    assert await ready(pool) == [("k", 1), ("k", 5)]
    async with pool.acquire() as connection:
        waiting = await inbox.load_queues(connection, ["k"])
    assert [target.message_id for target in waiting["k"]] == ["old", "new"]
    await box.store([arrival(9, id="late of the old", key="l")])
    assert ("l", 9) in await ready(pool)


async def test_a_redelivery_and_a_copy_are_settled_and_another_content_is_a_conflict(
    box: Inbox, pool: Pool
) -> None:
    first = await box.store([arrival(1, id="a"), arrival(2, id="a"), arrival(1, id="a")])
    assert (first.fresh, first.duplicates, first.conflicts) == (1, 1, [])
    again = await box.store([arrival(1, id="a"), arrival(2, id="a")])
    assert (again.fresh, again.duplicates, again.conflicts) == (0, 0, [])
    conflict = await box.store([arrival(3, id="a", body=b"other"), arrival(4)])
    assert [one.delivery.sequence for one in conflict.conflicts] == [3]
    assert await ready(pool) == [("k", 1)]
    await box.store([arrival(3, id="a", body=b"other", key=None)])
    assert await ready(pool) == [("k", 1), ("k", 4)]


async def test_a_message_that_ran_keeps_its_id_and_loses_its_body(box: Inbox, pool: Pool) -> None:
    await box.store([arrival(1, id="a", body=b"secret", source="s")])
    async with pool.acquire() as connection, connection.transaction():
        await inbox.lock_key(connection, "k")
        await inbox.finish_commands(connection, (await inbox.load_queues(connection, ["k"]))["k"])
    row = await pool.fetchrow("select body, source from inbox")
    assert row is not None and (row["body"], row["source"]) == (None, "")
    assert (await box.store([arrival(2, id="a", body=b"secret")])).duplicates == 1


async def test_what_is_held_waits_for_its_release_or_for_something_new_under_its_key(
    box: Inbox, pool: Pool
) -> None:
    await box.store([arrival(1)])
    async with pool.acquire() as connection:
        await inbox.hold_commands(connection, (await inbox.load_queues(connection, ["k"]))["k"])
    assert await ready(pool) == []
    await box.store([arrival(2)])
    assert await ready(pool) == [("k", 1), ("k", 2)]
    async with pool.acquire() as connection:
        await inbox.hold_commands(connection, (await inbox.load_queues(connection, ["k"]))["k"])
        assert await ready(pool) == []
        await inbox.release_keys(connection, ["k"])
    assert len(await ready(pool)) == 2


async def test_a_key_that_another_replica_runs_is_left_to_it(box: Inbox, pool: Pool) -> None:
    await box.store([arrival(1), arrival(2, key="free")])
    async with pool.acquire() as other, other.transaction():
        await inbox.lock_key(other, "k")
        assert await ready(pool) == [("free", 2)]


async def test_headers_that_no_table_takes_are_stored_all_the_same(box: Inbox, pool: Pool) -> None:
    await box.store([arrival(1, source="a\0b\udc80" + "x" * 1000)])
    assert len(await pool.fetchval("select source from inbox")) == 256
