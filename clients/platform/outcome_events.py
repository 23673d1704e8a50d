"""Waiting for the event that ends a command: heard live, or asked for where it was missed.

The event names its command in the header ``ce-causationid``. It is one message of core NATS, which
a connection that is down for a moment never gets. So a waiter also asks again and again: config by
a query, billing by the events that the stream keeps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from nats.aio.msg import Msg

from clients.platform.connection import PlatformConnection
from shared import subjects
from shared.contracts.base import Contract
from shared.contracts.codec import parse
from shared.errors import BrokerAway, Malformed
from shared.messaging.direct_get import get_batch

ASK_SECONDS: Final = 1.0
MOST_REMEMBERED: Final = 10_000
_PAGE: Final = 500
_CAUSE: Final = "ce-causationid"
OutcomeT = TypeVar("OutcomeT", bound=Contract)
AskOutcome = Callable[[], Awaitable[OutcomeT | None]]


class PendingOutcome(Generic[OutcomeT]):
    """The outcome of one command. ``models``: the body by the subject of each event that can end
    it."""

    def __init__(self, models: Mapping[str, type[OutcomeT]]) -> None:
        self._models = models
        self._heard: asyncio.Future[OutcomeT] = asyncio.get_running_loop().create_future()

    def take_event(self, subject: str, body: bytes) -> None:
        """Take an event that the command caused. The first that can end the command counts."""
        model = self._models.get(subject)
        if model is None or self._heard.done():
            return
        with suppress(Malformed):
            self._heard.set_result(parse(model, body))

    async def wait(
        self, ask: AskOutcome[OutcomeT], limit: float, *, ask_every: float = ASK_SECONDS
    ) -> OutcomeT | None:
        """Return what ends the command, or None after ``limit`` seconds.

        ``ask`` is called every ``ask_every`` seconds until an event came; it returns None while it
        does not know the outcome."""
        # The event usually comes within milliseconds, and nothing is asked. ``ask`` covers two
        # cases: the event was sent while this connection was down, and it was sent before this
        # process listened at all. Both answers are equally good, so the first one is returned.
        deadline = time.monotonic() + limit
        while (left := deadline - time.monotonic()) > 0:
            await asyncio.wait({self._heard}, timeout=min(ask_every, left))
            if self._heard.done():
                return self._heard.result()
            found = await ask()
            if found is not None:
                return found
        return None


class OutcomeWaiter:
    """Hears the outcomes of commands over one connection."""

    # Invariant: a subject is subscribed, and the server has confirmed so (flush), before a command
    # that it can end is published. Otherwise a fast service could answer before the subscription.
    # A subscription is shared by all commands and lasts as long as the connection: a busy client
    # would otherwise subscribe and unsubscribe for each command.
    # Between ``expect`` and ``PendingOutcome.wait`` any time may pass; an event that comes
    # meanwhile is kept in the PendingOutcome. A caller that never waits leaves one behind, so the
    # oldest are forgotten beyond MOST_REMEMBERED.

    def __init__(self, connection: PlatformConnection) -> None:
        self._connection = connection
        self._pending: dict[str, PendingOutcome[Any]] = {}
        self._subscribing: dict[str, asyncio.Task[None]] = {}

    async def expect(
        self, command_id: str, models: Mapping[str, type[OutcomeT]]
    ) -> PendingOutcome[OutcomeT]:
        """Begin to listen for what ends a command; call it before the command is published.

        A second call for the same command returns the same object."""
        for subject in models:
            if subject not in self._subscribing:
                self._subscribing[subject] = asyncio.create_task(self._subscribe(subject))
            # Shielded: another command may wait for the same subscription.
            await asyncio.shield(self._subscribing[subject])
        if command_id not in self._pending:
            # An outcome that was never waited for is forgotten here; asking still finds it.
            forget_oldest(self._pending)
            self._pending[command_id] = PendingOutcome(models)
        return self._pending[command_id]

    def forget(self, command_id: str) -> None:
        """Stop listening for what ends a command."""
        self._pending.pop(command_id, None)

    async def _subscribe(self, subject: str) -> None:
        client = self._connection.client
        try:
            await client.subscribe(subject, cb=self._hear_event)
            await client.flush(timeout=max(int(self._connection.timeout), 1))
        except Exception:
            # The next command that needs the subject subscribes again.
            del self._subscribing[subject]
            raise

    async def _hear_event(self, message: Msg) -> None:
        command_id = (message.headers or {}).get(_CAUSE, "")
        pending = self._pending.get(command_id)
        if pending is not None:
            pending.take_event(message.subject, message.data)


@dataclass(frozen=True)
class FoundOutcome(Generic[OutcomeT]):
    """An event that the stream keeps, and the id of the command that caused it."""

    cause: str | None
    body: OutcomeT


class EventSearch(Generic[OutcomeT]):
    """Reads the events that end a command from the stream, each of them once."""

    def __init__(
        self, connection: PlatformConnection, models: Mapping[str, type[OutcomeT]], start: int
    ) -> None:
        """``start``: the first sequence of EVENTS to read."""
        self._connection = connection
        self._models = models
        self._positions = dict.fromkeys(models, start)

    async def read_new(self) -> AsyncIterator[FoundOutcome[OutcomeT]]:
        """Yield what the stream holds beyond the last call. It ends early, to be continued by the
        next call, when the broker is away."""
        for subject, model in self._models.items():
            while True:
                position = self._positions[subject]
                try:
                    page = await get_batch(
                        self._connection.client, subjects.STREAM_EVENTS, position, _PAGE, subject
                    )
                except BrokerAway:
                    return
                if not page:
                    break
                for message in page:
                    # Moved before the yield: a caller that stops here goes on behind this event.
                    self._positions[subject] = message.sequence + 1
                    try:
                        body = parse(model, message.body)
                    except Malformed:
                        continue
                    yield FoundOutcome(message.headers.get(_CAUSE), body)

    async def find(self, command_id: str) -> OutcomeT | None:
        """Return the event that the command caused, or None as long as there is none."""
        async for found in self.read_new():
            if found.cause == command_id:
                return found.body
        return None


def forget_oldest(entries: dict[str, Any]) -> None:
    """Make room for one more entry."""
    if len(entries) >= MOST_REMEMBERED:
        del entries[next(iter(entries))]
