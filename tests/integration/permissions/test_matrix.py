"""Every user against every subject, on a real server with the rendered rights: nothing is reached
that the topology does not name, by no publish, no subscription and no hostile reply subject."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from clients.fleet.keys import ensure_nkey
from deploy.embedded.nats import EmbeddedBroker, find_nats_server
from deploy.embedded.ports import Ports
from shared import catalogue
from shared import subjects as s
from shared import topology as t
from shared.nats_config import render_edge_users
from tests.support.subjects import covers
from tests.support.waiting import until

NODES = ("a", "b")
OUTSIDE = [u for u in t.USERS if u.account != s.CORE] + [t.node_user(node) for node in NODES]
EVERYONE = [*(u for u in t.USERS if u.account == s.CORE), *OUTSIDE]


def _subjects() -> list[str]:
    """Every subject that the product has, and those of JetStream that could do harm."""
    found: set[str] = {
        f"{s.DEAD_PREFIX}{source}" for sources in s.DEAD_OWNERS.values() for source in sources
    }
    for row in catalogue.ROWS:
        for node in NODES:
            found.add(row.for_node(node).replace("{key}", "com.example"))
    for bucket, key in (
        (s.BUCKET_BUNDLES, "com.example"),
        (s.BUCKET_KEYRINGS, "node.a"),
        (s.BUCKET_KEYRINGS, "node.b"),
        (s.BUCKET_KEYRINGS, "trust"),
        (s.BUCKET_KEYRINGS, "sealing"),
        (s.BUCKET_KEYRINGS, "epoch.1"),
    ):
        found |= {
            s.kv_subject(bucket, key),
            f"{s.direct_get(s.kv_stream(bucket))}.{s.kv_subject(bucket, key)}",
        }
    found |= {
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.CREATE.EVIL",
    }
    for stream in t.STREAMS:
        found |= {
            s.js_stream_info(stream.name),
            s.js_message_delete(stream.name),
            s.direct_get(stream.name),
        }
        found |= {
            f"$JS.API.{verb}.{stream.name}"
            for verb in (
                "STREAM.CREATE",
                "STREAM.UPDATE",
                "STREAM.DELETE",
                "STREAM.PURGE",
                "STREAM.MSG.GET",
                "STREAM.SNAPSHOT",
                "CONSUMER.LIST",
                "CONSUMER.CREATE",
            )
        }
        found.add(f"$JS.API.CONSUMER.CREATE.{stream.name}.evil")
    for consumer in t.CONSUMERS:
        found |= {
            s.js_next(consumer.stream, consumer.durable),
            s.js_consumer_info(consumer.stream, consumer.durable),
            s.js_consumer_create(consumer.stream, consumer.durable),
            s.js_consumer_create(consumer.stream, "evil"),
            f"$JS.API.CONSUMER.DELETE.{consumer.stream}.{consumer.durable}",
            f"$JS.ACK.{consumer.stream}.{consumer.durable}.1.1.1.1.1",
        }
    found |= {f"{s.inbox_prefix(user.name)}.x" for user in EVERYONE}
    found |= {
        "https.cmd.domain.invent.v1",
        "https.event.domain.invent.v1",
        "_R_.x",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.ACCOUNT.CORE.CONNZ",
        "anything",
    }
    return sorted(found)


SUBJECTS = _subjects()


@dataclass
class Arena:
    """The server, one connection a user, and a spy who hears everything in CORE."""

    clients: dict[str, Client]
    spy: Client
    heard: list[Msg] = field(default_factory=list)

    async def hear(self) -> list[Msg]:
        """What was heard so far; returns when everything that is on its way has arrived."""
        for client in self.clients.values():
            await client.flush()
        await self.spy.publish("spy.sentinel", b"")
        await until(
            lambda: any(m.subject == "spy.sentinel" for m in self.heard), "the spy hears itself"
        )
        heard, self.heard = [m for m in self.heard if m.subject != "spy.sentinel"], []
        return heard


async def _login(url: str, name: str, seed: Path) -> Client:
    async def quiet(_: Exception) -> None:
        """Violations are what this test provokes."""

    return await nats.connect(
        url, nkeys_seed=str(seed), inbox_prefix=s.inbox_prefix(name), error_cb=quiet
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    names = [user.name for user in EVERYONE] + ["spy"]
    keys = {name: ensure_nkey(tmp_path / f"{name}.nk") for name in names}
    broker = EmbeddedBroker(tmp_path / "nats", Ports(tmp_path / "ports.json").pick("nats"), keys)
    broker.prepare()
    config = broker.folder / "nats.conf"
    users = "   jetstream: enabled\n   users: [\n"
    assert users in config.read_text()
    config.write_text(
        config.read_text().replace(users, f"{users}    {{ nkey: {keys['spy']} }}\n", 1)
    )
    broker.users_file.write_text(
        render_edge_users({node: keys[t.node_user(node).name] for node in NODES})
    )
    with (tmp_path / "nats.log").open("wb") as log:
        process = subprocess.Popen([str(find_nats_server()), "-c", str(config)], stderr=log)
    try:
        yield broker.url, tmp_path
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
async def arena(server: tuple[str, Path]) -> AsyncIterator[Arena]:
    url, folder = server
    spy = await _login(url, "spy", folder / "spy.nk")
    clients = {
        user.name: await _login(url, user.name, folder / f"{user.name}.nk") for user in EVERYONE
    }
    await t.apply(clients["topology"].jetstream(timeout=10))
    arena = Arena(clients, spy)

    async def hear(message: Msg) -> None:
        arena.heard.append(message)

    await spy.subscribe(">", cb=hear)
    await spy.flush()
    yield arena
    for client in (*clients.values(), spy):
        await client.close()


async def test_nobody_publishes_what_the_topology_does_not_name(arena: Arena) -> None:
    for user in EVERYONE:
        client = arena.clients[user.name]
        for subject in SUBJECTS:
            await client.publish(subject, f"from {user.name}".encode())
        reached = {m.subject for m in await arena.hear() if m.data == f"from {user.name}".encode()}
        allowed = {x for x in SUBJECTS if any(covers(right, x) for right in user.publish)}
        if s.kv_subject(s.BUCKET_BUNDLES, "com.example") in allowed:
            allowed.add(f"{s.EDGE_LIVE_PREFIX}com.example")  # republished by the server
        assert reached <= allowed, f"{user.name} reached {sorted(reached - allowed)}"
        kept = {x for x in allowed if not x.startswith("$JS.ACK")}
        assert kept <= reached, f"{user.name} could not reach {sorted(kept - reached)}"


async def test_nobody_hears_what_the_topology_does_not_name(arena: Arena) -> None:
    heard: dict[str, set[str]] = {user.name: set() for user in EVERYONE}
    for user in EVERYONE:

        async def note(message: Msg, name: str = user.name) -> None:
            heard[name].add(message.subject)

        for subject in (
            *SUBJECTS,
            ">",
            "*.*",
            "https.>",
            "$KV.>",
            "$JS.>",
            "_INBOX.>",
            "_R_.>",
            "$SYS.>",
        ):
            await arena.clients[user.name].subscribe(subject, cb=note)
        await arena.clients[user.name].flush()
    quiet = [x for x in SUBJECTS if not x.startswith(("$JS.API", "$SYS", "$KV", "_R_"))]
    for subject in quiet:
        await arena.spy.publish(subject, b"said in CORE")
    await arena.hear()
    for user in EVERYONE:
        await arena.clients[user.name].flush()
    for user in EVERYONE:
        rights = {x for x in SUBJECTS if any(covers(right, x) for right in user.subscribe)}
        assert heard[user.name] <= rights, f"{user.name} heard {sorted(heard[user.name] - rights)}"


@pytest.mark.parametrize("user", OUTSIDE, ids=lambda user: user.name)
async def test_a_hostile_reply_reaches_nothing_in_core_but_what_the_user_may_publish_anyway(
    arena: Arena, user: t.NatsUser
) -> None:
    client = arena.clients[user.name]
    services = [x for x in SUBJECTS if any(covers(right, x) for right in user.publish)]
    for service in services:
        for reply in SUBJECTS:
            await client.publish(service, b'{"seq":1,"batch":10,"next_by_subj":">"}', reply=reply)
    heard = [m for m in await arena.hear() if m.subject in SUBJECTS]
    forged = {m.subject for m in heard} - set(services)
    assert not forged, f"{user.name} forged {sorted(forged)}"


async def test_a_nodes_hostile_reply_never_counts_as_another_nodes_usage(arena: Arena) -> None:
    """The PubAck of a node's batch, sent to another node's usage subject, must not be stored under
    that name."""
    await arena.clients["node-a"].publish(
        catalogue.USAGE_BATCH.for_node("a"), b"{}", reply=catalogue.USAGE_BATCH.for_node("b")
    )
    await arena.clients["node-a"].publish(
        s.direct_get(s.kv_stream(s.BUCKET_BUNDLES)),
        b'{"seq":1}',
        reply=catalogue.USAGE_BATCH.for_node("b"),
    )
    heard = await arena.hear()
    assert catalogue.USAGE_BATCH.for_node("b") not in {m.subject for m in heard}
