"""The events of the platform in stream order: caught up by direct get, then live, without a hole or
a double.

A live message is only a bell here: what is yielded is always read from the stream by its sequence.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from clients.platform.connection import Reach, insist
from shared import subjects
from shared.errors import BrokerAway, Unreachable
from shared.messaging.direct_get import StoredMessage, get_batch, headers_of, stream_time

_BATCH: Final = 500
_LOOK_SECONDS: Final = 1.0
"""Without a bell the stream is looked at this often: a core message may be lost, the stream is
not."""
_STORING_SECONDS: Final = 0.5
"""The bell can ring before the stream has stored what it rings for."""


@dataclass(frozen=True)
class Event:
    """One fact. ``sequence``: its place in EVENTS, to go on from; ``cause``: the command that made
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
    def of(cls, message: StoredMessage) -> Event:
        headers = message.headers
        return cls(
            message.sequence,
            headers.get("ce-id", ""),
            headers.get("ce-type", message.subject),
            headers.get("ce-source", ""),
            headers.get("ce-subject", ""),
            stream_time(headers["Nats-Time-Stamp"]),
            headers.get("ce-causationid"),
            json.loads(message.body),
        )


async def last_sequence(reach: Reach) -> int:
    """Of EVENTS; 0 when it is empty."""

    async def attempt() -> int:
        body = json.dumps({"last_by_subj": subjects.EVENTS_ALL}).encode()
        try:
            reply = await reach.client.request(
                subjects.direct_get(subjects.STREAM_EVENTS), body, timeout=3
            )
        except (NatsError, OSError, TimeoutError) as error:
            raise BrokerAway(f"EVENTS does not answer ({type(error).__name__})") from None
        return int(headers_of(reply).get("Nats-Sequence", 0))

    return await insist(attempt, reach.patience, f"reading EVENTS at {reach.url} as {reach.user!r}")


async def read_events(
    reach: Reach, since: int | None, subject: str, *, follow: bool
) -> AsyncIterator[Event]:
    """``since``: the first sequence to yield, None for what comes from now on. Ends at the last one
    unless ``follow``, which is patient for ever; Unreachable when the stream does not answer and it
    does not follow."""
    bell = asyncio.Event()

    async def ring(_: Msg) -> None:
        bell.set()

    subscription = await reach.client.subscribe(subject, cb=ring) if follow else None
    try:
        position = (await last_sequence(reach)) + 1 if since is None else max(since, 1)
        rung_at = 0.0
        while True:
            page = await _page(reach, position, subject, follow)
            for message in page:
                yield Event.of(message)
                position = message.sequence + 1
            if len(page) == _BATCH:
                continue
            if not follow:
                return
            if page:
                rung_at = 0.0
            rung_at = await _wait(bell, rung_at)
    finally:
        if subscription is not None and not reach.client.is_closed:
            await subscription.unsubscribe()


async def _page(reach: Reach, position: int, subject: str, for_ever: bool) -> list[StoredMessage]:
    while True:
        try:
            return await insist(
                lambda: get_batch(reach.client, subjects.STREAM_EVENTS, position, _BATCH, subject),
                reach.patience,
                f"reading EVENTS at {reach.url} as {reach.user!r}",
            )
        except Unreachable:
            if not for_ever or reach.client.is_closed:
                raise


async def _wait(bell: asyncio.Event, rung_at: float) -> float:
    """Until the bell rings or it is time to look; shortly after a bell that found nothing, look
    again at once."""
    if rung_at and time.monotonic() - rung_at < _STORING_SECONDS:
        await asyncio.sleep(0.005)
        bell.clear()
        return rung_at
    with suppress(TimeoutError):
        async with asyncio.timeout(_LOOK_SECONDS):
            await bell.wait()
    rang = bell.is_set()
    bell.clear()
    return time.monotonic() if rang else 0.0
