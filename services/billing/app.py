"""The composition root of billing: the only file that wires it together."""

from __future__ import annotations

import gc
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from services.billing.settings import BillingSettings
from services.billing.store import finance
from services.billing.store.partitions import ArchiveMonths, RequestDays
from services.billing.transport.batch_consumers import (
    UsageBatchIntake,
    replay_one,
    with_dead_letters,
)
from services.billing.transport.consumers import batch_consumers, command_consumer
from services.billing.transport.queries import query_router
from services.billing.transport.stream_trimmer import StreamTrimmer
from services.billing.usecases.hourly_jobs import HourCharging, HourlyJobs
from services.billing.usecases.ingest import UsageIngest
from services.billing.usecases.money import MoneyCommands
from services.billing.usecases.ownership_events import OwnershipIngest
from services.billing.usecases.quarantine import BatchHandler, Quarantine
from services.billing.usecases.queries import BillingQueries
from services.billing.usecases.reference_cache import ReferenceCache
from services.billing.usecases.request_events import RequestIngest
from shared import runtime as service
from shared import subjects
from shared.messaging.dead_letter_service import DeadLetterService, dead_letter_router
from shared.messaging.dead_letters import DeadLetters
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
    """Run the service until it is stopped."""
    # A batch makes tens of thousands of small objects and no cycles: the collector's default took
    # a fifth of the time.
    gc.set_threshold(1_000_000, 20, 100)
    service.run(NAME, BillingSettings, build)


async def build(runtime: Runtime[BillingSettings]) -> Sequence[Coroutine[Any, Any, None]]:
    """Return what runs until the end: ingest, commands, hourly jobs and the outbox.

    SettingsError when the signing key or the database cannot be used."""
    settings = runtime.settings
    clock = runtime.clock
    publisher = runtime.publisher
    signer = service.read_signer(
        settings.billing_signing_key_file, "EDGETLS_BILLING_SIGNING_KEY_FILE"
    )
    pool = await open_pool(
        settings.billing_dsn.get_secret_value(), stalled_seconds=_STALLED_SECONDS
    )
    await migrate(pool, MIGRATIONS)
    await finance.grant_views(pool)
    runtime.broker.include_router(query_router(BillingQueries(pool, clock)))
    commands, usage, events = (
        DeadLetters(publisher, source) for source in subjects.DEAD_OWNERS[NAME]
    )
    cache = ReferenceCache(timedelta(hours=settings.billing_overdue_hours))
    months = ArchiveMonths(pool)
    days = RequestDays(pool)
    ingest = UsageIngest(pool, cache, months, clock)
    batches = UsageBatchIntake(ingest, usage, publisher, signer)
    requests = RequestIngest(pool, cache, days, clock)
    ownership = OwnershipIngest(pool, cache, clock, batches.count_held)
    dead_letters = DeadLetterService(
        runtime.client, publisher, NAME, {events.source: replay_one(ownership.ingest_events)}
    )
    runtime.broker.include_router(dead_letter_router(NAME, dead_letters))
    charging = HourCharging(pool, cache, clock)
    money = MoneyCommands(pool, cache, charging, clock)
    jobs = HourlyJobs(charging, pool, cache, months, days, clock, settings)
    quarantine = Quarantine(pool)
    handlers: dict[str, BatchHandler] = {
        subjects.DURABLE_BILLING_BATCHES: batches.handle_batches,
        subjects.DURABLE_BILLING_REQUESTS: with_dead_letters(requests.ingest_events, usage),
        subjects.DURABLE_BILLING_OWNERS: with_dead_letters(ownership.ingest_events, events),
    }
    trimmer = StreamTrimmer(runtime.client, subjects.STREAM_USAGE, USAGE_DURABLES)
    return (
        *(consumer.run() for consumer in batch_consumers(runtime, handlers, quarantine)),
        command_consumer(runtime, money.handle, commands).run(),
        terminate_idle_transactions(pool, _STALLED_SECONDS),
        Lease(pool, "billing-hours").hold(jobs.run),
        Lease(pool, "billing-parked").hold(lambda _fencing: quarantine.retry_messages(handlers)),
        Lease(pool, "billing-forgotten").hold(batches.dead_letter_forgotten),
        Lease(pool, "billing-trim").hold(trimmer.run),
        Relay(pool, publisher, Lease(pool, "billing-outbox"), runtime.health).run(),
    )
