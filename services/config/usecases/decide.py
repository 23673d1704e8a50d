"""Decide the commands of domains, and the end of judgings, each in one unit of work."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence

from services.config.domain import command_parser, judging, names
from services.config.domain.commands import DomainCommand, JudgingResult, JudgingTimeout
from services.config.domain.events import refused
from services.config.domain.model import INVALID_PREFIX, LIBRARY_PREFIX
from services.config.store.domains import OverdueSubmission, find_pending_key, load_overdue
from services.config.usecases.library import LibraryDecider
from services.config.usecases.unit_of_work import UnitOfWork, UnitsOfWork
from shared.contracts.findings import Code, finding
from shared.contracts.judging import Verdict
from shared.errors import Malformed
from shared.storage.inbox import QueuedCommand
from shared.storage.pool import Pool

KEYS_AT_ONCE = 200


class CommandDecider:
    """Every change of a domain by a command or a verdict.

    Transient faults are raised; nothing was done then."""

    def __init__(
        self,
        pool: Pool,
        units: UnitsOfWork,
        library: LibraryDecider,
        *,
        allow_private_origins: bool,
    ) -> None:
        self._pool = pool
        self._units = units
        self._library = library
        self._allow_private_origins = allow_private_origins

    async def run_ready(self, only: str | None = None) -> list[str]:
        """Run ready commands, library keys before domain keys: domains may wait for the library.

        ``only`` limits to one key. Return the keys that ran."""
        library_keys = await self._library.run_ready(only)
        domain_keys = await self._run_domains(only)
        return [*library_keys, *domain_keys]

    async def decide_verdict(self, verdict: Verdict) -> bool:
        """End the pending submission that a verdict is for.

        False when it is not pending (any more). Malformed when it is pending for another
        account."""
        return await self._end_judging(verdict.submission_id, verdict)

    async def find_overdue(self, seconds: float) -> list[OverdueSubmission]:
        """Return pending submissions whose question got its PubAck at least ``seconds`` ago."""
        return await load_overdue(self._pool, seconds)

    async def decide_timeout(self, submission_id: str) -> bool:
        """End a pending submission as undecided. False when it is not pending (any more)."""
        return await self._end_judging(submission_id, None)

    async def give_up(
        self, key: str, dead_letter: Callable[[QueuedCommand], Awaitable[None]]
    ) -> None:
        """Settle the first command under a key as refused: running it failed for a fault of ours,
        and trying again would fail again."""
        async with self._units.begin(draws_revisions=False) as work:
            queue = await work.lock_queue(key)
            for queued in queue[:1]:
                await dead_letter(queued)
                work.finish([queued])
                with contextlib.suppress(Malformed):
                    body, cause = work.read_command(queued)
                    settled = refused(cause, finding(Code.SERVICE_BUSY))
                    for target in command_parser.targets_of_key(body, key):
                        work.record(target, [settled])
            work.release(key)

    async def _run_domains(self, only: str | None) -> list[str]:
        async with self._units.begin() as work:
            queues = await work.lock_queues(KEYS_AT_ONCE, only, without_prefix=LIBRARY_PREFIX)
            commands = {}
            for key, queue in queues.items():
                if key.startswith(INVALID_PREFIX):
                    _refuse_invalid(work, key, queue)
                else:
                    commands[key] = [self._read_command(work, queued) for queued in queue]
            # The keys are locked already, so what is loaded now stays true until the commit.
            if commands:
                await work.load_domains(list(commands))
                commands = await work.complete_commands(commands)
            for name in sorted(commands, key=_family_order):
                work.run_domain(name, queues[name], commands[name])
        return list(queues)

    def _read_command(self, work: UnitOfWork, queued: QueuedCommand) -> DomainCommand:
        body, cause = work.read_command(queued)
        (target,) = command_parser.targets_of_key(body, queued.key)
        return command_parser.to_domain_command(
            body, target, cause, allow_private_origins=self._allow_private_origins
        )

    async def _end_judging(self, submission_id: str, verdict: Verdict | None) -> bool:
        async with self._units.begin() as work:
            # Found without a lock: the submission may end before this transaction has its key. Then
            # nothing is pending under the key any more, and the decision is empty.
            key = await find_pending_key(work.connection, submission_id)
            if key is None:
                return False
            in_library = key.startswith(LIBRARY_PREFIX)
            state = await (work.lock_entry(key) if in_library else work.lock_domain(key))
            result: JudgingResult
            if verdict is None:
                result = JudgingTimeout(submission_id)
            elif state is not None and state.account != verdict.account:
                raise Malformed("the verdict names another account than the submission's")
            else:
                result = judging.verdict_on(verdict, None if in_library else key)
            if in_library:
                events = work.decide_entry(key, result)
            else:
                (revision,) = await work.draw_revisions(1)
                events = work.decide_domain(key, result, revision)
            work.release(key)
        if in_library:
            self._library.wake_followers(events)
        return bool(events)


def _refuse_invalid(work: UnitOfWork, key: str, queue: Sequence[QueuedCommand]) -> None:
    """Refuse commands under a key that invalid names share."""
    for queued in queue:
        body, cause = work.read_command(queued)
        for target in command_parser.targets_of_key(body, key):
            work.record(target, [refused(cause, *target.findings)])
    work.finish(queue)


def _family_order(name: str) -> tuple[str, str]:
    """Return the order of domains in one transaction: a wildcard comes before its hosts, which must
    see what became of it."""
    return names.parent_name(name), name
