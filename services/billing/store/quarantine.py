"""Messages that could not be handled yet: each once, until it is."""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

from services.billing.store import Reader
from services.billing.store.logs import LogKey
from shared.messaging.delivery import Delivery

MAX_QUARANTINED: Final = 1000
"""More than these are no messages of ill fate: something is wrong with all of them."""


class BatchRange(NamedTuple):
    """What a parked usage batch speaks of."""

    key: LogKey
    start: int
    end: int


class QuarantinedMessage(NamedTuple):
    durable: str
    digest: bytes
    subject: str
    reply: str
    headers: dict[str, str]
    body: bytes

    def delivery(self) -> Delivery:
        """As it came; its ack is sent already."""
        delivery = Delivery(self.subject.encode(), self.body, self.reply.encode())
        delivery.headers = self.headers
        return delivery


async def add_message(
    connection: Reader, durable: str, message: Delivery, reason: str, place: BatchRange | None
) -> bool:
    """Whether it is kept: not when MOST others are."""
    row = await connection.fetchval(
        "insert into parked_messages as p (durable, digest, subject, reply, headers, body, "
        "reason, node, log, start_at,"
        " end_at) select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11"
        " where (select count(*) from parked_messages) < $12"
        " or exists (select from parked_messages where durable = $1 and digest = $2) on "
        "conflict (durable, digest)"
        " do update set tries = p.tries + 1, reason = excluded.reason, last_at = now() "
        "returning true",
        durable,
        sha256(message.subject.encode() + b"\0" + message.body).digest(),
        message.subject,
        message.reply,
        message.headers,
        message.body,
        reason,
        *(place.key if place else (None, None)),
        place and place.start,
        place and place.end,
        MAX_QUARANTINED,
    )
    return row is not None


async def load_waiting(connection: Reader, limit: int = 50) -> list[QuarantinedMessage]:
    """Those that were tried the longest ago."""
    rows = await connection.fetch(
        "select durable, digest, subject, reply, headers, body from parked_messages order by "
        "last_at limit $1",
        limit,
    )
    return [QuarantinedMessage(**dict(row)) for row in rows]


async def remove_message(connection: Reader, parked: QuarantinedMessage) -> None:
    await connection.execute(
        "delete from parked_messages where durable = $1 and digest = $2",
        parked.durable,
        parked.digest,
    )


async def count_messages(connection: Reader) -> int:
    return int(await connection.fetchval("select count(*) from parked_messages"))
