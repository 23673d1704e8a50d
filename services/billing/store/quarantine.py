"""Messages in quarantine (table parked_messages): each once, until it is handled."""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

from services.billing.store import Reader
from services.billing.store.logs import LogKey
from shared.messaging.delivery import Delivery

MAX_QUARANTINED: Final = 1000
"""With more than these the messages are not at fault: something is wrong with all of them."""
_ADD: Final = """
insert into parked_messages as p
    (durable, digest, subject, reply, headers, body, reason, node, log, start_at, end_at)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11
where (select count(*) from parked_messages) < $12
    or exists (select from parked_messages where durable = $1 and digest = $2)
on conflict (durable, digest)
do update set tries = p.tries + 1, reason = excluded.reason, last_at = now()
returning true
"""
_WAITING: Final = """
select durable, digest, subject, reply, headers, body from parked_messages
order by last_at limit $1
"""
_REMOVE: Final = "delete from parked_messages where durable = $1 and digest = $2"


class BatchRange(NamedTuple):
    """The range of a log that a usage batch in quarantine has the counts of."""

    key: LogKey
    start: int
    end: int


class QuarantinedMessage(NamedTuple):
    """A message as it was delivered. ``durable``: the consumer that it came by."""

    durable: str
    digest: bytes
    subject: str
    reply: str
    headers: dict[str, str]
    body: bytes

    def as_delivery(self) -> Delivery:
        """Return it as it was delivered. Its ack is sent already."""
        delivery = Delivery(self.subject.encode(), self.body, self.reply.encode())
        delivery.headers = self.headers
        return delivery


async def add_message(
    connection: Reader, durable: str, message: Delivery, reason: str, place: BatchRange | None
) -> bool:
    """Keep a message, or count one more try of it. False when MAX_QUARANTINED others are kept."""
    kept = await connection.fetchval(
        _ADD,
        durable,
        sha256(message.subject.encode() + b"\0" + message.body).digest(),
        message.subject,
        message.reply,
        message.headers,
        message.body,
        reason,
        place and place.key.node,
        place and place.key.log,
        place and place.start,
        place and place.end,
        MAX_QUARANTINED,
    )
    return kept is not None


async def load_waiting(connection: Reader, limit: int = 50) -> list[QuarantinedMessage]:
    """Return the messages that were tried the longest ago."""
    rows = await connection.fetch(_WAITING, limit)
    return [QuarantinedMessage(**dict(row)) for row in rows]


async def remove_message(connection: Reader, message: QuarantinedMessage) -> None:
    """Delete a message that is handled."""
    await connection.execute(_REMOVE, message.durable, message.digest)


async def count_messages(connection: Reader) -> int:
    """Return the number of messages in quarantine."""
    return int(await connection.fetchval("select count(*) from parked_messages"))
