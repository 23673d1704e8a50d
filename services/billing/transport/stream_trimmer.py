"""Removing what every consumer of USAGE has settled from the stream, many messages at once."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from nats.aio.client import Client
from nats.js.api import ConsumerInfo

from shared.faults import describe
from shared.retry import every

log = structlog.get_logger()
_SECONDS = 1.0


class StreamTrimmer:
    """Trims a stream, one process at a time, by lease.

    A process that dies before it trims leaves it to the next one: nothing depends on when."""

    def __init__(self, client: Client, stream: str, durables: Sequence[str]) -> None:
        self._js = client.jetstream(timeout=5)
        self._stream = stream
        self._durables = durables

    async def run(self, _fencing: int) -> None:
        """Trim every second. Never returns."""
        await every(_SECONDS, self._trim, on_fault=self._log_postponed)

    async def _trim(self) -> None:
        # The last sequence is read before the consumers: a consumer that has nothing left then has
        # settled everything up to it.
        state = (await self._js.stream_info(self._stream)).state
        infos = [await self._js.consumer_info(self._stream, durable) for durable in self._durables]
        first_kept = settled_to(state.last_seq, infos) + 1
        if first_kept > state.first_seq and state.messages:
            await self._js.purge_stream(self._stream, seq=first_kept)

    def _log_postponed(self, error: Exception) -> None:
        log.info("trim.postponed", stream=self._stream, error=describe(error))


def settled_to(last: int, consumers: Sequence[ConsumerInfo]) -> int:
    """Return the highest sequence up to which no consumer needs anything any more."""
    settled = last
    for info in consumers:
        if info.num_pending or info.num_ack_pending:
            floor = info.ack_floor.stream_seq if info.ack_floor else 0
            settled = min(settled, floor or 0)
    return settled
