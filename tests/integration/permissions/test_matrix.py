"""Every user is tried against every subject, on a real server with the rendered rights.

Nothing is reached that the topology does not name: by no publish, no subscription and no hostile
reply subject.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from shared import catalogue
from shared import subjects as s
from shared import topology as t
from tests.support.cluster import LocalCluster, local_cluster
from tests.support.subject_patterns import pattern_covers
from tests.support.waiting import until

NODES = ("a", "b")
SPY = t.NatsUser("spy", s.CORE, publish=(">",), subscribe=(">",))
OUTSIDE = [u for u in t.USERS if u.account != s.CORE] + [t.node_user(node) for node in NODES]
EVERYONE = [*(u for u in t.USERS if u.account == s.CORE), *OUTSIDE]
STREAM_VERBS = (
    "STREAM.CREATE",
    "STREAM.UPDATE",
    "STREAM.DELETE",
    "STREAM.PURGE",
    "STREAM.MSG.GET",
    "STREAM.SNAPSHOT",
    "CONSUMER.LIST",
    "CONSUMER.CREATE",
)
BUCKET_KEYS = (
    (s.BUCKET_BUNDLES, "com.example"),
    (s.BUCKET_KEYRINGS, "node.a"),
    (s.BUCKET_KEYRINGS, "node.b"),
    (s.BUCKET_KEYRINGS, "trust"),
    (s.BUCKET_KEYRINGS, "sealing"),
    (s.BUCKET_KEYRINGS, "epoch.1"),
)
UNKNOWN_SUBJECTS = (
    "https.cmd.domain.invent.v1",
    "https.event.domain.invent.v1",
    "_R_.x",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.ACCOUNT.CORE.CONNZ",
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.CREATE.EVIL",
    "anything",
)
WILDCARDS = (">", "*.*", "https.>", "$KV.>", "$JS.>", "_INBOX.>", "_R_.>", "$SYS.>")


def _list_subjects() -> list[str]:
    """Return every subject that the product has, and those of JetStream that could do harm."""
    found = {*UNKNOWN_SUBJECTS, *_product_subjects(), *_stream_subjects(), *_consumer_subjects()}
    for user in EVERYONE:
        found.add(f"{s.inbox_prefix(user.name)}.x")
    return sorted(found)


def _product_subjects() -> set[str]:
    found = set()
    for sources in s.DEAD_OWNERS.values():
        for source in sources:
            found.add(f"{s.DEAD_PREFIX}{source}")
    for row in catalogue.ROWS:
        for node in NODES:
            found.add(row.for_node(node).replace("{key}", "com.example"))
    for bucket, key in BUCKET_KEYS:
        subject = s.kv_subject(bucket, key)
        found |= {subject, f"{s.direct_get(s.kv_stream(bucket))}.{subject}"}
    return found


def _stream_subjects() -> set[str]:
    found = set()
    for stream in t.STREAMS:
        found |= {
            s.js_stream_info(stream.name),
            s.js_message_delete(stream.name),
            s.direct_get(stream.name),
            f"$JS.API.CONSUMER.CREATE.{stream.name}.evil",
        }
        for verb in STREAM_VERBS:
            found.add(f"$JS.API.{verb}.{stream.name}")
    return found


def _consumer_subjects() -> set[str]:
    found = set()
    for consumer in t.CONSUMERS:
        found |= {
            s.js_next(consumer.stream, consumer.durable),
            s.js_consumer_info(consumer.stream, consumer.durable),
            s.js_consumer_create(consumer.stream, consumer.durable),
            s.js_consumer_create(consumer.stream, "evil"),
            f"$JS.API.CONSUMER.DELETE.{consumer.stream}.{consumer.durable}",
            f"$JS.ACK.{consumer.stream}.{consumer.durable}.1.1.1.1.1",
        }
    return found


SUBJECTS = _list_subjects()


def _allowed(rights: tuple[str, ...]) -> set[str]:
    """Return the subjects that these rights name."""
    return {
        subject for subject in SUBJECTS if any(pattern_covers(right, subject) for right in rights)
    }


@dataclass
class WatchedBroker:
    """A connection for each user, and a spy that hears everything in the account CORE."""

    clients: dict[str, Client]
    spy: Client
    heard: list[Msg] = field(default_factory=list)

    async def take_heard(self) -> list[Msg]:
        """Return what was heard since the last call, once all that is on its way has arrived."""
        for client in self.clients.values():
            await client.flush()
        await self.spy.publish("spy.sentinel", b"")
        await until(
            lambda: any(m.subject == "spy.sentinel" for m in self.heard), "the spy hears itself"
        )
        heard = [m for m in self.heard if m.subject != "spy.sentinel"]
        self.heard.clear()
        return heard


async def _login_quietly(cluster: LocalCluster, user: str) -> Client:
    """Log in; violations of its rights, which these tests provoke, are not logged."""

    async def ignore(_: Exception) -> None:
        return

    seed = str(cluster.keys.seed(user))
    return await nats.connect(
        cluster.url, nkeys_seed=seed, inbox_prefix=s.inbox_prefix(user), error_cb=ignore
    )


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[WatchedBroker]:
    async with local_cluster(tmp_path, nodes=NODES, more_users=[SPY]) as cluster:
        spy = await _login_quietly(cluster, SPY.name)
        clients = {user.name: await _login_quietly(cluster, user.name) for user in EVERYONE}
        watched = WatchedBroker(clients, spy)

        async def hear(message: Msg) -> None:
            watched.heard.append(message)

        await spy.subscribe(">", cb=hear)
        await spy.flush()
        yield watched
        for client in (*clients.values(), spy):
            await client.close()


async def test_nobody_publishes_what_the_topology_does_not_name(broker: WatchedBroker) -> None:
    for user in EVERYONE:
        client = broker.clients[user.name]
        for subject in SUBJECTS:
            await client.publish(subject, f"from {user.name}".encode())
        reached = {
            m.subject for m in await broker.take_heard() if m.data == f"from {user.name}".encode()
        }
        allowed = _allowed(user.publish)
        if s.kv_subject(s.BUCKET_BUNDLES, "com.example") in allowed:
            allowed.add(f"{s.EDGE_LIVE_PREFIX}com.example")  # republished by the server
        assert reached <= allowed, f"{user.name} reached {sorted(reached - allowed)}"
        kept = {x for x in allowed if not x.startswith("$JS.ACK")}
        assert kept <= reached, f"{user.name} could not reach {sorted(kept - reached)}"


async def test_nobody_hears_what_the_topology_does_not_name(broker: WatchedBroker) -> None:
    heard: dict[str, set[str]] = {user.name: set() for user in EVERYONE}
    for user in EVERYONE:

        async def note(message: Msg, name: str = user.name) -> None:
            heard[name].add(message.subject)

        for subject in (*SUBJECTS, *WILDCARDS):
            await broker.clients[user.name].subscribe(subject, cb=note)
        await broker.clients[user.name].flush()
    quiet = [x for x in SUBJECTS if not x.startswith(("$JS.API", "$SYS", "$KV", "_R_"))]
    for subject in quiet:
        await broker.spy.publish(subject, b"published in CORE")
    await broker.take_heard()
    for user in EVERYONE:
        await broker.clients[user.name].flush()
    for user in EVERYONE:
        forbidden = heard[user.name] - _allowed(user.subscribe)
        assert not forbidden, f"{user.name} heard {sorted(forbidden)}"


@pytest.mark.parametrize("user", OUTSIDE, ids=lambda user: user.name)
async def test_a_hostile_reply_reaches_nothing_in_core_but_what_the_user_may_publish_anyway(
    broker: WatchedBroker, user: t.NatsUser
) -> None:
    client = broker.clients[user.name]
    services = sorted(_allowed(user.publish))
    for service in services:
        for reply in SUBJECTS:
            await client.publish(service, b'{"seq":1,"batch":10,"next_by_subj":">"}', reply=reply)
    heard = [m for m in await broker.take_heard() if m.subject in SUBJECTS]
    forged = {m.subject for m in heard} - set(services)
    assert not forged, f"{user.name} forged {sorted(forged)}"


async def test_a_nodes_hostile_reply_never_counts_as_another_nodes_usage(
    broker: WatchedBroker,
) -> None:
    """The PubAck of a node's batch, sent to another node's usage subject, must not be stored under
    that name."""
    await broker.clients["node-a"].publish(
        catalogue.USAGE_BATCH.for_node("a"), b"{}", reply=catalogue.USAGE_BATCH.for_node("b")
    )
    await broker.clients["node-a"].publish(
        s.direct_get(s.kv_stream(s.BUCKET_BUNDLES)),
        b'{"seq":1}',
        reply=catalogue.USAGE_BATCH.for_node("b"),
    )
    heard = await broker.take_heard()
    assert catalogue.USAGE_BATCH.for_node("b") not in {m.subject for m in heard}
