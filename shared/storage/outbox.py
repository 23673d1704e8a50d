"""The outbox: the exact messages that an effect causes, written with it in one transaction.

A relay publishes them until stored; one works at a time, by lease, which keeps the order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import asyncpg
import structlog

from shared.errors import BrokerAway, TooLarge
from shared.messages import Outgoing, check_size
from shared.observability.health import Health
from shared.observability.metrics import OUTBOX_SECONDS, OUTBOX_SET_ASIDE, OUTBOX_UNSENT
from shared.retry import every
from shared.storage.lease import Lease
from shared.storage.pool import Connection, Pool, listen

log = structlog.get_logger()
CHANNEL = "outbox"
BATCH = 500
KEEP_HOURS = 48
COUNT_SECONDS = 5
SWEEP_SECONDS = 600
KEEP_ASIDE_DAYS = 35


async def enqueue(
    connection: Connection, messages: Sequence[Outgoing], *, carries_pair: bool = False
) -> None:
    """Write messages in the caller's transaction; its commit wakes the relay. TooLarge for a
    message that could never be published."""
    if not messages:
        return
    for message in messages:
        check_size(message)
    await connection.execute(
        "insert into outbox (message_id, subject, headers, body, carries_pair) select id, "
        "subject, headers, body, $5"
        " from unnest($1::text[], $2::text[], $3::jsonb[], $4::bytea[]) with ordinality"
        " as m (id, subject, headers, body, place) order by place",
        [m.id for m in messages],
        [m.subject for m in messages],
        [m.headers for m in messages],
        [m.body for m in messages],
        carries_pair,
    )
    await connection.execute(f"notify {CHANNEL}")


class StreamPublisher(Protocol):
    """Publishes messages until they are stored: ``shared.messaging.publisher.Publisher``."""

    async def publish_all(self, messages: Iterable[Outgoing], *, timeout: float) -> None: ...


# Invariants of the relay:
# - It reads rows that are not sent, never rows above the last id: transactions commit out of order,
#   and a row with a lower id may become visible later.
# - A row is marked as sent only after its PubAck. A lost PubAck means a second publish of the same
#   bytes under the same Nats-Msg-Id, which the stream drops as a duplicate.
# - A body that carries a sealed pair is deleted when its PubAck was seen (rule C1).
# - A message that no stream takes is set aside, so that the rows behind it need not wait.
class Relay:
    """Publishes the outbox in order of id, while it has the lease."""

    def __init__(
        self, pool: Pool, publisher: StreamPublisher, lease: Lease, health: Health
    ) -> None:
        self._pool, self._publisher, self._lease, self._health = pool, publisher, lease, health
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Relay whenever the lease is held. Never returns."""
        await self._lease.hold(self._relay_while_held)

    async def _relay_while_held(self, fencing: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(listen(self._pool, CHANNEL, self._wake))
            group.create_task(self._delete_old_rows())
            group.create_task(self._count_unsent())
            while True:
                self._wake.clear()
                if not await self._send_batch():
                    # Not wait_for: it can lose a cancellation on Python 3.11.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1.0):
                            await self._wake.wait()

    async def _send_batch(self) -> bool:
        """Send one batch; return whether there may be more."""
        try:
            rows = await self._pool.fetch(
                "select id, subject, headers, body from outbox where sent_at is null and "
                "set_aside_at is null"
                " order by id limit $1",
                BATCH,
            )
            if not rows:
                OUTBOX_UNSENT.set(0)
                self._health.ready("outbox")
                return False
            await self._publish_rows(rows)
            self._health.ready("outbox")
            return True
        except BrokerAway as error:
            self._health.not_ready("outbox", str(error))
            await asyncio.sleep(0.2)
            return True

    async def _publish_rows(self, rows: Sequence[asyncpg.Record]) -> None:
        try:
            await self._publisher.publish_all(
                [Outgoing(row["subject"], row["body"], row["headers"]) for row in rows], timeout=5
            )
            await self._mark_sent(rows)
        except TooLarge as error:
            if len(rows) == 1:
                await self._set_aside(rows[0], error)
                return
            for row in rows:
                await self._publish_rows([row])

    async def _set_aside(self, row: asyncpg.Record, error: TooLarge) -> None:
        OUTBOX_SET_ASIDE.inc()
        log.error("outbox.set_aside", row=row["id"], subject=row["subject"], error=str(error))
        await self._pool.execute(
            "update outbox set set_aside_at = clock_timestamp(), body = case when carries_pair "
            "then null else body end"
            " where id = $1",
            row["id"],
        )

    async def _mark_sent(self, rows: Sequence[asyncpg.Record]) -> None:
        sent = await self._pool.fetch(
            "update outbox set sent_at = clock_timestamp(), body = case when carries_pair then "
            "null else body end"
            " where id = any($1::bigint[]) returning extract(epoch from sent_at - created_at) "
            "as age",
            [row["id"] for row in rows],
        )
        for row in sent:
            OUTBOX_SECONDS.observe(float(row["age"]))

    async def _count_unsent(self) -> None:
        """Count unsent messages every few seconds.

        This is apart from the sending, which reads one batch at a time: a count costs as much as
        there is unsent."""

        async def count() -> None:
            unsent = await self._pool.fetchval(
                "select count(*) from outbox where sent_at is null and set_aside_at is null"
            )
            OUTBOX_UNSENT.set(unsent)

        try:
            await every(COUNT_SECONDS, count)
        finally:
            OUTBOX_UNSENT.set(0)  # the next holder of the lease counts

    async def _delete_old_rows(self) -> None:
        """Delete old rows. Sent ones are kept for 48 hours, so that a redelivery finds its
        answer sent already; set-aside ones for longer."""

        async def delete_old() -> None:
            await self._pool.execute(
                "delete from outbox where sent_at < now() - make_interval(hours => $1)"
                " or set_aside_at < now() - make_interval(days => $2)",
                KEEP_HOURS,
                KEEP_ASIDE_DAYS,
            )

        await every(SWEEP_SECONDS, delete_old)
