"""Sequences in the stream are in no signature: forged ones hide bundles for a short time only."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.request import urlopen

from nats.aio.client import Client
from nats.aio.msg import Msg

from deploy.embedded.nats import login
from deploy.embedded.ports import HOST
from shared import catalogue
from shared import subjects as s
from tests.integration.edge_agent.conftest import EdgeSetup, MakeEdge
from tests.integration.edge_agent.node_processes import NODE_ID
from tests.support.waiting import until


class HostileNode:
    """A node user that forges live messages.

    It asks the broker for a message of another bucket, with a subject of bundles as the reply: the
    answer arrives there with its sequence in that other bucket."""

    def __init__(self, edge: EdgeSetup, client: Client) -> None:
        self._edge = edge
        self._client = client
        self._received: list[Msg] = []

    @classmethod
    async def create(cls, edge: EdgeSetup) -> HostileNode:
        """Log in, and fill the other bucket up to the last sequence of the bundles."""
        client = await login(
            edge.cluster.url, f"node-{NODE_ID}", edge.cluster.keys.seed(f"node-{NODE_ID}")
        )
        made = cls(edge, client)
        await client.subscribe(catalogue.EDGE_LIVE, cb=made._on_message)
        sequence = 0
        while sequence != edge.control_plane.sequence:
            assert sequence < edge.control_plane.sequence, "the other bucket is not ahead"
            sequence = await made._store(b"filling")
        return made

    async def forge_live(self, domain: str, body: bytes) -> None:
        """Send ``body`` as a live bundle at the next sequence."""
        await self._store(body)
        self._received.clear()
        subject = f"{s.direct_get(s.kv_stream(s.BUCKET_KEYRINGS))}.{_TRUST}"
        await self._client.publish(
            subject, b"", reply=f"{s.EDGE_LIVE_PREFIX}{s.bundle_key(domain)}"
        )
        await until(lambda: self._received, "it has arrived")

    async def _store(self, body: bytes) -> int:
        jetstream = self._edge.control_plane.edge_sync.jetstream(timeout=5)
        return (await jetstream.publish(_TRUST, body)).seq

    async def _on_message(self, message: Msg) -> None:
        self._received.append(message)


_TRUST = s.kv_subject(s.BUCKET_KEYRINGS, s.KEYRING_TRUST)


def next_statuses(edge: EdgeSetup, count: int = 2) -> Callable[[], bool]:
    before = len(edge.control_plane.statuses)
    return lambda: len(edge.control_plane.statuses) >= before + count


async def put_eight_bundles(edge: EdgeSetup) -> None:
    for revision in range(1, 9):
        await edge.control_plane.put_bundle(edge.signers.make_bundle(f"d{revision}.test", revision))
    await edge.control_plane.wait_until_in_sync(NODE_ID)


async def test_an_unsigned_live_message_does_not_move_the_position(edge: EdgeSetup) -> None:
    await put_eight_bundles(edge)
    hostile = await HostileNode.create(edge)
    edge.control_plane.silent = True
    for _ in range(30):
        await hostile.forge_live("a.test", b"unsigned")
    await until(lambda: "feed.rejected" in edge.node.read_log("agent"), "they are rejected")
    await until(next_statuses(edge), "it reports")
    assert edge.control_plane.statuses[-1].sequence == edge.control_plane.sequence
    assert edge.node.read_log("agent").count("feed.rejected") <= 20, "a flood fills the log"
    # A bundle that it does not hear live, it learns of from the next checkpoint.
    await edge.restart_broker_while_agent_sleeps()
    missed = await edge.put_https("a.test", 9)
    edge.wake_agent()
    edge.control_plane.silent = False
    await edge.node.wait_until_served("a.test", missed)


async def test_a_signed_bundle_replayed_at_later_sequences_is_refuted_by_the_checkpoints(
    edge: EdgeSetup,
) -> None:
    await put_eight_bundles(edge)
    hostile = await HostileNode.create(edge)
    edge.control_plane.silent = True
    newest = edge.signers.sign_bundle(edge.signers.make_bundle("d8.test", 8))
    for _ in range(10):
        await hostile.forge_live("d8.test", newest)
    await until(
        lambda: edge.control_plane.statuses[-1].sequence == edge.control_plane.sequence + 10,
        "it is taken in",
    )
    await edge.node.stop("agent")
    await edge.node.start("agent")
    edge.control_plane.silent = False
    edge.control_plane.statuses.clear()
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    assert "feed.position_refuted" in edge.node.read_log("agent")
    following = await edge.put_https("a.test", 9)
    await edge.node.wait_until_served("a.test", following)
    await edge.control_plane.wait_until_in_sync(NODE_ID)


async def test_an_older_bundle_moves_no_position_even_when_it_is_signed(edge: EdgeSetup) -> None:
    await put_eight_bundles(edge)
    edge.control_plane.sequence = await edge.control_plane.put_bundle(
        edge.signers.make_bundle("d1.test", 9)
    )
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    hostile = await HostileNode.create(edge)
    edge.control_plane.silent = True
    for _ in range(5):
        await hostile.forge_live(
            "d1.test", edge.signers.sign_bundle(edge.signers.make_bundle("d1.test", 1))
        )
    await until(next_statuses(edge), "it reports")
    assert edge.control_plane.statuses[-1].sequence == edge.control_plane.sequence


async def test_unsigned_messages_in_the_bucket_are_not_repaired_for_ever(
    make_edge: MakeEdge,
) -> None:
    """They are the bucket's own markers of a deletion, and garbage."""
    edge = await make_edge()
    await edge.node.start()
    await edge.put_https("a.test", 1)
    await edge.control_plane.wait_until_in_sync(NODE_ID)

    def count_repairs() -> float:
        text = urlopen(f"http://{HOST}:{edge.node.health_port}/metrics").read().decode()
        return sum(
            float(n)
            for n in re.findall(r"^edgetls_node_repairs_total.* (\S+)$", text, re.MULTILINE)
        )

    for body in (b"", b"garbage"):
        edge.control_plane.sequence = await edge.control_plane.put_raw("b.test", body)
        edge.control_plane.statuses.clear()
        await edge.control_plane.wait_until_in_sync(NODE_ID)
        before = count_repairs()
        await until(next_statuses(edge, 3), "some thirty checkpoints later")
        assert count_repairs() == before
