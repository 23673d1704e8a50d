"""Send usage: counted byte ranges of the node's logs, until billing has confirmed their commit.

The end of a range is written to disk before the range is sent: after a crash the same ranges are
sent again, never others, so billing can tell a repetition from an overlap. Their counts are made
again from the log. Blocking parts run in threads; nothing here loses a line that is on the disk.
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
from clients.edge_node.rejections import RejectionLog
from clients.edge_node.trust import NodeTrust
from clients.edge_node.usage.log_cursors import LogCursors, UnconfirmedRange
from clients.edge_node.usage.logs import UsageLogError, UsageLogs
from shared import catalogue
from shared.contracts.edge import LogPosition
from shared.contracts.usage import Confirmation
from shared.crypto.signing import Purpose
from shared.errors import Poison
from shared.ids import derived_id
from shared.messaging.cloudevents import outgoing
from shared.messaging.publisher import Publisher
from shared.retry import every

log = structlog.get_logger()
_RESEND_SECONDS = 5.0
_END_RANGE_SECONDS = 10.0
_ROTATION_CHECK_SECONDS = 1.0
_PUBLISH_SECONDS = 2.0
# A sender that floods a node fills no more of its memory; a confirmation that is lost by it comes
# again when its range is sent again.
_CONFIRMATIONS = 5000
_CONFIRMATION_BYTES = 4 * 1024 * 1024


class UsageSender:
    """The usage of one node. ``folder``: the node's.

    nginx makes the first log in it at its start; until then there is nothing to send."""

    def __init__(
        self, node: str, folder: Path, trust: NodeTrust, flush_seconds: Callable[[], float]
    ) -> None:
        self._node = node
        self._trust = trust
        self._flush_seconds = flush_seconds
        self._logs = UsageLogs(folder / "usage")
        self._cursors = LogCursors(node, self._logs, folder / "usage.json")
        self._rejections = RejectionLog("usage.rejected")
        self._last_sent_log = ""
        self._last_sent_at = 0.0

    def log_positions(self) -> list[LogPosition]:
        """Return how far each log is read and confirmed."""
        return self._cursors.log_positions()

    async def run(self, client: Client) -> None:
        """Read, send and hear confirmations until cancelled."""
        publisher = Publisher(client)
        confirmations = await client.subscribe(
            catalogue.EDGE_CONFIRMED.for_node(self._node),
            cb=self._on_confirmation,
            pending_msgs_limit=_CONFIRMATIONS,
            pending_bytes_limit=_CONFIRMATION_BYTES,
        )
        self._cursors.send_all_again()
        try:
            await every(
                self._flush_seconds, lambda: self._flush(publisher), on_fault=_log_postponed
            )
        finally:
            with suppress(NatsError):
                await confirmations.unsubscribe()

    async def keep_rotating(self, limit: int, reopen: Callable[[], None]) -> None:
        """Start a new log whenever the current one reaches ``limit`` bytes. Never returns.

        ``reopen`` makes nginx open the new log."""
        # A crash between making a log and reopening leaves nginx on the old one.
        await self._run_disk_step(reopen)
        await every(
            _ROTATION_CHECK_SECONDS,
            lambda: self._run_disk_step(lambda: self._rotate_if_full(limit, reopen)),
        )

    def _rotate_if_full(self, limit: int, reopen: Callable[[], None]) -> None:
        if self._logs.log_size(self._logs.current_id()) >= limit:
            log.info("usage.log_rotated", log=self._logs.rotate(reopen))

    async def _run_disk_step(self, step: Callable[[], None]) -> None:
        """Run a blocking step in a thread; log an error of the disk.

        A full disk is not permanent: the current log grows on as far as it can, and trying again
        loses nothing."""
        try:
            await asyncio.to_thread(step)
        except UsageLogError:
            pass
        except OSError as error:
            log.error("usage.disk_failed", error=error.strerror)

    async def _flush(self, publisher: Publisher) -> None:
        """Send every range that is due, and the end of the current log each 10 s.

        Raises BrokerAway when one was not stored, and OSError when the disk fails."""
        try:
            ranges = await asyncio.to_thread(self._cursors.collect_ranges)
            now = time.monotonic()
            for unconfirmed in ranges:
                if unconfirmed.sent_at is None or now - unconfirmed.sent_at >= _RESEND_SECONDS:
                    await self._send(publisher, unconfirmed)
            end_range = self._cursors.make_end_range()
            if end_range is not None and not self._was_sent_lately(end_range.batch.log):
                await self._send(publisher, end_range)
            metrics.UNCONFIRMED.set(self._cursors.unconfirmed_bytes())
        except UsageLogError as error:
            _log_postponed(error)

    def _was_sent_lately(self, log_id: str) -> bool:
        """Return whether a batch of the current log was sent within 10 s.

        A new log is made known at once."""
        if log_id != self._last_sent_log:
            return False
        return time.monotonic() - self._last_sent_at < _END_RANGE_SECONDS

    async def _send(self, publisher: Publisher, unconfirmed: UnconfirmedRange) -> None:
        """Publish a range. Raises BrokerAway when it was not stored; it is then sent again."""
        batch = unconfirmed.batch
        message_id = derived_id(
            "usage", self._node, batch.log, str(batch.start), str(batch.end), str(batch.final)
        )
        message = outgoing(
            catalogue.USAGE_BATCH.for_node(self._node),
            batch,
            source=f"node/{self._node}",
            about=self._node,
            at=datetime.now(UTC),
            id=message_id,
            dedupe=False,
        )
        await publisher.publish(message, timeout=_PUBLISH_SECONDS)
        unconfirmed.sent_at = time.monotonic()
        if batch.log >= self._last_sent_log:
            self._last_sent_log = batch.log
            self._last_sent_at = unconfirmed.sent_at
        self._cursors.mark_stored(unconfirmed)

    async def _on_confirmation(self, message: Msg) -> None:
        try:
            verifier = self._trust.verifier("billing")
            confirmation = verifier.open_bytes(Purpose.CONFIRMATION, message.data, Confirmation)
        except Poison as error:
            self._rejections.record("confirmation", error)
            return
        if confirmation.node == self._node:
            self._cursors.confirm_up_to(confirmation.log, confirmation.end)


def _log_postponed(error: Exception) -> None:
    if isinstance(error, OSError):
        log.error("usage.disk_failed", error=error.strerror)
    else:
        log.warning("usage.send_postponed", error=str(error))
