"""One connection to NATS as one user, whose calls are tried again for a limited time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from nats.aio.client import Client

from shared.catalogue_row import AnswerT, Query, QuestionT
from shared.contracts.findings import Code
from shared.errors import BrokerAway, Refused, Transient, Unreachable
from shared.messages import Outgoing
from shared.messaging import connection, rpc
from shared.messaging.publisher import Publisher
from shared.retry import retry
from shared.settings import BrokerSettings

ANSWER_SECONDS: Final = 3.0
_CONNECT_SECONDS: Final = 5.0
_LONGEST_DELAY: Final = 1.0
ResultT = TypeVar("ResultT")


class PlatformConnection:
    """One connection as one NATS user. Each call tries again for ``timeout`` seconds at most."""

    def __init__(self, client: Client, url: str, user: str, timeout: float) -> None:
        self.client = client
        self.url = url
        self.user = user
        self.timeout = timeout
        self._publisher = Publisher(client)

    @classmethod
    async def open(
        cls, url: str, seed_file: Path, user: str, timeout: float, ca_file: Path | None = None
    ) -> PlatformConnection:
        """Log in to NATS.

        Unreachable when no server answers within ``timeout`` seconds; SettingsError when the login
        is refused."""
        settings = BrokerSettings(nats_url=url, nats_seed_file=seed_file, nats_ca_file=ca_file)

        async def log_in() -> Client:
            # A server that accepts the connection and stays silent would hold it for ever.
            try:
                return await asyncio.wait_for(connection.connect(settings, user), _CONNECT_SECONDS)
            except TimeoutError:
                raise BrokerAway(f"NATS at {url} does not answer") from None

        doing = f"connecting to NATS at {url} as {user!r}"
        client = await retry_or_unreachable(log_in, timeout, doing)
        return cls(client, url, user, timeout)

    async def publish(self, message: Outgoing) -> int:
        """Publish until stored, and return the sequence in the stream.

        Every attempt carries the same id, so a lost confirmation never doubles the message.
        Unreachable when it was not stored within the timeout."""
        try:
            return await self._publisher.publish(message, timeout=self.timeout)
        except BrokerAway as error:
            raise Unreachable(
                f"{error}. Tried for {self.timeout:g} s at {self.url} as {self.user!r} with "
                f"the id {message.id}"
            ) from None

    async def ask(
        self,
        query: Query[QuestionT, AnswerT],
        question: QuestionT,
        *,
        timeout: float | None = None,
    ) -> AnswerT:
        """Ask one question and return the answer.

        Refused with findings; Unreachable when no answer came within ``timeout`` seconds (None:
        those of the connection)."""
        if timeout is None:
            timeout = self.timeout
        # One attempt waits shorter than the call: a lost answer leaves time for another attempt.
        answer_seconds = min(ANSWER_SECONDS, timeout)
        return await retry_or_unreachable(
            partial(rpc.ask, self.client, query, question, timeout=answer_seconds),
            timeout,
            f"asking {query} at {self.url} as {self.user!r}",
        )

    async def ask_pages(
        self, query: Query[QuestionT, AnswerT], question: QuestionT
    ) -> AsyncIterator[AnswerT]:
        """Ask for one page after the other, each when the one before was taken, and yield them.

        The ``next`` of a page is the ``after`` of the following question, None on the last."""
        while True:
            page = await self.ask(query, question)
            yield page
            # Every paged answer has the field; the catalogue's types do not say so.
            following = cast(Any, page).next
            if following is None:
                return
            question = question.model_copy(update={"after": following})

    async def close(self) -> None:
        """Close the connection; safe to call twice."""
        if not self.client.is_closed:
            await self.client.close()


async def retry_or_unreachable(
    attempt: Callable[[], Awaitable[ResultT]], timeout: float, doing: str
) -> ResultT:
    """Call ``attempt`` until it works, and return its result.

    Refused is raised at once. Unreachable, with the last reason and ``doing``, when it did not work
    within ``timeout`` seconds."""
    attempts = 0

    # Refused with ``service.busy`` counts as a fault, every other refusal is an answer.
    async def count_and_try() -> ResultT:
        nonlocal attempts
        attempts += 1
        return await attempt()

    try:
        return await retry(
            count_and_try,
            retry_on=_can_pass,
            deadline_seconds=timeout,
            longest_delay=_LONGEST_DELAY,
        )
    except (Transient, Refused) as error:
        if not _can_pass(error):
            raise
        times = "once" if attempts == 1 else f"{attempts} times"
        raise Unreachable(f"{error}. Tried {times} in {timeout:g} s: {doing}") from None


def _can_pass(error: Exception) -> bool:
    """A refusal is final, except for ``service.busy``, the one that passes by itself."""
    if isinstance(error, Refused):
        return [one.code for one in error.findings] == [Code.SERVICE_BUSY]
    return isinstance(error, Transient)
