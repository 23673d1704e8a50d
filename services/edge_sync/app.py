"""The composition root of edge_sync."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, NoReturn

from services.edge_sync.settings import Settings
from services.edge_sync.store.database import Store
from services.edge_sync.transport.queries import Desk, edge_router
from services.edge_sync.usecases.leader import Term
from services.edge_sync.usecases.trust import Trusted
from shared import runtime as service
from shared import subjects
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.findings import Code, finding
from shared.errors import Refused
from shared.messaging.dead_letter_service import DeadLetterService, dead_letter_router
from shared.messaging.delivery import Delivery
from shared.observability.health import Health
from shared.retry import retry
from shared.runtime import Runtime, read_signer
from shared.settings import read_secret
from shared.storage.lease import Lease
from shared.storage.migrate import migrate
from shared.storage.outbox import Relay
from shared.storage.pool import open_pool

NAME = "edge_sync"
MIGRATIONS = Path(__file__).parent / "migrations"


def run() -> NoReturn:
    service.run(NAME, Settings, build)


async def build(runtime: Runtime[Settings]) -> Sequence[Coroutine[Any, Any, None]]:
    """What runs until the end: the outbox, and everything else while this replica has the lease.
    SettingsError when the signing key is not one that the trust document names, or the database
    cannot be used."""
    settings = runtime.settings
    signer = read_signer(settings.edge_sync_signing_key_file, "EDGETLS_EDGE_SYNC_SIGNING_KEY_FILE")
    operator_key = read_secret(settings.operator_key_file, "EDGETLS_OPERATOR_KEY_FILE")
    trusted = Trusted(operator_key, runtime.trust, runtime.clock)
    pool = await open_pool(settings.edge_sync_dsn.get_secret_value())
    await migrate(pool, MIGRATIONS)
    store, desk = Store(pool), Desk()
    published = await retry(store.trust, health=runtime.health, condition="database")
    if published is not None:
        trusted.publish(parse(Signed, published))
    trusted.require(signer)
    runtime.broker.include_router(edge_router(desk))
    runtime.broker.include_router(dead_letter_router(NAME, _office(runtime, desk)))

    async def lead(fencing: int) -> None:
        desk.term = Term(runtime, store, trusted, signer)
        try:
            await desk.term.run()
        finally:
            desk.term = None

    relay = Relay(pool, runtime.publisher, Lease(pool, "outbox"), runtime.health)
    return [relay.run(), Lease(pool, NAME).hold(lead), _watch_database(store, runtime.health)]


def _office(runtime: Runtime[Settings], desk: Desk) -> DeadLetterService:
    """A domain event is handled again by whoever leads: the events of config are not ours to
    publish."""

    async def again(event: Delivery) -> None:
        if desk.term is None or desk.term.observer is None:
            raise Refused([finding(Code.SERVICE_BUSY)])
        await desk.term.change(event, desk.term.observer)

    return DeadLetterService(
        runtime.client, runtime.publisher, NAME, {f"{subjects.STREAM_EVENTS}_{NAME}": again}
    )


async def _watch_database(store: Store, health: Health) -> None:
    while True:
        await retry(store.alive, health=health, condition="database")
        await asyncio.sleep(1)
