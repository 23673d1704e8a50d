"""The watch on expiry (rule C5): notices at 30, 14, 7 and 1 days and at the end, once each,
whatever restarts."""

from __future__ import annotations

import asyncio
import math
from datetime import datetime
from typing import Final, cast

import structlog

from services.config.domain.outgoing_messages import SOURCE
from services.config.metrics import DAYS_LEFT_LEAST, DOMAINS_BY_DAYS_LEFT, EXPIRY_NOTICES
from services.config.store import notices
from services.config.store.notices import Left, Notice
from shared import catalogue
from shared.clock import Clock
from shared.contracts.domains import CertificateExpired, CertificateExpiring, NoticeDays
from shared.ids import derived_id
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing
from shared.storage import outbox
from shared.storage.pool import Pool

log = structlog.get_logger()
AT_ONCE: Final = 500


class ExpiryWatch:
    """``run`` while the lease is held; two at once would not give a notice twice, a row decides."""

    def __init__(self, pool: Pool, clock: Clock, seconds: float) -> None:
        self._pool, self._clock, self._seconds = pool, clock, seconds

    async def run(self, fencing: int) -> None:
        try:
            while True:
                await self.look()
                await asyncio.sleep(self._seconds)
        finally:
            DOMAINS_BY_DAYS_LEFT.clear()
            DAYS_LEFT_LEAST.set(math.nan)

    async def look(self) -> None:
        at = self._clock.now()
        while await self._give(at) == AT_ONCE:
            pass
        _show(await notices.left(self._pool, at))

    async def _give(self, at: datetime) -> int:
        async with self._pool.acquire() as connection, connection.transaction():
            due = await notices.take(connection, at, AT_ONCE)
            await outbox.enqueue(connection, [message(notice, at) for notice in due])
            await notices.forget(connection, at)
        for notice in due:
            EXPIRY_NOTICES.labels(days=str(notice.days)).inc()
        return len(due)


def message(notice: Notice, at: datetime) -> Outgoing:
    """Its id derives from the certificate and the notice: whoever sends it sends the same. Its
    cause is the submission that the certificate came with."""
    body: CertificateExpired | CertificateExpiring
    if notice.days == 0:
        subject = catalogue.EVENT_CERTIFICATE_EXPIRED
        body = CertificateExpired(
            domain=notice.domain, account=notice.account, not_after=notice.served_until, at=at
        )
    else:
        subject = catalogue.EVENT_CERTIFICATE_EXPIRING
        body = CertificateExpiring(
            domain=notice.domain,
            account=notice.account,
            days=cast(NoticeDays, notice.days),
            not_after=notice.served_until,
            at=at,
        )
    identity = derived_id(SOURCE, "expiry", notice.domain, notice.certificate, str(notice.days))
    return outgoing(
        subject,
        body,
        source=SOURCE,
        about=notice.domain,
        at=at,
        id=identity,
        cause=notice.certificate,
    )


def _show(left: Left) -> None:
    for days, count in (
        ("expired", left.expired),
        ("1", left.one),
        ("7", left.seven),
        ("14", left.fourteen),
        ("30", left.thirty),
        ("more", left.more),
    ):
        DOMAINS_BY_DAYS_LEFT.labels(days=days).set(count)
    DAYS_LEFT_LEAST.set(math.nan if left.least is None else left.least)
