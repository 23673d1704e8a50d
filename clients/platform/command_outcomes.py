"""How a command ended: told by its event, and asked for where the event was missed.

Core events are not kept for who is away for a moment: a waiter also asks config, so that it never
hangs.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from nats.aio.msg import Msg

from clients.platform.connection import Reach
from shared import catalogue
from shared.contracts.certificates import CommandResult, CommandView, ShowCommand
from shared.contracts.codec import parse
from shared.contracts.domains import CommandSettled
from shared.contracts.findings import Finding, findings_from
from shared.errors import Malformed, Refused, Unreachable

_ASK_SECONDS: Final = 1.0
_FIRST_LOOK: Final = 0.02
_LONGEST_LOOK: Final = 0.25
_KEPT: Final = 10_000


@dataclass(frozen=True)
class Ordered:
    """A stored command. ``sequence``: its place in the command stream; ``command_id``: what to wait
    for."""

    command_id: str
    subject: str
    account: str
    domain: str
    sequence: int


def findings_of(settled: CommandSettled) -> list[Finding]:
    """What was found, in full where it is a CommandResult; else, and after a disable, the codes
    with their sentences and hints."""
    return (settled.findings if isinstance(settled, CommandResult) else []) or findings_from(
        settled.codes
    )


class Settlements:
    """Hears how commands end. ``listen`` before a command is published, or its end can be
    missed."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._waiting: dict[str, asyncio.Future[CommandSettled]] = {}
        self._accounts: dict[str, str] = {}
        self._listening: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Subscribed when it returns; safe to call before every command."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._subscribe())
        await asyncio.shield(self._listening)

    async def expect(self, command_id: str, account: str) -> None:
        await self.listen()
        self._future(command_id)
        self._accounts[command_id] = account

    async def settled(self, command_id: str, limit: float) -> CommandSettled:
        """Unreachable when it is not settled within ``limit`` seconds."""
        await self.listen()
        future = self._future(command_id)
        deadline = time.monotonic() + limit
        try:
            while (left := deadline - time.monotonic()) > 0:
                done, _ = await asyncio.wait({future}, timeout=min(_ASK_SECONDS, left))
                if done:
                    return future.result()
                if found := await self._asked(command_id):
                    return found
        finally:
            self._waiting.pop(command_id, None)
            self._accounts.pop(command_id, None)
        raise Unreachable(
            f"the command {command_id} was not settled within {limit:g} s: neither its event "
            "came nor does config "
            f"know its end. Tried at {self._reach.url} as {self._reach.user!r}; it may still "
            "be carried out"
        )

    def _future(self, command_id: str) -> asyncio.Future[CommandSettled]:
        if command_id not in self._waiting:
            if len(self._waiting) >= _KEPT:
                # Nobody asked for the oldest: config still answers for it.
                oldest = next(iter(self._waiting))
                self._waiting.pop(oldest)
                self._accounts.pop(oldest, None)
            self._waiting[command_id] = asyncio.get_running_loop().create_future()
        return self._waiting[command_id]

    async def _subscribe(self) -> None:
        client = self._reach.client
        await client.subscribe(catalogue.EVENT_COMMAND_SETTLED, cb=self._hear_settled)
        await client.flush(timeout=int(max(self._reach.patience, 1)))

    async def _hear_settled(self, message: Msg) -> None:
        try:
            settled = parse(CommandSettled, message.data)
        except Malformed:
            return
        future = self._waiting.get(settled.command_id)
        if future is not None and not future.done():
            future.set_result(settled)

    async def results(self, command_id: str, limit: float) -> list[CommandResult]:
        """Every end of a command; Unreachable when it has not come to all of them within ``limit``
        seconds."""
        deadline = time.monotonic() + limit
        waiting = "config does not know it yet"
        delay = _FIRST_LOOK
        while (left := deadline - time.monotonic()) > 0:
            with suppress(Refused, Unreachable):
                view = await self._show(command_id)
                if view.results and not view.waiting:
                    return [*view.results, *await self._following(command_id, view.next)]
                waiting = f"waiting for {', '.join(view.waiting[:10])}" if view.waiting else waiting
            await asyncio.sleep(min(delay, left))
            delay = min(delay * 1.5, _LONGEST_LOOK)
        raise Unreachable(
            f"the command {command_id} has not come to its end within {limit:g} s: {waiting}"
        )

    async def _following(self, command_id: str, after: int | None) -> list[CommandResult]:
        """The pages that come after the first."""
        found: list[CommandResult] = []
        while after is not None:
            page = await self._show(command_id, after)
            found += page.results
            after = page.next
        return found

    async def _asked(self, command_id: str) -> CommandSettled | None:
        """What config says of it; None while it is not settled, unknown, or config is away."""
        try:
            view = await self._show(command_id)
        except (Refused, Unreachable):
            return None
        return view.results[0] if view.results else None

    async def _show(self, command_id: str, after: int = 0) -> CommandView:
        question = ShowCommand(
            command_id=command_id, account=self._accounts.get(command_id), after=after
        )
        return await self._reach.ask(catalogue.RPC_COMMAND_SHOW, question, patience=_ASK_SECONDS)
