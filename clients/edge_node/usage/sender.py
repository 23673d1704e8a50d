"""Usage out: byte ranges of the node's logs, counted, sent until billing has confirmed their
commit.

Where a range ends is written down before it is sent: after a crash the same ranges are sent again,
never others, so that billing can tell a repetition from an overlap. Their counts are made anew from
the log. Blocking parts run in threads; nothing here loses a line that is on the disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from clients.edge_node import metrics
from clients.edge_node.rejections import Drops
from clients.edge_node.trust import Trusted
from clients.edge_node.usage.log_cursors import Ledger, Unconfirmed
from clients.edge_node.usage.logs import UsageLogError, UsageLogs
from shared import catalogue
from shared.contracts.edge import LogPosition
from shared.contracts.usage import Confirmation
from shared.crypto.signing import Purpose
from shared.errors import BrokerAway, Poison
from shared.ids import derived_id
from shared.messaging.cloudevents import outgoing
from shared.messaging.publisher import Publisher

log = structlog.get_logger()
_RESEND_SECONDS = 5.0
_EMPTY_SECONDS = 10.0
_ROTATION_LOOK_SECONDS = 1.0
# Who floods a node fills no more of its memory; what is not heard is confirmed again when its range
# is sent again.
_CONFIRMATIONS, _CONFIRMATION_BYTES = 5000, 4 * 1024 * 1024


class Usage:
    """``folder``: the node's; nginx makes the first log in it at its start. Until then there is
    nothing to send."""

    def __init__(
        self, node: str, folder: Path, trusted: Trusted, flush_seconds: Callable[[], float]
    ) -> None:
        self._node, self._trusted, self._flush_seconds = node, trusted, flush_seconds
        self.logs = UsageLogs(folder / "usage")
        self._ledger = Ledger(node, self.logs, folder / "usage.json")
        self._drops = Drops("usage.dropped")
        self._told: tuple[str, float] = ("", 0.0)

    def positions(self) -> list[LogPosition]:
        return self._ledger.positions()

    async def run(self, client: Client) -> None:
        """Reads, sends and hears confirmations until cancelled."""
        publisher = Publisher(client)
        confirmed = await client.subscribe(
            catalogue.EDGE_CONFIRMED.for_node(self._node),
            cb=self._on_confirmed,
            pending_msgs_limit=_CONFIRMATIONS,
            pending_bytes_limit=_CONFIRMATION_BYTES,
        )
        self._ledger.send_all_again()
        try:
            while True:
                await self._flush(publisher)
                await asyncio.sleep(self._flush_seconds())
        finally:
            with suppress(NatsError):
                await confirmed.unsubscribe()

    async def keep_rotating(self, limit: int, reopen: Callable[[], None]) -> None:
        """A log above ``limit`` bytes is followed by a new one. ``reopen`` makes nginx open it."""
        # A crash between making a log and reopening leaves nginx on the old one.
        await self._unless_disk_fails(reopen)
        while True:
            await asyncio.sleep(_ROTATION_LOOK_SECONDS)
            await self._unless_disk_fails(lambda: self._rotate_above(limit, reopen))

    def _rotate_above(self, limit: int, reopen: Callable[[], None]) -> None:
        if self.logs.size(self.logs.current_id()) >= limit:
            log.info("usage.rotated", log=self.logs.rotate(reopen))

    async def _unless_disk_fails(self, step: Callable[[], None]) -> None:
        """In a thread. A full disk passes: the log in use grows on, as far as it can, and nothing
        is lost by trying."""
        try:
            await asyncio.to_thread(step)
        except UsageLogError:
            pass
        except OSError as error:
            log.error("usage.disk", error=error.strerror)

    async def _flush(self, publisher: Publisher) -> None:
        try:
            due = await asyncio.to_thread(self._ledger.advance)
            now = time.monotonic()
            for one in due:
                if one.sent_at is None or now - one.sent_at >= _RESEND_SECONDS:
                    await self._send(publisher, one)
            empty = self._ledger.empty()
            if empty is not None and not self._was_told(empty.batch.log):
                await self._send(publisher, empty)
            metrics.UNCONFIRMED.set(self._ledger.unconfirmed_bytes())
        except (BrokerAway, UsageLogError) as error:
            log.warning("usage.waits", error=str(error))
        except OSError as error:
            log.error("usage.disk", error=error.strerror)

    def _was_told(self, log_id: str) -> bool:
        """Whether billing heard of the current log within 10 s; of a new one it hears at once."""
        told, at = self._told
        return told == log_id and time.monotonic() - at < _EMPTY_SECONDS

    async def _send(self, publisher: Publisher, one: Unconfirmed) -> None:
        """BrokerAway when it was not stored: it stays, and goes again."""
        batch = one.batch
        identity = derived_id(
            "usage", self._node, batch.log, str(batch.start), str(batch.end), str(batch.final)
        )
        message = outgoing(
            catalogue.USAGE_BATCH.for_node(self._node),
            batch,
            source=f"node/{self._node}",
            about=self._node,
            at=datetime.now(UTC),
            id=identity,
            dedupe=False,
        )
        await publisher.publish(message, timeout=2.0)
        one.sent_at = time.monotonic()
        if batch.log >= self._told[0]:
            self._told = batch.log, one.sent_at
        self._ledger.stored(one)

    async def _on_confirmed(self, message: Msg) -> None:
        try:
            verifier = self._trusted.verifier("billing")
            word = verifier.open_bytes(Purpose.CONFIRMATION, message.data, Confirmation)
        except Poison as error:
            self._drops.note("confirmation", error)
            return
        if word.node == self._node:
            self._ledger.confirm(word.log, word.end)
