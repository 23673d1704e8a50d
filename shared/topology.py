"""Accounts, users and who may do what, as data; the streams are in ``shared/streams.py``.

``plan`` compares it with a running JetStream, ``apply`` makes the difference true;
``shared/nats_config.py`` renders the accounts into the server's configuration. A permission that is
not written here does not exist.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, StreamConfig
from nats.js.errors import NotFoundError

from shared import subjects as s
from shared.errors import SettingsError
from shared.streams import CONSUMERS as CONSUMERS
from shared.streams import ERASED, GroupedConfig
from shared.streams import STREAMS as STREAMS

InfoT = TypeVar("InfoT")
CORE: Final = "CORE"
EDGE: Final = "EDGE"
PLATFORM: Final = "PLATFORM"
OPERATOR: Final = "OPERATOR"
FINANCE: Final = "FINANCE"

_LIBRARY_QUERIES = (
    s.RPC_CERTIFICATE_SHOW,
    s.RPC_CERTIFICATE_LIST,
    s.RPC_CERTIFICATE_USAGE,
    s.RPC_ROOTS_SHOW,
    s.RPC_COMMAND_SHOW,
    s.RPC_COMMAND_PREVIEW,
)
_QUERIES = (
    s.RPC_DOMAIN_SHOW,
    s.RPC_DOMAIN_LIST,
    s.RPC_DOMAIN_HISTORY,
    s.RPC_SUBMISSION_SHOW,
    s.RPC_ACCOUNT_SHOW,
    s.RPC_EDGE_CONVERGENCE,
    s.RPC_FLEET_SHOW,
    *_LIBRARY_QUERIES,
)
_MONEY_QUERIES = (
    s.RPC_USAGE_QUERY,
    s.RPC_USAGE_LOGS,
    s.RPC_USAGE_GAPS,
    s.RPC_CHARGES_QUERY,
    s.RPC_BALANCE_SHOW,
    s.RPC_PLAN_LIST,
    s.RPC_PRICE_BOOK_SHOW,
    s.RPC_LEDGER_QUERY,
    s.RPC_STATEMENT_SHOW,
)
_EVENTS_BACKLOG = s.direct_get(s.STREAM_EVENTS)
_BUNDLES_GET = s.direct_get(s.kv_stream(s.BUCKET_BUNDLES))
_KEYRINGS_GET = s.direct_get(s.kv_stream(s.BUCKET_KEYRINGS))
_DEAD_RPCS = tuple(s.rpc_dead(verb, service) for service in s.DEAD_OWNERS for verb in s.DEAD_VERBS)


@dataclass(frozen=True)
class Account:
    """What an account outside CORE imports: services (it asks) and streams (it hears)."""

    name: str
    services: tuple[str, ...]
    streams: tuple[str, ...] = ()


ACCOUNTS: Final = (
    Account(
        EDGE,
        services=(
            s.USAGE_BATCH_ALL,
            s.EDGE_STATUS_ALL,
            _BUNDLES_GET,
            f"{_KEYRINGS_GET}.{s.kv_all(s.BUCKET_KEYRINGS)}",
            s.RPC_EDGE_DIGEST,
        ),
        streams=(s.EDGE_LIVE_ALL, s.EDGE_CHECKPOINT, s.EDGE_CONFIRMED_ALL),
    ),
    Account(
        PLATFORM,
        services=(
            *(c for c in s.CONFIG_COMMANDS if c != s.CMD_PAIR_RESEAL),
            s.CMD_BALANCE_CREDIT,
            s.CMD_BALANCE_THRESHOLD,
            s.CMD_PLAN_PURCHASE,
            s.USAGE_REQUEST,
            s.RPC_CERTIFICATE_CHECK,
            *_QUERIES,
            *_MONEY_QUERIES,
            _EVENTS_BACKLOG,
        ),
        streams=(s.EVENTS_ALL, s.EDGE_PROGRESS),
    ),
    Account(
        OPERATOR,
        services=(
            *s.FLEET_COMMANDS,
            s.CMD_PAIR_RESEAL,
            s.CMD_ACCOUNT_RESUMPTION,
            s.CMD_ACCOUNT_RESUME,
            *s.BILLING_COMMANDS,
            s.RPC_USAGE_AUDIT,
            s.RPC_PRICE_BOOK_PREVIEW,
            s.RPC_PAIR_SEALED,
            *_QUERIES,
            *_MONEY_QUERIES,
            *_DEAD_RPCS,
            _EVENTS_BACKLOG,
        ),
        streams=(s.EVENTS_ALL, s.EDGE_PROGRESS),
    ),
    Account(FINANCE, services=(*_MONEY_QUERIES, s.RPC_USAGE_AUDIT)),
)
STREAMED: Final = frozenset({_EVENTS_BACKLOG, _BUNDLES_GET})
"""Services that answer with many messages: exported with response_type Stream, or a batch arrives
as one message."""


@dataclass(frozen=True)
class User:
    """An nkey user: what it may publish and subscribe to, its own inbox included; nothing else."""

    name: str
    account: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def _takes(stream: str, durable: str) -> tuple[str, ...]:
    rights = (
        s.js_next(stream, durable),
        s.js_consumer_info(stream, durable),
        s.js_acks(stream, durable),
    )
    return (*rights, s.js_message_delete(stream)) if stream in ERASED else rights


def _service(
    name: str, *, publish: tuple[str, ...], answers: tuple[str, ...], hears: tuple[str, ...] = ()
) -> User:
    """Every service may bury its own dead letters and answer for them, and reply across accounts
    (``_R_``)."""
    dead = tuple(s.dead(source) for source in s.DEAD_OWNERS[name])
    dead_store = (s.direct_get(s.STREAM_DEAD), s.js_message_delete(s.STREAM_DEAD))
    rpcs = tuple(s.rpc_dead(verb, name) for verb in s.DEAD_VERBS)
    return User(
        name,
        CORE,
        publish=(*publish, *dead, *dead_store, "_R_.>"),
        subscribe=(f"{s.inbox_prefix(name)}.>", *answers, *hears, *rpcs),
    )


SERVICES: Final = (
    _service(
        "validator",
        publish=(
            *_takes(s.STREAM_JUDGING, s.DURABLE_VALIDATOR),
            s.JUDGE_SUBMISSION,
            s.VERDICT_SUBMISSION,
            f"{_KEYRINGS_GET}.>",
        ),
        answers=(s.RPC_CERTIFICATE_CHECK,),
    ),
    _service(
        "config",
        publish=(
            *_takes(s.STREAM_COMMANDS_CONFIG, s.DURABLE_CONFIG_COMMANDS),
            *_takes(s.STREAM_JUDGING, s.DURABLE_CONFIG_VERDICTS),
            *_takes(s.STREAM_EVENTS, s.DURABLE_CONFIG_CONVERGED),
            *_takes(s.STREAM_EVENTS, s.DURABLE_CONFIG_BALANCES),
            s.js_stream_info(s.STREAM_COMMANDS_CONFIG),
            s.JUDGE_SUBMISSION,
            s.VERDICT_SUBMISSION,
            *s.CONFIG_COMMANDS,
            s.EVENT_DOMAIN_REGISTERED,
            s.EVENT_DOMAIN_REMOVED,
            s.EVENT_DOMAIN_CHANGED,
            s.EVENT_COMMAND_SETTLED,
            s.EVENT_CERTIFICATE_EXPIRING,
            s.EVENT_CERTIFICATE_EXPIRED,
            s.RPC_EDGE_MAX_REVISION,
            f"{s.inbox_prefix('edge_sync')}.>",
        ),
        answers=(
            s.RPC_DOMAIN_SHOW,
            s.RPC_DOMAIN_LIST,
            s.RPC_DOMAIN_HISTORY,
            s.RPC_SUBMISSION_SHOW,
            s.RPC_ACCOUNT_SHOW,
            s.RPC_BUNDLE_GET,
            s.RPC_BUNDLE_PAGE,
            s.RPC_PAIR_SEALED,
            *_LIBRARY_QUERIES,
        ),
    ),
    _service(
        "edge_sync",
        publish=(
            *_takes(s.STREAM_FLEET, s.DURABLE_EDGE_SYNC_FLEET),
            *_takes(s.STREAM_EVENTS, s.DURABLE_EDGE_SYNC_DOMAINS),
            s.js_stream_info(s.kv_stream(s.BUCKET_BUNDLES)),
            s.js_message_delete(s.kv_stream(s.BUCKET_BUNDLES)),
            s.js_message_delete(s.kv_stream(s.BUCKET_KEYRINGS)),
            s.kv_all(s.BUCKET_BUNDLES),
            s.kv_all(s.BUCKET_KEYRINGS),
            _BUNDLES_GET,
            f"{_BUNDLES_GET}.>",
            _KEYRINGS_GET,
            f"{_KEYRINGS_GET}.>",
            *s.FLEET_COMMANDS,
            s.EVENT_EDGE_CONVERGED,
            s.EVENT_EDGE_LAGGING,
            s.EVENT_NODE_ENROLLED,
            s.EVENT_NODE_DRAINED,
            s.EVENT_NODE_RETURNED,
            s.EVENT_NODE_LABELLED,
            s.EVENT_NODE_REMOVED,
            s.EDGE_CHECKPOINT,
            s.EDGE_PROGRESS,
            s.RPC_BUNDLE_GET,
            s.RPC_BUNDLE_PAGE,
            f"{s.inbox_prefix('config')}.>",
        ),
        answers=(
            s.RPC_EDGE_MAX_REVISION,
            s.RPC_EDGE_DIGEST,
            s.RPC_EDGE_CONVERGENCE,
            s.RPC_FLEET_SHOW,
        ),
        hears=(s.EDGE_STATUS_ALL,),
    ),
    _service(
        "billing",
        publish=(
            *_takes(s.STREAM_COMMANDS_BILLING, s.DURABLE_BILLING_COMMANDS),
            *_takes(s.STREAM_EVENTS, s.DURABLE_BILLING_OWNERS),
            *_takes(s.STREAM_USAGE, s.DURABLE_BILLING_BATCHES),
            *_takes(s.STREAM_USAGE, s.DURABLE_BILLING_REQUESTS),
            s.js_stream_info(s.STREAM_USAGE),
            s.js_stream_purge(s.STREAM_USAGE),
            *s.BILLING_COMMANDS,
            s.USAGE_REQUEST,
            s.USAGE_BATCH_ALL,
            s.EDGE_CONFIRMED_ALL,
            s.EVENT_BALANCE_LOW,
            s.EVENT_BALANCE_DEPLETED,
            s.EVENT_BALANCE_RECOVERED,
            s.EVENT_BALANCE_SETTLED,
            s.EVENT_BALANCE_CREDITED,
            s.EVENT_BALANCE_REFUSED,
            s.EVENT_BALANCE_OVERDUE,
            s.EVENT_PLAN_PURCHASED,
            s.EVENT_PRICE_BOOK_APPLIED,
            s.EVENT_PRICE_BOOK_REFUSED,
            s.EVENT_HOUR_CLOSED,
        ),
        answers=(*_MONEY_QUERIES, s.RPC_USAGE_AUDIT, s.RPC_PRICE_BOOK_PREVIEW),
    ),
)
REMADE: Final = (s.STREAM_USAGE,)
"""Streams whose kind has changed since the first release: they alone may be deleted, while they are
empty."""
TOPOLOGY_USER: Final = User(
    "topology",
    CORE,
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


def _outside(name: str, account: str) -> User:
    rights = next(a for a in ACCOUNTS if a.name == account)
    return User(name, account, rights.services, (f"{s.inbox_prefix(name)}.>", *rights.streams))


USERS: Final = (
    *SERVICES,
    TOPOLOGY_USER,
    _outside("platform", PLATFORM),
    _outside("operator", OPERATOR),
    _outside("finance", FINANCE),
)


def node_user(node: str) -> User:
    """A node's rights: its own usage, status, keyring and confirmations; what every node hears;
    nothing of others."""
    keyring = f"{_KEYRINGS_GET}.{s.kv_subject(s.BUCKET_KEYRINGS, '')}"
    return User(
        f"node-{node}",
        EDGE,
        publish=(
            s.usage_batch(node),
            s.edge_status(node),
            _BUNDLES_GET,
            f"{keyring}{s.keyring_node(node)}",
            f"{keyring}epoch.*",
            f"{keyring}{s.KEYRING_SEALING}",
            f"{keyring}{s.KEYRING_TRUST}",
            s.RPC_EDGE_DIGEST,
        ),
        subscribe=(
            f"{s.inbox_prefix(f'node-{node}')}.>",
            s.EDGE_LIVE_ALL,
            s.EDGE_CHECKPOINT,
            s.edge_confirmed(node),
        ),
    )


@dataclass(frozen=True)
class Change:
    """One difference: ``action`` is create, update or same; ``detail`` names what differs."""

    kind: str
    name: str
    action: str
    detail: str = ""


async def plan(js: JetStreamContext, replicas: int = 1) -> list[Change]:
    """What ``apply`` would do, streams first, then consumers."""
    return [change async for change, _ in _changes(js, replicas)]


async def apply(js: JetStreamContext, replicas: int = 1) -> list[Change]:
    """Makes the running JetStream equal to this file; a second call changes nothing."""
    done = []
    async for change, wanted in _changes(js, replicas):
        if change.action != "same":
            await _make(js, change, wanted)
        done.append(change)
    return done


async def _make(
    js: JetStreamContext, change: Change, wanted: StreamConfig | ConsumerConfig
) -> None:
    if isinstance(wanted, ConsumerConfig):
        await js.add_consumer(change.name.split("/")[0], wanted)
    elif change.action == "create":
        await js.add_stream(wanted)
    elif "retention" in change.detail:
        await _make_anew(js, wanted)
    else:
        await js.update_stream(wanted)


async def _make_anew(js: JetStreamContext, wanted: StreamConfig) -> None:
    """The server never changes how a stream is kept to or from a work queue. Its consumers are made
    after it."""
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


async def _changes(
    js: JetStreamContext, replicas: int
) -> AsyncIterator[tuple[Change, StreamConfig | ConsumerConfig]]:
    for stream in STREAMS:
        wanted = stream.config(replicas)
        try:
            found = (await _patiently(js.stream_info, stream.name)).config
        except NotFoundError:
            yield Change("stream", stream.name, "create"), wanted
            continue
        yield _compare("stream", stream.name, wanted, found), wanted
    for consumer in CONSUMERS:
        name, config = f"{consumer.stream}/{consumer.durable}", consumer.config()
        try:
            current = await _patiently(partial(_consumer, js), consumer.stream, consumer.durable)
        except NotFoundError:
            yield Change("consumer", name, "create"), config
            continue
        yield _compare("consumer", name, config, current), config


async def _consumer(js: JetStreamContext, stream: str, durable: str) -> GroupedConfig:
    """The library's own question leaves out what it does not name."""
    answer = await js._api_request(s.js_consumer_info(stream, durable), timeout=js._timeout)
    found: GroupedConfig = GroupedConfig.from_response(answer["config"])
    return found


def _compare(kind: str, name: str, wanted: StreamConfig | ConsumerConfig, found: object) -> Change:
    differs = []
    for field, value in vars(wanted).items():
        current = getattr(found, field, None)
        if value is None or value == current or (not value and not current):
            continue
        differs.append(f"{field}: {current} -> {value}")
    return Change(kind, name, "update" if differs else "same", "; ".join(differs))


async def _patiently(ask: Callable[..., Awaitable[InfoT]], *arguments: str) -> InfoT:
    """JetStream answers nothing while it elects or recovers: ask a few times before giving up."""
    for _ in range(5):
        with contextlib.suppress(NatsTimeout):
            return await ask(*arguments)
    return await ask(*arguments)
