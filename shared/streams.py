"""Streams, durable consumers and buckets as data: what they hold, for how long and how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RePublish,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from shared import catalogue
from shared import subjects as s

DAY: Final = 86_400.0
GIB: Final = 2**30
# Bytes of body and headers. The server closes the connection of a sender that goes over it.
MAX_PAYLOAD: Final = 1_048_576
# What a stream takes. The server and a dead letter need the rest for their headers.
MAX_MESSAGE_BYTES: Final = 960 * 1024
# Streams that the outside writes to. A message with a key in clear is erased from them by the
# service that reads it: a taken message stays in a block's file until the whole block goes.
ERASABLE_STREAMS: Final = frozenset(
    {s.STREAM_COMMANDS_CONFIG, s.STREAM_COMMANDS_BILLING, s.STREAM_FLEET, s.STREAM_USAGE}
)
# The group that every pull request names. It counts where the consumer is ``in_runs``.
PRIORITY_GROUP: Final = "runs"
# What a stream of commands takes, so that the messages that a command causes (the question to the
# validator) fit as well.
MAX_COMMAND_BYTES: Final = 768 * 1024


@dataclass(frozen=True)
class Stream:
    """A stream.

    - ``max_age``: seconds; 0 is for ever.
    - ``work_queue``: messages are kept until taken; a full stream refuses, it never drops.
    - ``atomic``: it takes batches, all of a batch or none.
    - ``trimmed``: a full stream refuses as well, and its reader trims what is taken, many
      messages at once. A work queue would sync the removal of each message by itself (3.9 k acks
      a second).
    - ``max_message``: bytes of body and headers; a larger message gets no PubAck."""

    name: str
    subjects: tuple[str, ...]
    work_queue: bool = True
    max_age: float = 0
    max_bytes: int = GIB
    duplicate_window: float = 120
    latest_only: bool = False
    republish_to: str | None = None
    direct: bool = False
    atomic: bool = False
    trimmed: bool = False
    max_message: int = MAX_MESSAGE_BYTES

    def config(self, replicas: int = 1) -> StreamConfig:
        """Return the configuration for JetStream."""
        return StreamConfig(
            name=self.name,
            subjects=list(self.subjects),
            retention=RetentionPolicy.WORK_QUEUE if self.work_queue else RetentionPolicy.LIMITS,
            discard=DiscardPolicy.NEW
            if self.work_queue or self.latest_only or self.trimmed
            else DiscardPolicy.OLD,
            storage=StorageType.FILE,
            max_age=self.max_age,
            max_bytes=self.max_bytes,
            max_msg_size=self.max_message,
            max_msgs_per_subject=1 if self.latest_only else -1,
            duplicate_window=self.duplicate_window,
            allow_direct=self.direct,
            allow_atomic=self.atomic,
            allow_rollup_hdrs=self.latest_only,
            deny_delete=False,
            deny_purge=False,
            num_replicas=replicas,
            republish=RePublish(src=self.subjects[0], dest=self.republish_to)
            if self.republish_to
            else None,
        )


@dataclass
class GroupedConfig(ConsumerConfig):
    """A consumer's configuration with the fields that nats-py does not name yet (NATS ADR-42)."""

    priority_groups: list[str] | None = None
    priority_policy: str | None = None


@dataclass(frozen=True)
class DurableConsumer:
    """A durable pull consumer of one service; deliveries are never counted out.

    ``ack_wait``: seconds until an unacked message is delivered again, also when it was on the
    wire while the broker was killed. ``in_runs``: of several pull requests one is filled after
    the other, instead of each in turn."""

    stream: str
    durable: str
    service: str
    filters: tuple[str, ...] = ()
    ack_wait: float = 5
    max_ack_pending: int = 5000
    in_runs: bool = False

    def config(self) -> GroupedConfig:
        """Return the configuration for JetStream."""
        return GroupedConfig(
            durable_name=self.durable,
            filter_subject=self.filters[0] if len(self.filters) == 1 else None,
            filter_subjects=list(self.filters) if len(self.filters) > 1 else None,
            ack_policy=AckPolicy.EXPLICIT,
            deliver_policy=DeliverPolicy.ALL,
            ack_wait=self.ack_wait,
            max_ack_pending=self.max_ack_pending,
            max_deliver=-1,
            priority_groups=[PRIORITY_GROUP] if self.in_runs else None,
            priority_policy="prioritized" if self.in_runs else None,
        )


