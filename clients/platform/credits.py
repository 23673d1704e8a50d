"""Whether a credit is booked: told by billing's event; read from the event stream where it was said
before."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from nats.aio.msg import Msg

from clients.platform.connection import Reach
from shared import catalogue
from shared import subjects as s
from shared.contracts.balance import BalanceEvent
from shared.contracts.codec import parse
from shared.errors import BrokerAway, Malformed, Unreachable
from shared.messaging.direct_get import get_batch

_LOOK_SECONDS: Final = 1.0
_PAGE: Final = 500


class Booking:
    """One credit on its way. ``command_id``: of this order of it; an earlier one may have been
    booked already.

    A repeated reference is booked once and said once, so its event is behind us: it is looked up in
    the stream. It counts after a second look only, for a refusal of this order (another amount) may
    still be on its way."""

    def __init__(self, reach: Reach, account: str, reference: str, command_id: str) -> None:
        self._reach, self._account, self._reference, self._command_id = (
            reach,
            account,
            reference,
            command_id,
        )
        self._heard: asyncio.Future[BalanceEvent] = asyncio.get_running_loop().create_future()
        self._position = {catalogue.EVENT_BALANCE_CREDITED: 1, catalogue.EVENT_BALANCE_REFUSED: 1}
        self._earlier: BalanceEvent | None = None

    async def __aenter__(self) -> Booking:
        """Listens before the command is published, or its event can be missed."""
        client = self._reach.client
        self._subscriptions = [
            await client.subscribe(subject, cb=self._hear) for subject in self._position
        ]
        await client.flush(timeout=max(int(self._reach.patience), 1))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._heard.cancel()
        for subscription in self._subscriptions:
            if not self._reach.client.is_closed:
                await subscription.unsubscribe()

    async def booked(self) -> BalanceEvent:
        """``change`` is credited or refused; Unreachable when billing did not say within the
        patience."""
        deadline = time.monotonic() + self._reach.patience
        while (left := deadline - time.monotonic()) > 0:
            done, _ = await asyncio.wait({self._heard}, timeout=min(_LOOK_SECONDS, left))
            if done:
                return self._heard.result()
            known = self._earlier
            if said := await self._look():
                return said
            if known is not None:
                return known
        raise Unreachable(
            f"the credit {self._reference} of {self._account} is ordered but was not booked within "
            f"{self._reach.patience:g} s; sending it again with the same reference is safe"
        )

    async def _hear(self, message: Msg) -> None:
        self._take(message.data, (message.headers or {}).get("ce-causationid"))

    def _take(self, body: bytes, cause: str | None) -> BalanceEvent | None:
        try:
            event = parse(BalanceEvent, body)
        except Malformed:
            return None
        if (event.account, event.reference) != (self._account, self._reference):
            return None
        if cause == self._command_id:
            if not self._heard.done():
                self._heard.set_result(event)
            return event
        if event.change == "credited":
            self._earlier = event
        return None

    async def _look(self) -> BalanceEvent | None:
        for subject, position in self._position.items():
            try:
                page = await get_batch(
                    self._reach.client, s.STREAM_EVENTS, position, _PAGE, subject
                )
                while page:
                    for message in page:
                        if said := self._take(message.body, message.headers.get("ce-causationid")):
                            return said
                    self._position[subject] = position = page[-1].sequence + 1
                    page = await get_batch(
                        self._reach.client, s.STREAM_EVENTS, position, _PAGE, subject
                    )
            except BrokerAway:
                return None
        return None
