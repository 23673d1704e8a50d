"""The events of the platform in stream order: read from the stream, then followed live.

A live message only wakes the reader: every event that is yielded was read from the stream by its
sequence, so none is missed and none comes twice.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from clients.platform.connection import PlatformConnection, retry_or_unreachable
from shared import subjects
from shared.errors import BrokerAway, Unreachable
from shared.messaging.direct_get import StoredMessage, get_batch, headers_of, stream_time

_BATCH: Final = 500
_POLL_SECONDS: Final = 1.0
"""The stream is read this often without a wake-up: a core message may be lost, the stream is
not."""
_STORING_SECONDS: Final = 0.5
"""A live message can come before the stream has stored it."""
_REREAD_SECONDS: Final = 0.005
_LAST_EVENT_SECONDS: Final = 3


@dataclass(frozen=True)
class Event:
    """One event. ``sequence``: its place in EVENTS; ``cause``: the id of the command that caused
    it; ``body``: the contract of its ``type`` as JSON (shared/contracts)."""

    sequence: int
    id: str
    type: str
    source: str
    about: str
    time: datetime
    cause: str | None
    body: dict[str, Any]

    @classmethod
    def from_stored(cls, message: StoredMessage) -> Event:
        """Decode a message of EVENTS."""
        headers = message.headers
        return cls(
            sequence=message.sequence,
            id=headers.get("ce-id", ""),
            type=headers.get("ce-type", message.subject),
            source=headers.get("ce-source", ""),
            about=headers.get("ce-subject", ""),
            time=stream_time(headers["Nats-Time-Stamp"]),
            cause=headers.get("ce-causationid"),
            body=json.loads(message.body),
        )


async def last_sequence(connection: PlatformConnection) -> int:
    """Return the sequence of the newest event, 0 when there is none."""
    subject = subjects.direct_get(subjects.STREAM_EVENTS)
    body = json.dumps({"last_by_subj": subjects.EVENTS_ALL}).encode()

    async def read_last() -> int:
        try:
            reply = await connection.client.request(subject, body, timeout=_LAST_EVENT_SECONDS)
        except (NatsError, OSError, TimeoutError) as error:
            raise BrokerAway(f"EVENTS does not answer ({type(error).__name__})") from None
        return int(headers_of(reply).get("Nats-Sequence", 0))

    return await retry_or_unreachable(read_last, connection.timeout, _reading_events(connection))


async def read_events(
    connection: PlatformConnection, since: int | None, subject: str, *, follow: bool
) -> AsyncIterator[Event]:
    """Yield events in stream order, beginning with the sequence ``since`` (None: from now on).

    Ends with the newest event; with ``follow`` never, also while the broker is away. Unreachable
    when the stream does not answer and ``follow`` is off."""
    live = asyncio.Event()

    async def wake_up(_: Msg) -> None:
        live.set()

    subscription = None
    if follow:
        subscription = await connection.client.subscribe(subject, cb=wake_up)
    try:
        position = max(since or 1, 1)
        if since is None:
            position = await last_sequence(connection) + 1
        # A live message wakes the reader, and the stream is then read from ``position``. The
        # message itself is not used: live messages can be lost or come out of order, sequences of
        # the stream cannot. A full page means that there is more, so it is read on at once.
        woken_at = 0.0
        while True:
            page = await _read_page(connection, position, subject, follow)
            for message in page:
                yield Event.from_stored(message)
                position = message.sequence + 1
            if len(page) == _BATCH:
                continue
            if not follow:
                return
            if page:
                woken_at = 0.0
            woken_at = await _wait_for_more(live, woken_at)
    finally:
        if subscription is not None and not connection.client.is_closed:
            await subscription.unsubscribe()


async def _read_page(
    connection: PlatformConnection, position: int, subject: str, follow: bool
) -> list[StoredMessage]:
    read = partial(get_batch, connection.client, subjects.STREAM_EVENTS, position, _BATCH, subject)
    while True:
        try:
            return await retry_or_unreachable(read, connection.timeout, _reading_events(connection))
        except Unreachable:
            if not follow or connection.client.is_closed:
                raise


async def _wait_for_more(live: asyncio.Event, woken_at: float) -> float:
    """Wait until a live message comes or it is time to read the stream again.

    ``woken_at``: when the last live message came, 0 when what it announced was read. Until then the
    stream is read again at once for a while, because it may still be storing it. Return the new
    ``woken_at``."""
    if woken_at and time.monotonic() - woken_at < _STORING_SECONDS:
        await asyncio.sleep(_REREAD_SECONDS)
        live.clear()
        return woken_at
    with suppress(TimeoutError):
        async with asyncio.timeout(_POLL_SECONDS):
            await live.wait()
    if not live.is_set():
        return 0.0
    live.clear()
    return time.monotonic()


def _reading_events(connection: PlatformConnection) -> str:
    return f"reading EVENTS at {connection.url} as {connection.user!r}"
