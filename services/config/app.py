"""Wires config: the only file that builds its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from services.config.settings import ConfigSettings
from services.config.transport.command_intake import CommandIntake
from services.config.transport.command_runner import CommandRunner, run_when_woken
from services.config.transport.event_consumers import (
    EventConsumer,
    VerdictConsumer,
    event_consumers,
)
from services.config.transport.queries import query_router
from services.config.transport.verdict_deadline import VerdictDeadline
from services.config.usecases.cleanup import Cleanup
from services.config.usecases.converged import LiveRevisions
from services.config.usecases.decide import CommandDecider
from services.config.usecases.expiry import ExpiryWatch
from services.config.usecases.library import LibraryDecider
from services.config.usecases.library_queries import LibraryQueries
from services.config.usecases.preview import CommandPreviews
from services.config.usecases.queries import DomainQueries
from services.config.usecases.revisions import RevisionGate
from services.config.usecases.suspend import AccountSuspender
from services.config.usecases.unit_of_work import UnitsOfWork
from shared import runtime as service
from shared import subjects
from shared.messaging.consumer import Handler
from shared.messaging.dead_letter_service import DeadLetterService, dead_letter_router
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.pull import Pull
from shared.retry import every
from shared.runtime import Runtime
from shared.storage import inbox
from shared.storage.idle_transactions import terminate_idle_transactions
from shared.storage.inbox import Inbox
from shared.storage.lease import Lease
from shared.storage.migrate import migrate
from shared.storage.outbox import Relay
from shared.storage.pool import Pool, open_pool

NAME = subjects.CONFIG
MIGRATIONS = Path(__file__).parent / "migrations"
_POOL_SIZE = 20
_STALLED_SECONDS = 3.0
_SUSPEND_POLL_SECONDS = 2.0
_DELETE_SECONDS = 600


def run() -> NoReturn:
    """Run config until SIGTERM."""
    service.run(NAME, ConfigSettings, build)


async def build(runtime: Runtime[ConfigSettings]) -> Sequence[Coroutine[Any, Any, None]]:
    """Open the database, put the routers on the broker, and return what runs until the end."""
    settings = runtime.settings
    client = runtime.client
    clock = runtime.clock
    health = runtime.health
    pool = await open_pool(
        settings.config_dsn.get_secret_value(), size=_POOL_SIZE, stalled_seconds=_STALLED_SECONDS
    )
    await migrate(pool, MIGRATIONS)
    wake = asyncio.Event()
    follow = asyncio.Event()
    suspend = asyncio.Event()
    revisions = RevisionGate(pool, client, health, settings.revision_seconds)
    units = UnitsOfWork(pool, revisions, clock)
    library = LibraryDecider(pool, units, follow=follow, wake=wake)
    decider = CommandDecider(
        pool, units, library, allow_private_origins=settings.allow_private_origins
    )
    suspender = AccountSuspender(pool, units, suspend)
    expiry = ExpiryWatch(pool, clock, settings.expiry_seconds)

    command_source, _, event_source = subjects.DEAD_OWNERS[NAME]
    command_letters = DeadLetters(runtime.publisher, command_source)
    box = Inbox(pool, subjects.STREAM_COMMANDS_CONFIG)
    pull = Pull(client, subjects.STREAM_COMMANDS_CONFIG, subjects.DURABLE_CONFIG_COMMANDS)
    intake = CommandIntake(client, pull, box, command_letters, health, wake)
    runner = CommandRunner(pool, decider, command_letters)
    deadline = VerdictDeadline(client, decider, settings.judging_seconds, wake)
    verdicts = VerdictConsumer(decider, lambda: runtime.trust().verifier("validator"), wake)
    events = EventConsumer(LiveRevisions(pool), suspender)
    _include_routers(runtime, pool, {event_source: events.handle})
    return (
        revisions.run(),
        intake.run(),
        intake.watch_gaps(),
        inbox.listen(pool, wake),
        run_when_woken(runner.run_round, wake, health=health, condition="database"),
        run_when_woken(library.update_followers, follow),
        run_when_woken(suspender.update_domains, suspend, poll_seconds=_SUSPEND_POLL_SECONDS),
        deadline.run(),
        *(consumer.run() for consumer in event_consumers(runtime, verdicts, events)),
        terminate_idle_transactions(pool, _STALLED_SECONDS),
        Lease(pool, "expiry").hold(expiry.run),
        Relay(pool, runtime.publisher, Lease(pool, "outbox"), health).run(),
        every(_DELETE_SECONDS, Cleanup(pool, box).delete_old_rows),
    )


def _include_routers(
    runtime: Runtime[ConfigSettings], pool: Pool, replays: Mapping[str, Handler]
) -> None:
    """Put the queries and the dead-letter service on the broker. ``replays``: handlers of events,
    which config may not publish again."""
    previews = CommandPreviews(
        pool, runtime.clock, allow_private_origins=runtime.settings.allow_private_origins
    )
    domains = DomainQueries(pool, runtime.clock)
    library = LibraryQueries(pool, runtime.clock)
    dead_letters = DeadLetterService(runtime.client, runtime.publisher, NAME, replays)
    runtime.broker.include_router(query_router(domains, library, previews))
    runtime.broker.include_router(dead_letter_router(NAME, dead_letters))