STREAMS: Final = (
    Stream(
        s.STREAM_COMMANDS_CONFIG,
        catalogue.kept_by(s.STREAM_COMMANDS_CONFIG),
        max_message=MAX_COMMAND_BYTES,
    ),
    Stream(
        s.STREAM_COMMANDS_BILLING,
        catalogue.kept_by(s.STREAM_COMMANDS_BILLING),
        max_message=MAX_COMMAND_BYTES,
    ),
    Stream(s.STREAM_FLEET, catalogue.kept_by(s.STREAM_FLEET), max_message=MAX_COMMAND_BYTES),
    Stream(s.STREAM_JUDGING, catalogue.kept_by(s.STREAM_JUDGING)),
    Stream(
        s.STREAM_EVENTS,
        catalogue.kept_by(s.STREAM_EVENTS),
        work_queue=False,
        max_age=30 * DAY,
        max_bytes=8 * GIB,
        direct=True,
        atomic=True,
    ),
    Stream(
        s.STREAM_USAGE,
        catalogue.kept_by(s.STREAM_USAGE),
        work_queue=False,
        max_bytes=8 * GIB,
        duplicate_window=0.1,
        atomic=True,
        trimmed=True,
    ),
    Stream(s.STREAM_DEAD, (f"{s.DEAD_PREFIX}*",), work_queue=False, max_age=30 * DAY, direct=True),
    Stream(
        s.kv_stream(s.BUCKET_BUNDLES),
        (s.kv_all(s.BUCKET_BUNDLES),),
        work_queue=False,
        max_bytes=8 * GIB,
        latest_only=True,
        republish_to=catalogue.EDGE_LIVE,
        direct=True,
    ),
    Stream(
        s.kv_stream(s.BUCKET_KEYRINGS),
        (s.kv_all(s.BUCKET_KEYRINGS),),
        work_queue=False,
        latest_only=True,
        direct=True,
    ),
)
CONSUMERS: Final = (
    DurableConsumer(s.STREAM_COMMANDS_CONFIG, s.DURABLE_CONFIG_COMMANDS, s.CONFIG, ack_wait=2),
    DurableConsumer(
        s.STREAM_JUDGING,
        s.DURABLE_VALIDATOR,
        s.VALIDATOR,
        (catalogue.JUDGE_SUBMISSION,),
        ack_wait=2,
    ),
    DurableConsumer(
        s.STREAM_JUDGING,
        s.DURABLE_CONFIG_VERDICTS,
        s.CONFIG,
        (catalogue.VERDICT_SUBMISSION,),
        ack_wait=2,
    ),
    DurableConsumer(
        s.STREAM_EVENTS,
        s.DURABLE_CONFIG_CONVERGED,
        s.CONFIG,
        (catalogue.EVENT_EDGE_CONVERGED,),
    ),
    DurableConsumer(
        s.STREAM_EVENTS,
        s.DURABLE_CONFIG_BALANCES,
        s.CONFIG,
        (catalogue.EVENT_BALANCE_OVERDUE, catalogue.EVENT_BALANCE_SETTLED),
    ),
    DurableConsumer(s.STREAM_FLEET, s.DURABLE_EDGE_SYNC_FLEET, s.EDGE_SYNC),
    DurableConsumer(
        s.STREAM_EVENTS,
        s.DURABLE_EDGE_SYNC_DOMAINS,
        s.EDGE_SYNC,
        (catalogue.EVENT_DOMAIN_CHANGED,),
    ),
    DurableConsumer(s.STREAM_COMMANDS_BILLING, s.DURABLE_BILLING_COMMANDS, s.BILLING),
    DurableConsumer(
        s.STREAM_EVENTS,
        s.DURABLE_BILLING_OWNERS,
        s.BILLING,
        (catalogue.EVENT_DOMAIN_REGISTERED, catalogue.EVENT_DOMAIN_REMOVED, s.EVENT_NODE_ALL),
    ),
    DurableConsumer(s.STREAM_USAGE, s.DURABLE_BILLING_BATCHES, s.BILLING, (catalogue.USAGE_BATCH,)),
    DurableConsumer(
        s.STREAM_USAGE,
        s.DURABLE_BILLING_REQUESTS,
        s.BILLING,
        (catalogue.USAGE_REQUEST,),
        max_ack_pending=60_000,
        in_runs=True,
    ),
)
