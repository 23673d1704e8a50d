"""How a command to billing ended: the event that names it as its cause, heard live or found in the
stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from nats.aio.msg import Msg

from clients.platform import events
from clients.platform.connection import Reach
from shared import subjects as s
from shared.contracts.base import Contract
from shared.contracts.codec import parse
from shared.errors import BrokerAway, Malformed, Unreachable
from shared.messages import Outgoing
from shared.messaging.direct_get import get_batch

_LOOK_SECONDS: Final = 1.0
_SHOWN_SECONDS: Final = 0.1
Shown = Callable[[], Awaitable[Contract | None]]
_Take = Callable[[str, bytes, str | None], None]


async def order(
    reach: Reach,
    message: Outgoing,
    answers: Mapping[str, type[Contract]],
    shown: Shown | None = None,
) -> Contract:
    """Publishes the command and waits for the first event of ``answers`` (subject: body) that it
    causes. ``shown``: asked besides, for what no event tells; what it returns is the answer, None
    as long as it cannot be seen.

    Unreachable when none came within the patience; the same command can be sent again."""
    heard: asyncio.Future[Contract] = asyncio.get_running_loop().create_future()

    def take(subject: str, body: bytes, cause: str | None) -> None:
        if cause != message.id or heard.done():
            return
        try:
            heard.set_result(parse(answers[subject], body))
        except Malformed:
            return

    async def hear(event: Msg) -> None:
        take(event.subject, event.data, (event.headers or {}).get("ce-causationid"))

    since = await events.last_sequence(reach) + 1
    subscriptions = [await reach.client.subscribe(subject, cb=hear) for subject in answers]
    try:
        await reach.client.flush(timeout=max(int(reach.patience), 1))
        await reach.publish(message)
        deadline = time.monotonic() + reach.patience
        while not heard.done() and (left := deadline - time.monotonic()) > 0:
            if shown is not None and (seen := await shown()) is not None:
                return seen
            await asyncio.wait(
                {heard}, timeout=min(_LOOK_SECONDS if shown is None else _SHOWN_SECONDS, left)
            )
            if not heard.done():
                await _look(reach, since, answers, take)
        if heard.done():
            return heard.result()
        raise Unreachable(
            f"{message.subject} is ordered but billing did not say within {reach.patience:g} s "
            "how it ended; "
            "sending it again is safe"
        )
    finally:
        heard.cancel()
        for subscription in subscriptions:
            if not reach.client.is_closed:
                await subscription.unsubscribe()


async def _look(
    reach: Reach, since: int, answers: Mapping[str, type[Contract]], take: _Take
) -> None:
    """What was said while this connection was down."""
    for subject in answers:
        try:
            for event in await get_batch(reach.client, s.STREAM_EVENTS, since, 500, subject):
                take(subject, event.body, event.headers.get("ce-causationid"))
        except BrokerAway:
            return
