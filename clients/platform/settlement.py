"""How a command ended: told by its event, and asked for where the event was missed.

Core events are not kept for who is away for a moment: a waiter also asks config, so that it never hangs.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from nats.aio.msg import Msg

from clients.platform.reach import Reach
from shared import subjects as s
from shared.contracts.domains import CommandSettled, Outcome
from shared.contracts.findings import Code, Finding, finding
from shared.contracts.queries import History, ShowHistory, ShowSubmission, SubmissionView
from shared.crypto.signing import parse
from shared.errors import Malformed, Refused, Unreachable

_ASK_SECONDS: Final = 1.0
_KEPT: Final = 10_000


@dataclass(frozen=True)
class Ordered:
    """A stored command. ``sequence``: its place in the command stream; ``command_id``: what to wait for."""

    command_id: str
    subject: str
    account: str
    domain: str
    sequence: int


def findings_of(settled: CommandSettled) -> list[Finding]:
    """The codes of a settled command with their sentences and hints (a submission's detail: Platform.submission)."""
    known = {code.value: code for code in Code}
    return [finding(known[code]) for code in settled.codes if code in known]


class Settlements:
    """Hears how commands end. ``listen`` before a command is published, or its end can be missed."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._waiting: dict[str, asyncio.Future[CommandSettled]] = {}
        self._orders: dict[str, tuple[str, str, str]] = {}
        self._listening: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Subscribed when it returns; safe to call before every command."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._subscribe())
        await asyncio.shield(self._listening)

    async def expect(self, command_id: str, subject: str, account: str, domain: str) -> None:
        await self.listen()
        self._future(command_id)
        self._orders[command_id] = (subject, account, domain)

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
            self._orders.pop(command_id, None)
        raise Unreachable(
            f"the command {command_id} was not settled within {limit:g} s: neither its event came nor does config "
            f"know its end. Tried at {self._reach.url} as {self._reach.user!r}; it may still be carried out"
        )

    def _future(self, command_id: str) -> asyncio.Future[CommandSettled]:
        if command_id not in self._waiting:
            if len(self._waiting) >= _KEPT:
                # Nobody asked for the oldest: config still answers for it.
                oldest = next(iter(self._waiting))
                self._waiting.pop(oldest)
                self._orders.pop(oldest, None)
            self._waiting[command_id] = asyncio.get_running_loop().create_future()
        return self._waiting[command_id]

    async def _subscribe(self) -> None:
        client = self._reach.client
        await client.subscribe(s.EVENT_COMMAND_SETTLED, cb=self._hear_settled)
        await client.flush(timeout=int(max(self._reach.patience, 1)))

    async def _hear_settled(self, message: Msg) -> None:
        try:
            settled = parse(CommandSettled, message.data)
        except Malformed:
            return
        future = self._waiting.get(settled.command_id)
        if future is not None and not future.done():
            future.set_result(settled)

    async def _asked(self, command_id: str) -> CommandSettled | None:
        """What config says of it; None while it is not settled, unknown, or config is away."""
        subject, account, domain = self._orders.get(command_id, (s.CMD_CERTIFICATE_SUBMIT, "", ""))
        try:
            if subject == s.CMD_CERTIFICATE_SUBMIT:
                return await self._asked_submission(command_id, account or None)
            return await self._asked_history(command_id, account, domain)
        except (Refused, Unreachable):
            return None

    async def _asked_submission(self, command_id: str, account: str | None) -> CommandSettled | None:
        question = ShowSubmission(submission_id=command_id, account=account)
        view = await self._reach.ask(s.RPC_SUBMISSION_SHOW, question, SubmissionView, patience=_ASK_SECONDS)
        if view.outcome is None:
            return None
        return self._settled(command_id, s.CMD_CERTIFICATE_SUBMIT, view.account, view.domain, view.outcome,
                             [one.code.value for one in view.findings], view.revision)

    async def _asked_history(self, command_id: str, account: str, domain: str) -> CommandSettled | None:
        question = ShowHistory(domain=domain, account=account, limit=20)
        history = await self._reach.ask(s.RPC_DOMAIN_HISTORY, question, History, patience=_ASK_SECONDS)
        for entry in history.entries:
            if entry.command_id == command_id:
                return self._settled(command_id, entry.command, account, domain, entry.outcome, entry.codes,
                                     entry.revision, entry.settled_at)
        return None

    @staticmethod
    def _settled(
        command_id: str, command: str, account: str, domain: str, outcome: Outcome, codes: list[str],
        revision: int | None, at: datetime | None = None,
    ) -> CommandSettled:
        return CommandSettled(
            command_id=command_id, command=command, domain=domain, account=account, outcome=outcome, codes=codes,
            revision=revision, at=at or datetime.now(UTC),
        )
