"""What every consumer of USAGE has settled is trimmed from the stream, many messages at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import ConsumerInfo

from shared.faults import describe

log = structlog.get_logger()
_SECONDS = 1.0


class StreamTrimmer:
    """One at a time, by lease. Whoever dies before trimming leaves it to the next: nothing depends
    on when."""

    def __init__(self, client: Client, stream: str, durables: Sequence[str]) -> None:
        self._js = client.jetstream(timeout=5)
        self._stream, self._durables = stream, durables

    async def run(self, _fencing: int) -> None:
        while True:
            try:
                await self._trim()
            except (NatsError, OSError, TimeoutError) as error:
                log.info("trim.later", stream=self._stream, error=describe(error))
            await asyncio.sleep(_SECONDS)

    async def _trim(self) -> None:
        """The last sequence is read before the consumers: one that has nothing left then has
        settled all up to it."""
        state = (await self._js.stream_info(self._stream)).state
        infos = [await self._js.consumer_info(self._stream, durable) for durable in self._durables]
        past = settled_to(state.last_seq, infos) + 1
        if past > state.first_seq and state.messages:
            await self._js.purge_stream(self._stream, seq=past)


def settled_to(last: int, consumers: Sequence[ConsumerInfo]) -> int:
    """Up to which sequence nobody needs anything any more."""
    floors = [last]
    for info in consumers:
        if info.num_pending or info.num_ack_pending:
            floors.append(min(last, (info.ack_floor.stream_seq if info.ack_floor else 0) or 0))
    return min(floors)
