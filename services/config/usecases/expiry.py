"""Give notices of a certificate's end (rule C5): at 30, 14, 7 and 1 days and at the end, once each,
across restarts and replicas."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final, cast

from services.config.domain.outgoing_messages import SOURCE
from services.config.metrics import DAYS_LEFT_LEAST, DOMAINS_BY_DAYS_LEFT, EXPIRY_NOTICES
from services.config.store import notices
from services.config.store.notices import DaysLeft, ExpiryNotice
from shared import catalogue
from shared.clock import Clock
from shared.contracts.domains import CertificateExpired, CertificateExpiring, NoticeDays
from shared.ids import derived_id
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing
from shared.retry import every
from shared.storage import outbox
from shared.storage.pool import Pool

NOTICES_AT_ONCE: Final = 500


class ExpiryWatch:
    """Looks for certificates that end, while this process holds the lease.

    Two at once would not give a notice twice: a row decides."""

    def __init__(self, pool: Pool, clock: Clock, seconds: float) -> None:
        self._pool = pool
        self._clock = clock
        self._seconds = seconds

    async def run(self, fencing: int) -> None:
        """Look every few seconds, until cancelled. Without the lease no metric is shown."""
        try:
            await every(self._seconds, self.give_notices)
        finally:
            DOMAINS_BY_DAYS_LEFT.clear()
            DAYS_LEFT_LEAST.set(math.nan)

    async def give_notices(self) -> None:
        """Give every notice that is due, and show how many days are left."""
        at = self._clock.now()
        while await self._give_some(at) == NOTICES_AT_ONCE:
            pass
        _show_days_left(await notices.count_days_left(self._pool, at))

    async def _give_some(self, at: datetime) -> int:
        # The row that marks a notice as given and the notice itself commit together.
        async with self._pool.acquire() as connection, connection.transaction():
            due = await notices.take_notices(connection, at, NOTICES_AT_ONCE)
            await outbox.enqueue(connection, [notice_message(notice, at) for notice in due])
            await notices.forget_notices(connection, at)
        for notice in due:
            EXPIRY_NOTICES.labels(days=str(notice.days)).inc()
        return len(due)


def notice_message(notice: ExpiryNotice, at: datetime) -> Outgoing:
    """Return the event of a notice.

    Its id derives from the certificate and the notice, so that every replica sends the same. Its
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


def _show_days_left(left: DaysLeft) -> None:
    counts = {
        "expired": left.expired,
        "1": left.one,
        "7": left.seven,
        "14": left.fourteen,
        "30": left.thirty,
        "more": left.more,
    }
    for days, count in counts.items():
        DOMAINS_BY_DAYS_LEFT.labels(days=days).set(count)
    DAYS_LEFT_LEAST.set(math.nan if left.least is None else left.least)
