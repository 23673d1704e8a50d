"""How the commands to config end: on one domain or on many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from clients.platform.connection import PlatformConnection
from clients.platform.outcome_events import (
    ASK_SECONDS,
    OutcomeWaiter,
    PendingOutcome,
    forget_oldest,
)
from shared import catalogue
from shared.contracts.certificates import CommandResult, CommandView, ShowCommand
from shared.contracts.domains import CommandSettled
from shared.contracts.findings import Finding, findings_from
from shared.errors import Refused, Unreachable
from shared.retry import retry

SETTLED_SECONDS: Final = 20.0
_FIRST_DELAY: Final = 0.02
_LONGEST_DELAY: Final = 0.25
_SETTLED: Final[Mapping[str, type[CommandSettled]]] = {
    catalogue.EVENT_COMMAND_SETTLED: CommandSettled
}


@dataclass(frozen=True)
class StoredCommand:
    """A command that its stream holds. ``sequence``: its place there; ``command_id``: what to wait
    for."""

    command_id: str
    subject: str
    account: str
    domain: str
    sequence: int


def findings_of(settled: CommandSettled) -> list[Finding]:
    """Return the findings of an outcome.

    In full where it is a CommandResult. Otherwise, and after a disable, the codes with their
    standard sentences and hints."""
    if isinstance(settled, CommandResult) and settled.findings:
        return settled.findings
    return findings_from(settled.codes)


class CommandOutcomes:
    """Waits for the outcomes of commands to config."""

    def __init__(self, connection: PlatformConnection) -> None:
        self._connection = connection
        self._waiter = OutcomeWaiter(connection)
        self._accounts: dict[str, str] = {}

    async def expect(self, command_id: str, account: str) -> PendingOutcome[CommandSettled]:
        """Begin to listen; call it before the command is published."""
        forget_oldest(self._accounts)
        self._accounts[command_id] = account
        return await self._waiter.expect(command_id, _SETTLED)

    async def settled(self, command_id: str, *, limit: float = SETTLED_SECONDS) -> CommandSettled:
        """Return how a command to config ended.

        A refusal is returned, not raised: look at ``outcome``; ``results`` has the findings in
        full. Of a command on several domains, the first outcome is returned: ``results`` waits for
        all. Unreachable when it did not end within ``limit`` seconds."""
        # A command that was sent from here is expected already, and its event may have come.
        pending = await self._waiter.expect(command_id, _SETTLED)
        try:
            settled = await pending.wait(partial(self._ask_config, command_id), limit)
        finally:
            self._waiter.forget(command_id)
        if settled is None:
            raise Unreachable(
                f"the command {command_id} was not settled within {limit:g} s: no event came, and "
                "config does not know its outcome. "
                f"Tried at {self._connection.url} as {self._connection.user!r}; it may still be "
                "carried out"
            )
        return settled

    async def results(
        self, command_id: str, *, limit: float = SETTLED_SECONDS
    ) -> list[CommandResult]:
        """Return how a command to config ended on each of its domains (``domain`` None: in the
        library), with the findings in full.

        Unreachable, with the domains that are missing, when it did not end on all of them within
        ``limit`` seconds."""
        # The events do not tell on how many domains a command ends, config does: it is asked until
        # no domain is missing. The first delay is short, because most commands end within 50 ms.
        try:
            return await retry(
                partial(self._ask_when_finished, command_id),
                retry_on=_can_still_finish,
                deadline_seconds=limit,
                first_delay=_FIRST_DELAY,
                longest_delay=_LONGEST_DELAY,
            )
        except (Refused, Unreachable, _NotFinished) as error:
            reason = "config does not answer"
            if isinstance(error, _NotFinished):
                reason = str(error)
            raise Unreachable(
                f"the command {command_id} has not ended everywhere within {limit:g} s: {reason}"
            ) from None

    async def _ask_when_finished(self, command_id: str) -> list[CommandResult]:
        """Return all results, page by page, once no domain is missing; else raise _NotFinished."""
        view = await self._show_command(command_id)
        if view.waiting:
            raise _NotFinished(f"waiting for {', '.join(view.waiting[:10])}")
        if not view.results:
            raise _NotFinished("config does not know it yet")
        results = list(view.results)
        while view.next is not None:
            view = await self._show_command(command_id, view.next)
            results += view.results
        return results

    async def _ask_config(self, command_id: str) -> CommandSettled | None:
        """Return None while the command is not settled or not known, or config is away."""
        try:
            view = await self._show_command(command_id)
        except (Refused, Unreachable):
            return None
        return view.results[0] if view.results else None

    async def _show_command(self, command_id: str, after: int = 0) -> CommandView:
        question = ShowCommand(
            command_id=command_id, account=self._accounts.get(command_id), after=after
        )
        return await self._connection.ask(catalogue.RPC_COMMAND_SHOW, question, timeout=ASK_SECONDS)


class _NotFinished(Exception):
    """The command has not ended on all of its domains."""


def _can_still_finish(error: Exception) -> bool:
    return isinstance(error, (Refused, Unreachable, _NotFinished))
