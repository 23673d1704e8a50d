"""The composition root of billing: the only file that wires."""

from __future__ import annotations

import gc
from collections.abc import Coroutine, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from services.billing.settings import Settings
from services.billing.store import finance
from services.billing.store.partitions import ArchiveMonths, RequestDays
from services.billing.transport.batch_consumers import (
    BatchConsumer,
    UsageBatchIntake,
    replay_one,
    with_dead_letters,
)
from services.billing.transport.queries import query_router
from services.billing.transport.stream_trimmer import StreamTrimmer
from services.billing.usecases.hourly_jobs import HourlyJobs
from services.billing.usecases.ingest import UsageIngest
from services.billing.usecases.money import MoneyCommands
from services.billing.usecases.ownership_events import OwnershipIngest
from services.billing.usecases.quarantine import BatchHandler, Quarantine
from services.billing.usecases.queries import BillingQueries
from services.billing.usecases.reference_cache import ReferenceCache
from services.billing.usecases.request_events import RequestIngest
from shared import runtime as service
from shared import subjects
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letter_service import DeadLetterService, dead_letter_router
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.pull import Pull
from shared.runtime import Runtime
from shared.storage.idle_transactions import terminate_idle_transactions
from shared.storage.lease import Lease
from shared.storage.migrate import migrate
from shared.storage.outbox import Relay
from shared.storage.pool import open_pool

NAME = "billing"
USAGE_DURABLES = (subjects.DURABLE_BILLING_BATCHES, subjects.DURABLE_BILLING_REQUESTS)
_STALLED_SECONDS = 20.0
MIGRATIONS = Path(__file__).parent / "migrations"


def run() -> NoReturn:
    # A lot makes tens of thousands of small objects and no cycles: the collector's default took a
    # fifth of the time.
    gc.set_threshold(1_000_000, 20, 100)
    service.run(NAME, Settings, build)


async def build(runtime: Runtime[Settings]) -> Sequence[Coroutine[Any, Any, None]]:
    """What runs until the end: ingest, commands, clocks and the outbox. SettingsError when the
    signing key or the database cannot be used."""
    settings, client, publisher = runtime.settings, runtime.client, runtime.publisher
    signer = service.read_signer(
        settings.billing_signing_key_file, "EDGETLS_BILLING_SIGNING_KEY_FILE"
    )
    pool = await open_pool(
        settings.billing_dsn.get_secret_value(), stalled_seconds=_STALLED_SECONDS
    )
    await migrate(pool, MIGRATIONS)
    await finance.grant_views(pool)
    runtime.broker.include_router(query_router(BillingQueries(pool, runtime.clock)))
    commands, usage, events = (
        DeadLetters(publisher, source) for source in subjects.DEAD_OWNERS[NAME]
    )
    book, months, days = (
        ReferenceCache(timedelta(hours=settings.billing_overdue_hours)),
        ArchiveMonths(pool),
        RequestDays(pool),
    )
    money = MoneyCommands(pool, book, runtime.clock)
    ingest = UsageIngest(pool, book, months, runtime.clock)
    batches = UsageBatchIntake(ingest, pool, usage, publisher, signer)
    facts = OwnershipIngest(pool, book, runtime.clock, batches.drain)
    office = DeadLetterService(client, publisher, NAME, {events.source: replay_one(facts.take)})
    runtime.broker.include_router(dead_letter_router(NAME, office))
    hours = HourlyJobs(money, pool, months, days, runtime.clock, settings)
    parking, requests = Quarantine(pool), RequestIngest(pool, book, days, runtime.clock)
    takes: dict[str, BatchHandler] = {
        subjects.DURABLE_BILLING_BATCHES: batches.take,
        subjects.DURABLE_BILLING_REQUESTS: with_dead_letters(requests.take, usage),
        subjects.DURABLE_BILLING_OWNERS: with_dead_letters(facts.take, events),
    }
    return (
        *_lots(runtime, takes, parking),
        Consumer(
            _pull(runtime, subjects.STREAM_COMMANDS_BILLING, subjects.DURABLE_BILLING_COMMANDS),
            money.handle,
            commands,
            runtime.health,
        ).run(),
        terminate_idle_transactions(pool, _STALLED_SECONDS),
        Lease(pool, "billing-hours").hold(hours.run),
        Lease(pool, "billing-parked").hold(lambda _fencing: parking.retry(takes)),
        Lease(pool, "billing-forgotten").hold(batches.bury_forgotten),
        Lease(pool, "billing-trim").hold(
            StreamTrimmer(client, subjects.STREAM_USAGE, USAGE_DURABLES).run
        ),
        Relay(pool, publisher, Lease(pool, "billing-outbox"), runtime.health).run(),
    )


def _lots(
    runtime: Runtime[Settings], takes: Mapping[str, BatchHandler], parking: Quarantine
) -> Sequence[Coroutine[Any, Any, None]]:
    """The consumers of what comes in lots: (stream, durable, messages a pull, lots at once) of
    each."""
    settings = runtime.settings
    wanted = (
        (subjects.STREAM_USAGE, subjects.DURABLE_BILLING_BATCHES, settings.billing_pull_batches, 1),
        (
            subjects.STREAM_USAGE,
            subjects.DURABLE_BILLING_REQUESTS,
            settings.billing_pull_requests,
            2,
        ),
        (subjects.STREAM_EVENTS, subjects.DURABLE_BILLING_OWNERS, 500, 1),
    )
    return [
        BatchConsumer(
            _pull(runtime, stream, durable, batch),
            takes[durable],
            parking,
            runtime.health,
            lots=lots,
        ).run()
        for stream, durable, batch, lots in wanted
    ]


def _pull(runtime: Runtime[Settings], stream: str, durable: str, batch: int = 500) -> Pull:
    return Pull(runtime.client, stream, durable, batch=batch)
