"""The composition root of edge_sync: the only file that wires."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from services.edge_sync.domain.fleet import FleetState
from services.edge_sync.settings import EdgeSyncSettings
from services.edge_sync.store.bucket import KvBucket
from services.edge_sync.store.convergences import ConvergenceStore
from services.edge_sync.store.fleet import FleetStore
from services.edge_sync.transport.consumers import (
    CHANGES_SOURCE,
    consume_domain_changes,
    consume_fleet_commands,
)
from services.edge_sync.transport.queries import edge_router
from services.edge_sync.usecases.bundle_writer import BundleWriter, ConfigClient
from services.edge_sync.usecases.checkpoints import CheckpointPublisher
from services.edge_sync.usecases.convergence_reports import ConvergenceReporter
from services.edge_sync.usecases.convergence_tracker import ConvergenceTracker
from services.edge_sync.usecases.domain_changes import DomainChanges
from services.edge_sync.usecases.fleet_commands import FleetCommands
from services.edge_sync.usecases.keyrings import KeyringWriter
from services.edge_sync.usecases.leader import Leader
from services.edge_sync.usecases.queries import EdgeQueries
from services.edge_sync.usecases.trust import CurrentTrust
from shared import runtime as service
from shared import subjects
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.crypto.signing import Signer
from shared.messaging.dead_letter_service import DeadLetterService
from shared.retry import every, retry
from shared.runtime import Runtime, read_signer
from shared.settings import read_secret
from shared.storage.lease import Lease
from shared.storage.migrate import migrate
from shared.storage.outbox import Relay
from shared.storage.pool import Pool, open_pool

NAME = subjects.EDGE_SYNC
MIGRATIONS = Path(__file__).parent / "migrations"
CHECK_DATABASE_SECONDS = 1.0


def run() -> NoReturn:
    """Run edge_sync until SIGTERM."""
    service.run(NAME, EdgeSyncSettings, build)


async def build(runtime: Runtime[EdgeSyncSettings]) -> Sequence[Coroutine[Any, Any, None]]:
    """Open the database, bind the routers, and return what runs until the end: the outbox, and the
    leader while this replica has the lease.

    SettingsError when the trust document does not name the signing key, or the database cannot be
    used."""
    settings = runtime.settings
    signer = read_signer(settings.edge_sync_signing_key_file, "EDGETLS_EDGE_SYNC_SIGNING_KEY_FILE")
    operator_key = read_secret(settings.operator_key_file, "EDGETLS_OPERATOR_KEY_FILE")
    trust = CurrentTrust(operator_key, runtime.trust, runtime.clock)
    pool = await open_pool(settings.edge_sync_dsn.get_secret_value())
    await migrate(pool, MIGRATIONS)
    fleet_store = FleetStore(pool)
    published = await retry(fleet_store.load_trust, health=runtime.health, condition="database")
    if published is not None:
        trust.use_published(parse(Signed, published))
    trust.check_signer(signer)
    leader = _wire_leader(runtime, pool, trust, signer)
    relay = Relay(pool, runtime.publisher, Lease(pool, "outbox"), runtime.health)
    check_database = partial(
        retry, fleet_store.check_connection, health=runtime.health, condition="database"
    )
    return [
        relay.run(),
        Lease(pool, NAME).hold(leader.run),
        every(CHECK_DATABASE_SECONDS, check_database),
    ]


def _wire_leader(
    runtime: Runtime[EdgeSyncSettings], pool: Pool, trust: CurrentTrust, signer: Signer
) -> Leader:
    """Connect the parts that the leader works with, and bind the routers that answer from them."""
    settings = runtime.settings
    client = runtime.client
    publisher = runtime.publisher
    clock = runtime.clock
    fleet = FleetState()
    fleet_store = FleetStore(pool)
    convergences = ConvergenceStore(pool)
    writer = BundleWriter(
        KvBucket(client, subjects.BUCKET_BUNDLES), ConfigClient(client), signer, trust
    )
    keyrings = KeyringWriter(
        fleet,
        fleet_store,
        KvBucket(client, subjects.BUCKET_KEYRINGS),
        trust,
        signer,
        clock,
        settings.edge_sync_sealing_seconds,
    )
    tracker = ConvergenceTracker(fleet.nodes, lambda: writer.index, settings)
    commands = FleetCommands(fleet, fleet_store, keyrings, trust, clock, tracker.forget_node)
    changes = DomainChanges(convergences, writer, tracker)
    leader = Leader(
        settings,
        runtime.health,
        commands=commands,
        keyrings=keyrings,
        writer=writer,
        checkpoints=CheckpointPublisher(fleet, writer, publisher, signer, clock),
        tracker=tracker,
        reporter=ConvergenceReporter(
            tracker, convergences, fleet_store, publisher, runtime.health, clock
        ),
        convergences=convergences,
        consumers=[
            partial(consume_domain_changes, runtime, changes),
            partial(consume_fleet_commands, runtime, commands),
        ],
    )
    queries = EdgeQueries(fleet, convergences, writer, keyrings, tracker)
    # A replayed change is handled here: it is config's event, and edge_sync may not publish it.
    dead_letters = DeadLetterService(client, publisher, NAME, {CHANGES_SOURCE: changes.handle})
    runtime.broker.include_router(edge_router(leader, queries, tracker, dead_letters))
    return leader
