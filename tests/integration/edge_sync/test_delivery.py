"""Desired state out: what a change puts, what it never puts, what is rebuilt."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import pytest
from nats.js.errors import NotFoundError

from shared import catalogue
from shared import subjects as s
from shared.contracts.edge import BundleKind
from shared.contracts.queries import (
    DigestQuestion,
    ListDead,
    Nothing,
)
from shared.crypto.digest import Digest, bucket_of
from shared.crypto.signing import Signer
from shared.errors import BrokerAway
from shared.messaging.rpc import ask
from tests.integration.edge_sync.ground import lose_streams
from tests.integration.edge_sync.harness import World
from tests.integration.edge_sync.played import FakeNode
from tests.support.waiting import until

DOMAIN = "www.example.test"


async def test_a_change_arrives_signed_on_every_node_within_milliseconds(world: World) -> None:
    await world.run()
    nodes = [await world.node(name) for name in ("node-1", "node-2")]
    took = []
    for _ in range(20):
        bundle = world.config.decide(DOMAIN, BundleKind.HTTPS)
        told = await world.config.tell(bundle)
        for node in nodes:
            key = (DOMAIN, bundle.revision)
            arrived = await until(lambda n=node, k=key: n.arrived.get(k), "it arrives", every=0.001)
            took.append((arrived - told).total_seconds())
            assert node.bundles[DOMAIN] == bundle
    assert sorted(took)[len(took) // 2] < 0.1, (
        f"median {sorted(took)[len(took) // 2] * 1000:.1f} ms"
    )


async def test_a_bundle_without_a_fitting_attestation_is_buried_and_the_live_one_stays(
    world: World,
) -> None:
    await world.run()
    good = await world.config.change(DOMAIN)
    await world.until_held(good)
    await world.config.tell(world.config.decide(DOMAIN, BundleKind.HTTPS, attested="somebody-else"))
    operator = world.clients["operator"]

    async def letters() -> list[str]:
        page = await ask(operator, catalogue.RPC_DEAD_LIST["edge_sync"], ListDead())
        return [letter.reason for letter in page.letters]

    (reason,) = await until(letters, "a dead letter")
    assert reason.startswith("unsigned: the attestation of pair")
    assert await world.held(DOMAIN) == good


async def test_a_lower_revision_is_never_put(world: World) -> None:
    await world.run()
    old = world.config.decide(DOMAIN, BundleKind.HTTPS)
    new = await world.config.change(DOMAIN)
    await world.until_held(new)
    world.config.bundles[DOMAIN] = old
    await world.config.tell(old)
    after = await world.config.change("later.example.test")
    await world.until_held(after)
    assert await world.held(DOMAIN) == new
    assert (
        await ask(world.clients["config"], catalogue.RPC_EDGE_MAX_REVISION, Nothing())
    ).revision == 3


async def test_disabling_erases_the_bytes_of_the_pair_before_its_successor_is_put(
    world: World,
) -> None:
    await world.run()
    bundle = await world.config.change(DOMAIN)
    await world.until_held(bundle)
    (stored,) = [message async for batch in world.bucket.read(1) for message in batch]
    blocks = list((world.ground.data / "nats" / "store").rglob("KV_edge_bundles/msgs/*.blk"))
    signature = bundle.pairs[0].attestation.signature.encode()
    assert any(signature in block.read_bytes() for block in blocks)
    await world.until_held(await world.config.change(DOMAIN, BundleKind.HTTP_ONLY))
    js = world.clients["storekeeper"].jetstream()
    try:
        found = await js.get_msg(s.kv_stream(s.BUCKET_BUNDLES), seq=stored.sequence)
        raise AssertionError(f"still there: {found.seq}")
    except NotFoundError:
        pass
    assert not any(signature in block.read_bytes() for block in blocks if block.exists())


async def test_an_emptied_broker_is_rebuilt_from_config_and_the_database(world: World) -> None:
    await world.run()
    node = await world.node("node-1")
    await world.until_held(await world.config.change(DOMAIN))
    await until(lambda: node.checkpoints, "a checkpoint is told")
    quiet = world.config.decide("quiet.example.test", BundleKind.HTTP_ONLY)
    await lose_streams(world.clients["storekeeper"])
    await world.until_held(world.config.bundles[DOMAIN], limit=15)
    await world.until_held(quiet)
    await until(lambda: node.checkpoints[-1].domains == 2, "the checkpoint tells both")
    assert node.checkpoints[-1].incarnation != node.checkpoints[0].incarnation
    assert await until(lambda: world.keyrings.last(s.keyring_node("node-1")), "the keyring is back")
    await until(
        lambda: (
            (node.sequence, node.digest.root())
            == (node.checkpoints[-1].sequence, node.checkpoints[-1].root)
        ),
        "the node proves the same set",
    )


async def test_what_somebody_else_wrote_into_the_bucket_is_replaced(world: World) -> None:
    await world.run()
    bundle = await world.config.change(DOMAIN)
    await world.until_held(bundle)
    forged = b'{"key_id":"edge_sync-1","payload":"{}","signature":"AAAA"}'
    stored = await world.bucket.last(s.bundle_key(DOMAIN))
    assert stored is not None
    await world.bucket.put(s.bundle_key(DOMAIN), forged, stored.sequence)
    await world.bucket.put(s.bundle_key("unknown.example.test"), forged, 0)

    async def mended() -> bool:
        last = await world.bucket.last(s.bundle_key(DOMAIN))
        gone = await world.bucket.last(s.bundle_key("unknown.example.test")) is None
        return last is not None and last.body != forged and gone

    await until(mended, "the forged bundle is replaced and the unknown one dropped")
    assert await world.held(DOMAIN) == bundle


async def _forge(world: World, _node: FakeNode) -> None:
    stored = await world.bucket.last(s.bundle_key(DOMAIN))
    assert stored is not None
    await world.bucket.put(s.bundle_key(DOMAIN), b"{}", stored.sequence)


async def _replay(world: World, node: FakeNode) -> None:
    """An older bundle, truly signed."""
    older = await world.bucket.last(s.bundle_key(DOMAIN))
    world.config.answers = True
    await world.until_held(await world.config.change(DOMAIN))
    world.config.answers = False
    newer = await world.bucket.last(s.bundle_key(DOMAIN))
    assert older is not None and newer is not None
    await until(
        lambda: node.checkpoints[-1].root == _root(world), "the checkpoint tells the newer one"
    )
    await world.bucket.put(s.bundle_key(DOMAIN), older.body, newer.sequence)


async def _lose(world: World, _node: FakeNode) -> None:
    await lose_streams(world.clients["storekeeper"])


async def _start_anew(world: World, _node: FakeNode) -> None:
    await world.replicas[-1].stop()
    await lose_streams(world.clients["storekeeper"])
    world.replicas.append(await world.spawn("edge_sync-2", EDGE_SYNC_CHECKPOINT_SECONDS="0.2"))


def _root(world: World) -> str:
    """Of what config wants: one domain."""
    digest, bundle = Digest(), world.config.bundles[DOMAIN]
    digest.put(DOMAIN, bundle.revision, sha256(bundle.encode()).hexdigest())
    return digest.root()


@pytest.mark.parametrize("spoil", [_forge, _replay, _lose, _start_anew])
async def test_no_checkpoint_is_told_of_a_bucket_that_may_lack_what_config_wants(
    world: World, spoil: Callable[[World, FakeNode], Awaitable[None]]
) -> None:
    """A node drops what a signed checkpoint lacks: it would serve nothing until config is back."""
    await world.run()
    node = await world.node("node-1")
    await world.until_held(await world.config.change(DOMAIN))
    await until(
        lambda: node.checkpoints and node.checkpoints[-1].root == _root(world),
        "the checkpoint tells it",
    )
    world.config.answers = False
    await spoil(world, node)
    told, wanted = len(node.checkpoints), sha256(world.config.bundles[DOMAIN].encode()).hexdigest()

    async def is_spoilt() -> bool:
        with contextlib.suppress(BrokerAway):
            answer = await ask(
                node.client,
                catalogue.RPC_EDGE_DIGEST,
                DigestQuestion(bucket=bucket_of(DOMAIN)),
            )
            return wanted not in [row.hash for row in answer.members]
        return False

    await until(is_spoilt, "edge_sync knows what became of the bucket", limit=15)
    world.config.answers, before = True, len(node.checkpoints)
    await until(lambda: len(node.checkpoints) > before, "checkpoints are told again", limit=15)
    assert {checkpoint.root for checkpoint in node.checkpoints[told:]} == {_root(world)}


async def test_the_digest_of_a_bucket_names_its_members(world: World) -> None:
    await world.run()
    node = await world.node("node-1")
    await world.until_held(await world.config.change(DOMAIN))
    await until(
        lambda: node.checkpoints and node.checkpoints[-1].domains == 1, "the checkpoint tells it"
    )
    every = await ask(node.client, catalogue.RPC_EDGE_DIGEST, DigestQuestion())
    assert every.digests == node.digest.buckets()
    one = await ask(
        node.client,
        catalogue.RPC_EDGE_DIGEST,
        DigestQuestion(bucket=bucket_of(DOMAIN)),
    )
    assert [(row.domain, row.revision) for row in one.members] == [(DOMAIN, 1)]


async def test_a_tombstone_past_its_time_is_dropped_and_a_live_bundle_that_config_forgot_is_kept(
    world: World,
) -> None:
    await world.run(REPAIR_SECONDS="0.3")
    live = await world.config.change("live.example.test")
    gone = await world.config.change(DOMAIN, BundleKind.REMOVED)
    await world.until_held(live)
    await world.until_held(gone)
    world.config.bundles.clear()

    async def dropped() -> bool:
        return await world.held(DOMAIN) is None

    await until(dropped, "the tombstone is dropped")
    assert await world.held("live.example.test") == live


async def test_a_signing_key_that_nodes_would_refuse_is_one_clear_line(
    world: World, tmp_path: Path
) -> None:
    stranger = Signer.generate("edge_sync-1")
    (tmp_path / "key").write_text(f"edge_sync-1 {stranger.text()}")
    replica = await world.spawn("stranger", EDGE_SYNC_SIGNING_KEY_FILE=tmp_path / "key")
    assert await asyncio.wait_for(replica.process.wait(), 20) == 2
    (line,) = [line for line in replica.log.read_text().splitlines() if not line.startswith("{")]
    assert "EDGETLS_EDGE_SYNC_SIGNING_KEY_FILE" in line
    assert stranger.text() not in line


async def test_config_away_pauses_the_live_path_and_loses_nothing(world: World) -> None:
    replica = await world.run()
    await world.clients["config"].close()
    world.clients["config"] = await world.ground.login("config")
    world.config._client = world.clients["config"]
    world.config.publisher = type(world.config.publisher)(world.clients["config"])
    bundle = await world.config.change(DOMAIN)
    await until(lambda: _not_ready(replica), "it says that it is not ready")
    await world.config.start()
    await world.until_held(bundle)
    await world.ready(replica)


async def test_a_broker_that_is_killed_costs_a_pause(world: World) -> None:
    replica = await world.run()
    node = await world.node("node-1")
    ground = world.ground
    await world.until_held(await world.config.change(DOMAIN))
    before = time.monotonic()
    ground.supervisor.kill("nats")
    await ground.broker_ready()
    bundle = await world.config.change(DOMAIN)
    await until(lambda: node.bundles.get(DOMAIN) == bundle, "the node has the next", limit=20)
    await world.ready(replica)
    assert time.monotonic() - before < 20


async def test_a_stopped_database_costs_a_pause(world: World) -> None:
    replica = await world.run()
    world.ground.supervisor.kill("postgres")
    bundle = await world.config.change(DOMAIN)
    await until(world.ground.postgres.ready, "PostgreSQL is back", limit=20)
    await world.until_held(bundle, limit=20)
    await world.ready(replica)


async def _not_ready(replica: object) -> bool:
    return bool(await replica.missing())  # type: ignore[attr-defined]
