"""The composition root of billing: the only file that wires."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from services.billing.book import Book
from services.billing.facts import Facts
from services.billing.ingest import Ingest
from services.billing.requests import Requests
from services.billing.settings import Settings
from services.billing.store import finance
from services.billing.store.partitions import Partitions
from services.billing.transport import bills_router, queries_router
from services.billing.usecases import Money
from services.billing.workers import BatchTaker, HourClock, LotConsumer, burying
from shared import service, subjects
from shared.messaging.dead import DeadOffice, dead_router
from shared.messaging.failures import Consumer, DeadLetters
from shared.messaging.pull import Pull
from shared.service import Runtime
from shared.storage.lease import Lease
from shared.storage.migrate import migrate
from shared.storage.outbox import Relay
from shared.storage.pool import Pool, open_pool

NAME = "billing"
MIGRATIONS = Path(__file__).parent / "migrations"


def run() -> NoReturn:
    service.run(NAME, Settings, build)


async def build(runtime: Runtime[Settings]) -> Sequence[Coroutine[Any, Any, None]]:
    settings, client, publisher = runtime.settings, runtime.client, runtime.publisher
    signer = service.read_signer(settings.billing_signing_key_file, "EDGETLS_BILLING_SIGNING_KEY_FILE")
    pool = await open_pool(settings.billing_dsn.get_secret_value())
    await migrate(pool, MIGRATIONS)
    await finance.grant(pool)
    runtime.broker.include_router(queries_router(pool))
    runtime.broker.include_router(bills_router(pool, runtime.clock))
    runtime.broker.include_router(dead_router(DeadOffice(client, publisher, NAME), NAME))
    commands, usage, events = (DeadLetters(publisher, source) for source in subjects.DEAD_OWNERS[NAME])
    book, money = Book(), Money(pool, runtime.clock)
    ingest = Ingest(pool, book, Partitions(pool), runtime.clock)
    batches = BatchTaker(ingest, pool, usage, publisher, signer)
    facts = Facts(pool, runtime.clock, batches.drain)
    hours = HourClock(money, pool, runtime.clock, timedelta(seconds=settings.billing_hour_grace_seconds))
    return (
        *_usage(runtime, pool, book, batches, usage),
        Consumer(_pull(runtime, subjects.STREAM_COMMANDS_BILLING, subjects.DURABLE_BILLING_COMMANDS),
                 money.handle, commands, runtime.health).run(),
        LotConsumer(_pull(runtime, subjects.STREAM_EVENTS, subjects.DURABLE_BILLING_OWNERS),
                    burying(facts.take, events), events, runtime.health).run(),
        Lease(pool, "billing-hours").hold(hours.run),
        Relay(pool, publisher, Lease(pool, "billing-outbox"), runtime.health).run(),
    )


def _usage(
    runtime: Runtime[Settings], pool: Pool, book: Book, batches: BatchTaker, dead: DeadLetters
) -> Sequence[Coroutine[Any, Any, None]]:
    settings = runtime.settings
    requests = Requests(pool, book, runtime.clock)
    batch_pull = _pull(runtime, subjects.STREAM_USAGE, subjects.DURABLE_BILLING_BATCHES, settings.billing_pull_batches)
    request_pull = _pull(
        runtime, subjects.STREAM_USAGE, subjects.DURABLE_BILLING_REQUESTS, settings.billing_pull_requests
    )
    return (
        LotConsumer(batch_pull, batches.take, dead, runtime.health).run(),
        LotConsumer(request_pull, burying(requests.take, dead), dead, runtime.health).run(),
    )


def _pull(runtime: Runtime[Settings], stream: str, durable: str, batch: int = 500) -> Pull:
    return Pull(runtime.client, stream, durable, batch=batch)
