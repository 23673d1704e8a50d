"""Accounts, users and their rights as data; the streams are in ``shared/streams.py``.

A right that is not derived here does not exist. ``plan`` compares streams and consumers with a
running JetStream, ``apply`` makes them equal. ``shared/nats_config.py`` renders accounts and
users into the server's configuration."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, StreamConfig
from nats.js.errors import NotFoundError

from shared import catalogue
from shared import subjects as s
from shared.errors import SettingsError
from shared.messaging.nats_client import read_consumer_config
from shared.retry import retry
from shared.streams import CONSUMERS as CONSUMERS
from shared.streams import ERASABLE_STREAMS, DurableConsumer, GroupedConfig
from shared.streams import STREAMS as STREAMS

InfoT = TypeVar("InfoT")
ELECTION_SECONDS: Final = 30.0

_EVENTS_GET = s.direct_get(s.STREAM_EVENTS)
_BUNDLES_GET = s.direct_get(s.kv_stream(s.BUCKET_BUNDLES))
_KEYRINGS_GET = s.direct_get(s.kv_stream(s.BUCKET_KEYRINGS))


@dataclass(frozen=True)
class NatsAccount:
    """An account outside s.CORE and what it imports.

    ``services``: subjects that its users may publish to. ``streams``: subjects that they hear."""

    name: str
    services: tuple[str, ...]
    streams: tuple[str, ...] = ()


ACCOUNTS: Final = (
    NatsAccount(
        s.EDGE,
        services=(
            *catalogue.sent_by(s.EDGE),
            _BUNDLES_GET,
            f"{_KEYRINGS_GET}.{s.kv_all(s.BUCKET_KEYRINGS)}",
        ),
        streams=catalogue.received_by(s.EDGE),
    ),
    NatsAccount(
        s.PLATFORM,
        services=(*catalogue.sent_by(s.PLATFORM), _EVENTS_GET),
        streams=(s.EVENTS_ALL, catalogue.EDGE_PROGRESS),
    ),
    NatsAccount(
        s.OPERATOR,
        services=(*catalogue.sent_by(s.OPERATOR), _EVENTS_GET),
        streams=(s.EVENTS_ALL, catalogue.EDGE_PROGRESS),
    ),
    NatsAccount(s.FINANCE, services=catalogue.sent_by(s.FINANCE)),
)
# Services that answer with many messages. They are exported with response_type Stream: without it
# only the first message of a batch arrives.
STREAMED: Final = frozenset({_EVENTS_GET, _BUNDLES_GET})


@dataclass(frozen=True)
class NatsUser:
    """An nkey user and its rights: it may publish and subscribe to these subjects and no others."""

    name: str
    account: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def _service_user(name: str, *more_publish: str) -> NatsUser:
    """Derive a service's rights from the catalogue and its consumers; ``more_publish`` beside them.

    - It sends what it is the sender of, and asks its questions.
    - It takes from its durable consumers, and may publish again what a stream keeps for it alone:
      the replay of a dead letter. Events of other services are never published again.
    - It answers for its own dead letters, and replies across accounts (``_R_``) and to the services
      that ask it."""
    taken = tuple(
        right
        for consumer in CONSUMERS
        if consumer.service == name
        for right in _rights_to_take(consumer)
    )
    replayed = tuple(
        row for row in catalogue.received_by(name, "command", "message") if row.stream is not None
    )
    dead_letters = tuple(s.dead(source) for source in s.DEAD_OWNERS[name])
    dead_stream = (s.direct_get(s.STREAM_DEAD), s.js_message_delete(s.STREAM_DEAD))
    answered = catalogue.received_by(name, "query")
    asking_services = {
        asker for query in answered for asker in query.senders if asker in s.SERVICES
    }
    replies = tuple(f"{s.inbox_prefix(asker)}.>" for asker in sorted(asking_services))
    heard = tuple(row for row in catalogue.received_by(name, "message") if row.stream is None)
    return NatsUser(
        name,
        s.CORE,
        publish=(
            *taken,
            *more_publish,
            *catalogue.sent_by(name),
            *replayed,
            *replies,
            *dead_letters,
            *dead_stream,
            "_R_.>",
        ),
        subscribe=(f"{s.inbox_prefix(name)}.>", *answered, *heard),
    )


def _rights_to_take(consumer: DurableConsumer) -> tuple[str, ...]:
    stream, durable = consumer.stream, consumer.durable
    rights = (
        s.js_next(stream, durable),
        s.js_consumer_info(stream, durable),
        s.js_acks(stream, durable),
    )
    if stream in ERASABLE_STREAMS:
        return (*rights, s.js_message_delete(stream))
    return rights


SERVICES: Final = (
    _service_user(s.VALIDATOR, f"{_KEYRINGS_GET}.>"),
    _service_user(
        s.CONFIG,
        s.js_stream_info(s.STREAM_COMMANDS_CONFIG),
        s.js_consumer_info(s.STREAM_JUDGING, s.DURABLE_VALIDATOR),
    ),
    _service_user(
        s.EDGE_SYNC,
        s.js_stream_info(s.kv_stream(s.BUCKET_BUNDLES)),
        s.js_message_delete(s.kv_stream(s.BUCKET_BUNDLES)),
        s.js_message_delete(s.kv_stream(s.BUCKET_KEYRINGS)),
        s.kv_all(s.BUCKET_BUNDLES),
        s.kv_all(s.BUCKET_KEYRINGS),
        _BUNDLES_GET,
        f"{_BUNDLES_GET}.>",
        _KEYRINGS_GET,
        f"{_KEYRINGS_GET}.>",
    ),
    _service_user(
        s.BILLING,
        s.js_stream_info(s.STREAM_USAGE),
        s.js_stream_purge(s.STREAM_USAGE),
    ),
)
# Streams whose retention has changed since the first release: they alone may be deleted, while they
# are empty.
REMADE: Final = (s.STREAM_USAGE,)
TOPOLOGY_USER: Final = NatsUser(
    "topology",
    s.CORE,
    # What plan and apply ask, of what stands in this platform: no message is read or removed by it.
    publish=(
        s.JS_INFO,
        *(
            verb(stream.name)
            for stream in STREAMS
            for verb in (s.js_stream_info, s.js_stream_create, s.js_stream_update)
        ),
        *(s.js_stream_delete(name) for name in REMADE),
        *(
            verb(consumer.stream, consumer.durable)
            for consumer in CONSUMERS
            for verb in (s.js_consumer_info, s.js_consumer_create)
        ),
    ),
    subscribe=(f"{s.inbox_prefix('topology')}.>",),
)


def _account_user(name: str, account: str) -> NatsUser:
    rights = next(a for a in ACCOUNTS if a.name == account)
    return NatsUser(name, account, rights.services, (f"{s.inbox_prefix(name)}.>", *rights.streams))


USERS: Final = (
    *SERVICES,
    TOPOLOGY_USER,
    _account_user("platform", s.PLATFORM),
    _account_user("operator", s.OPERATOR),
    _account_user("finance", s.FINANCE),
)


def node_user(node: str) -> NatsUser:
    """Return a node's user: its own usage, status, keyring and confirmations, and what every
    node hears."""
    keyring = f"{_KEYRINGS_GET}.{s.kv_subject(s.BUCKET_KEYRINGS, '')}"
    return NatsUser(
        f"node-{node}",
        s.EDGE,
        publish=(
            catalogue.USAGE_BATCH.for_node(node),
            catalogue.EDGE_STATUS.for_node(node),
            _BUNDLES_GET,
            f"{keyring}{s.keyring_node(node)}",
            f"{keyring}epoch.*",
            f"{keyring}{s.KEYRING_SEALING}",
            f"{keyring}{s.KEYRING_TRUST}",
            catalogue.RPC_EDGE_DIGEST,
        ),
        subscribe=(
            f"{s.inbox_prefix(f'node-{node}')}.>",
            catalogue.EDGE_LIVE,
            catalogue.EDGE_CHECKPOINT,
            catalogue.EDGE_CONFIRMED.for_node(node),
        ),
    )


@dataclass(frozen=True)
class TopologyChange:
    """A difference: ``action`` is create, update or same; ``detail`` names what differs."""

    kind: str
    name: str
    action: str
    detail: str = ""


async def plan(js: JetStreamContext, replicas: int = 1) -> list[TopologyChange]:
    """Return what ``apply`` would do, streams first, then consumers."""
    return [change async for change, _ in _list_changes(js, replicas)]


async def apply(js: JetStreamContext, replicas: int = 1) -> list[TopologyChange]:
    """Make the running JetStream equal to this file; a second call changes nothing."""
    done = []
    async for change, wanted in _list_changes(js, replicas):
        if change.action != "same":
            await _apply_change(js, change, wanted)
        done.append(change)
    return done


async def _apply_change(
    js: JetStreamContext, change: TopologyChange, wanted: StreamConfig | ConsumerConfig
) -> None:
    if isinstance(wanted, ConsumerConfig):
        await js.add_consumer(change.name.split("/")[0], wanted)
    elif change.action == "create":
        await js.add_stream(wanted)
    elif "retention" in change.detail:
        await _replace_stream(js, wanted)
    else:
        await js.update_stream(wanted)


async def _replace_stream(js: JetStreamContext, wanted: StreamConfig) -> None:
    """Delete an empty stream and make it again: the server never changes a stream to or from a
    work queue. Its consumers are made after it."""
    name = str(wanted.name)
    if name not in REMADE:
        raise SettingsError(
            f"the stream {name} is kept in another way than it was made: delete it by hand, "
            "then apply"
        )
    if (await js.stream_info(name)).state.messages:
        raise SettingsError(
            f"the stream {name} must be made anew: let its service empty it, then apply again"
        )
    await js.delete_stream(name)
    await js.add_stream(wanted)


async def _list_changes(
    js: JetStreamContext, replicas: int
) -> AsyncIterator[tuple[TopologyChange, StreamConfig | ConsumerConfig]]:
    for stream in STREAMS:
        wanted = stream.config(replicas)
        try:
            found = (await _ask_server(js.stream_info, stream.name)).config
        except NotFoundError:
            yield TopologyChange("stream", stream.name, "create"), wanted
            continue
        yield _compare_config("stream", stream.name, wanted, found), wanted
    for consumer in CONSUMERS:
        name, config = f"{consumer.stream}/{consumer.durable}", consumer.config()
        try:
            current = await _ask_server(
                partial(_read_consumer, js), consumer.stream, consumer.durable
            )
        except NotFoundError:
            yield TopologyChange("consumer", name, "create"), config
            continue
        yield _compare_config("consumer", name, config, current), config


async def _read_consumer(js: JetStreamContext, stream: str, durable: str) -> GroupedConfig:
    config: GroupedConfig = GroupedConfig.from_response(
        await read_consumer_config(js, stream, durable)
    )
    return config


def _compare_config(
    kind: str, name: str, wanted: StreamConfig | ConsumerConfig, found: object
) -> TopologyChange:
    differs = []
    for field, value in vars(wanted).items():
        current = getattr(found, field, None)
        if value is None or value == current or (not value and not current):
            continue
        differs.append(f"{field}: {current} -> {value}")
    return TopologyChange(kind, name, "update" if differs else "same", "; ".join(differs))


async def _ask_server(ask: Callable[..., Awaitable[InfoT]], *arguments: str) -> InfoT:
    """Ask again for a while: JetStream answers nothing while it elects or recovers."""
    return await retry(
        partial(ask, *arguments),
        retry_on=lambda error: isinstance(error, NatsTimeout),
        deadline_seconds=ELECTION_SECONDS,
    )
