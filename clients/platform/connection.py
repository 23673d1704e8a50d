"""Reaching the platform with bounded patience: the same id at every attempt, and a sentence on what
was tried."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from nats.aio.client import Client

from shared.catalogue_row import AnswerT, Query, QuestionT
from shared.contracts.findings import Code
from shared.errors import BrokerAway, Refused, Transient, Unreachable
from shared.messages import Outgoing
from shared.messaging import connection, rpc
from shared.messaging.publisher import Publisher
from shared.settings import BrokerSettings

ANSWER_SECONDS: Final = 3.0
_CONNECT_SECONDS: Final = 5.0
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 1.0
ResultT = TypeVar("ResultT")


class Reach:
    """One connection as one NATS user. ``patience``: seconds that any one call may go on trying."""

    def __init__(self, client: Client, url: str, user: str, patience: float) -> None:
        self.client, self.url, self.user, self.patience = client, url, user, patience
        self._publisher = Publisher(client)

    @classmethod
    async def open(
        cls, url: str, seed_file: Path, user: str, patience: float, ca_file: Path | None = None
    ) -> Reach:
        """Unreachable when nobody answers within ``patience`` s; SettingsError when the login is
        refused."""
        settings = BrokerSettings(nats_url=url, nats_seed_file=seed_file, nats_ca_file=ca_file)

        async def attempt() -> Client:
            try:
                return await asyncio.wait_for(connection.connect(settings, user), _CONNECT_SECONDS)
            except TimeoutError:
                raise BrokerAway(f"NATS at {url} does not answer") from None

        return cls(
            await insist(attempt, patience, f"connecting to NATS at {url} as {user!r}"),
            url,
            user,
            patience,
        )

    async def publish(self, message: Outgoing) -> int:
        """The stream's sequence of the stored message; Unreachable when it was not stored in
        time."""
        try:
            return await self._publisher.publish(message, timeout=self.patience)
        except BrokerAway as error:
            raise Unreachable(
                f"{error}. Tried for {self.patience:g} s at {self.url} as {self.user!r} with "
                f"the id {message.id}"
            ) from None

    async def ask(
        self, query: Query[QuestionT, AnswerT], question: QuestionT, *, patience: float = 0
    ) -> AnswerT:
        """The answer; Refused with findings; Unreachable when nobody answered in time."""
        limit = patience or self.patience
        return await insist(
            lambda: rpc.ask(self.client, query, question, timeout=min(ANSWER_SECONDS, limit)),
            limit,
            f"asking {query} at {self.url} as {self.user!r}",
        )

    async def close(self) -> None:
        if not self.client.is_closed:
            await self.client.close()


async def insist(attempt: Callable[[], Awaitable[ResultT]], patience: float, doing: str) -> ResultT:
    """Tries until it works, is refused, or ``patience`` seconds are over: Unreachable then, with
    the last reason."""
    deadline = time.monotonic() + patience
    delay, tries = _FIRST_DELAY, 0
    while True:
        tries += 1
        try:
            return await attempt()
        except Transient as error:
            reason = str(error)
        except Refused as refused:
            # ``service.busy`` is the one refusal that passes by itself.
            if [one.code for one in refused.findings] != [Code.SERVICE_BUSY]:
                raise
            reason = str(refused)
        if time.monotonic() + delay > deadline:
            times = "once" if tries == 1 else f"{tries} times"
            raise Unreachable(f"{reason}. Tried {times} in {patience:g} s: {doing}") from None
        await asyncio.sleep(delay)
        delay = min(delay * 2, _LONGEST_DELAY)
