"""The composition root of config: the only file that wires."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, NoReturn

from services.config.settings import Settings
from services.config.transport.command_intake import Intake
from services.config.transport.command_runner import Deadlines, Runner, keep_house
from services.config.transport.event_consumers import LiveRevisions, Verdicts
from services.config.transport.queries import query_router
from services.config.usecases.decide import Decider
from services.config.usecases.expiry import ExpiryWatch
from services.config.usecases.library import Librarian
from services.config.usecases.library_queries import LibraryQueries
from services.config.usecases.preview import Previews
from services.config.usecases.queries import Queries
from services.config.usecases.revisions import Revisions
from services.config.usecases.suspend import Balances, Suspender
from shared import catalogue, subjects
from shared import runtime as service
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letter_service import DeadLetterService, dead_letter_router
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.delivery import Delivery
from shared.messaging.pull import Pull
from shared.runtime import Runtime
from shared.storage import inbox
from shared.storage.idle_transactions import terminate_idle_transactions
from shared.storage.inbox import Inbox
from shared.storage.lease import Lease
from shared.storage.migrate import migrate
from shared.storage.outbox import Relay
from shared.storage.pool import open_pool

NAME = "config"
MIGRATIONS = Path(__file__).parent / "migrations"
_POOL_SIZE, _VERDICTS, _CONVERGED = 20, 8, 4
_STALLED_SECONDS = 3.0


def run() -> NoReturn:
    """Until SIGTERM."""
    service.run(NAME, Settings, build)


async def build(runtime: Runtime[Settings]) -> Sequence[Coroutine[Any, Any, None]]:
    """Opens the database, puts the routers on the broker, and returns what runs until the end."""
    settings, client, health = runtime.settings, runtime.client, runtime.health
    commands, verdicts, events = subjects.DEAD_OWNERS[NAME]
    buried = {
        source: DeadLetters(runtime.publisher, source) for source in (commands, verdicts, events)
    }
    pool = await open_pool(
        settings.config_dsn.get_secret_value(), size=_POOL_SIZE, stalled_seconds=_STALLED_SECONDS
    )
    await migrate(pool, MIGRATIONS)
    previews = Previews(pool, runtime.clock, allow_private_origins=settings.allow_private_origins)
    runtime.broker.include_router(
        query_router(Queries(pool, runtime.clock), LibraryQueries(pool, runtime.clock), previews)
    )
    wake, turned = asyncio.Event(), asyncio.Event()
    revisions = Revisions(pool, client, health, settings.revision_seconds)
    librarian = Librarian(pool, revisions, runtime.clock, asyncio.Event())
    decider = Decider(
        pool,
        revisions,
        runtime.clock,
        librarian,
        allow_private_origins=settings.allow_private_origins,
    )
    box = Inbox(pool, subjects.STREAM_COMMANDS_CONFIG)
    pull = Pull(client, subjects.STREAM_COMMANDS_CONFIG, subjects.DURABLE_CONFIG_COMMANDS)
    intake = Intake(client, pull, box, buried[commands], health, wake)
    converged, balances = LiveRevisions(pool), Balances(pool, turned)

    async def again(event: Delivery) -> None:
        await (converged if event.subject == catalogue.EVENT_EDGE_CONVERGED else balances).handle(
            event
        )

    office = DeadLetterService(client, runtime.publisher, NAME, {events: again})
    runtime.broker.include_router(dead_letter_router(NAME, office))
    judged = Verdicts(decider, lambda: runtime.trust().verifier("validator"), wake)
    return (
        revisions.run(),
        intake.run(),
        intake.watch_gaps(),
        inbox.listen(pool, wake),
        Runner(pool, decider, buried[commands], health, wake).run(),
        librarian.run(wake),
        Deadlines(pool, client, decider, settings.judging_seconds, wake).run(),
        Consumer(
            Pull(client, subjects.STREAM_JUDGING, subjects.DURABLE_CONFIG_VERDICTS),
            judged.handle,
            buried[verdicts],
            health,
            concurrency=_VERDICTS,
        ).run(),
        Consumer(
            Pull(client, subjects.STREAM_EVENTS, subjects.DURABLE_CONFIG_CONVERGED),
            converged.handle,
            buried[events],
            health,
            concurrency=_CONVERGED,
        ).run(),
        Consumer(
            Pull(client, subjects.STREAM_EVENTS, subjects.DURABLE_CONFIG_BALANCES),
            balances.handle,
            buried[events],
            health,
        ).run(),
        Suspender(pool, revisions, runtime.clock, turned).run(),
        terminate_idle_transactions(pool, _STALLED_SECONDS),
        Lease(pool, "expiry").hold(ExpiryWatch(pool, runtime.clock, settings.expiry_seconds).run),
        Relay(pool, runtime.publisher, Lease(pool, "outbox"), health).run(),
        keep_house(pool, box),
    )
