"""The durable consumers of billing: usage and owners in batches, commands one after the other."""

from __future__ import annotations

from collections.abc import Mapping

from services.billing.settings import BillingSettings
from services.billing.transport.batch_consumers import BatchConsumer
from services.billing.usecases.quarantine import BatchHandler, Quarantine
from shared import subjects
from shared.messaging.consumer import Consumer, Handler
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.pull import Pull
from shared.runtime import Runtime

_OWNERS_A_PULL = 500


def batch_consumers(
    runtime: Runtime[BillingSettings], handlers: Mapping[str, BatchHandler], quarantine: Quarantine
) -> list[BatchConsumer]:
    """Return the consumers of what comes in batches; ``handlers`` are by durable."""
    settings = runtime.settings
    # Stream, durable, deliveries of a pull, batches that are handled at once. Two batches of single
    # events: one is read while PostgreSQL writes the other. One of usage batches: they lock logs,
    # and a node's next range would wait for the last one. One of owners: its lock keeps all others
    # out.
    table = (
        (subjects.STREAM_USAGE, subjects.DURABLE_BILLING_BATCHES, settings.billing_pull_batches, 1),
        (
            subjects.STREAM_USAGE,
            subjects.DURABLE_BILLING_REQUESTS,
            settings.billing_pull_requests,
            2,
        ),
        (subjects.STREAM_EVENTS, subjects.DURABLE_BILLING_OWNERS, _OWNERS_A_PULL, 1),
    )
    consumers = []
    for stream, durable, deliveries, concurrency in table:
        pull = Pull(runtime.client, stream, durable, batch=deliveries)
        consumer = BatchConsumer(
            pull, handlers[durable], quarantine, runtime.health, concurrency=concurrency
        )
        consumers.append(consumer)
    return consumers


def command_consumer(
    runtime: Runtime[BillingSettings], handler: Handler, dead_letters: DeadLetters
) -> Consumer:
    """Return the consumer of billing's commands, in order."""
    pull = Pull(runtime.client, subjects.STREAM_COMMANDS_BILLING, subjects.DURABLE_BILLING_COMMANDS)
    return Consumer(pull, handler, dead_letters, runtime.health)
