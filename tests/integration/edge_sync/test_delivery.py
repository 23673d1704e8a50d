"""Desired state: changes are put into the bucket, the bucket is repaired, faults cost a pause."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from nats.js.errors import NotFoundError

from shared import catalogue
from shared import subjects as s
from shared.contracts.edge import BundleKind
from shared.contracts.queries import (
    DigestQuestion,
    Nothing,
)
from shared.crypto.digest import Digest, bucket_of
from shared.crypto.signing import Signer
from shared.errors import BrokerAway
from shared.messaging.rpc import ask
from tests.integration.edge_sync.harness import EdgeSyncHarness, recreate_streams
from tests.support.fakes.config_and_nodes import FakeNode, hash_bundle
from tests.support.waiting import until

DOMAIN = "www.example.test"


async def test_a_change_arrives_signed_on_every_node_within_milliseconds(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    nodes = [await harness.add_node(name) for name in ("node-1", "node-2")]
    took = []
    for _ in range(20):
        bundle = harness.config.decide_bundle(DOMAIN, BundleKind.HTTPS)
        published = await harness.config.publish_change(bundle)
        for node in nodes:
            key = (DOMAIN, bundle.revision)
            arrived = await until(lambda n=node, k=key: n.arrived.get(k), "it arrives", every=0.001)
            took.append((arrived - published).total_seconds())
            assert node.bundles[DOMAIN] == bundle
    median = sorted(took)[len(took) // 2]
    assert median < 0.1, f"median {median * 1000:.1f} ms"


async def test_a_bundle_without_a_fitting_attestation_is_a_dead_letter_and_the_live_one_stays(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    good = await harness.config.change_domain(DOMAIN)
    await harness.wait_for_bundle(good)
    await harness.config.publish_change(
        harness.config.decide_bundle(DOMAIN, BundleKind.HTTPS, attested="somebody-else")
    )
    (reason,) = await until(harness.list_dead_letters, "a dead letter")
    assert reason.startswith("unsigned: the attestation of pair")
    assert await harness.read_bundle(DOMAIN) == good


async def test_a_lower_revision_is_never_put(harness: EdgeSyncHarness) -> None:
    await harness.start_replica()
    old = harness.config.decide_bundle(DOMAIN, BundleKind.HTTPS)
    new = await harness.config.change_domain(DOMAIN)
    await harness.wait_for_bundle(new)
    harness.config.bundles[DOMAIN] = old
    await harness.config.publish_change(old)
    after = await harness.config.change_domain("later.example.test")
    await harness.wait_for_bundle(after)
    assert await harness.read_bundle(DOMAIN) == new
    assert (
        await ask(harness.clients["config"], catalogue.RPC_EDGE_MAX_REVISION, Nothing())
    ).revision == 3


async def test_disabling_erases_the_bytes_of_the_pair_before_its_successor_is_put(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    bundle = await harness.config.change_domain(DOMAIN)
    await harness.wait_for_bundle(bundle)
    (stored,) = [message async for batch in harness.bucket.read_from(1) for message in batch]
    blocks = list((harness.cluster.folder / "nats" / "store").rglob("KV_edge_bundles/msgs/*.blk"))
    signature = bundle.pairs[0].attestation.signature.encode()
    assert any(signature in block.read_bytes() for block in blocks)
    await harness.wait_for_bundle(await harness.config.change_domain(DOMAIN, BundleKind.HTTP_ONLY))
    js = harness.clients["stream_admin"].jetstream()
    try:
        found = await js.get_msg(s.kv_stream(s.BUCKET_BUNDLES), seq=stored.sequence)
        raise AssertionError(f"still there: {found.seq}")
    except NotFoundError:
        pass
    assert not any(signature in block.read_bytes() for block in blocks if block.exists())


async def test_an_emptied_broker_is_rebuilt_from_config_and_the_database(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    node = await harness.add_node("node-1")
    await harness.wait_for_bundle(await harness.config.change_domain(DOMAIN))
    await node.wait_for_more_checkpoints(0)
    quiet = harness.config.decide_bundle("quiet.example.test", BundleKind.HTTP_ONLY)
    await recreate_streams(harness.clients["stream_admin"])
    await harness.wait_for_bundle(harness.config.bundles[DOMAIN])
    await harness.wait_for_bundle(quiet)
    await node.wait_for_checkpoint(domains=2)
    assert node.checkpoints[-1].incarnation != node.checkpoints[0].incarnation
    assert await until(
        lambda: harness.keyrings.last(s.keyring_node("node-1")), "the keyring is back"
    )
    await until(
        lambda: (
            (node.sequence, node.digest.root())
            == (node.checkpoints[-1].sequence, node.checkpoints[-1].root)
        ),
        "the node proves the same set",
    )


async def test_what_somebody_else_wrote_into_the_bucket_is_replaced(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    bundle = await harness.config.change_domain(DOMAIN)
    await harness.wait_for_bundle(bundle)
    forged = b'{"key_id":"edge_sync-1","payload":"{}","signature":"AAAA"}'
    stored = await harness.bucket.last(s.bundle_key(DOMAIN))
    assert stored is not None
    await harness.bucket.put(s.bundle_key(DOMAIN), forged, stored.sequence)
    await harness.bucket.put(s.bundle_key("unknown.example.test"), forged, 0)

    async def is_repaired() -> bool:
        last = await harness.bucket.last(s.bundle_key(DOMAIN))
        gone = await harness.bucket.last(s.bundle_key("unknown.example.test")) is None
        return last is not None and last.body != forged and gone

    await until(is_repaired, "the forged bundle is replaced and the unknown one dropped")
    assert await harness.read_bundle(DOMAIN) == bundle


async def _forge(harness: EdgeSyncHarness, _node: FakeNode) -> None:
    """Put a message that edge_sync did not sign."""
    stored = await harness.bucket.last(s.bundle_key(DOMAIN))
    assert stored is not None
    await harness.bucket.put(s.bundle_key(DOMAIN), b"{}", stored.sequence)


async def _replay(harness: EdgeSyncHarness, node: FakeNode) -> None:
    """Put an older bundle that edge_sync did sign."""
    older = await harness.bucket.last(s.bundle_key(DOMAIN))
    harness.config.answers = True
    await harness.wait_for_bundle(await harness.config.change_domain(DOMAIN))
    harness.config.answers = False
    newer = await harness.bucket.last(s.bundle_key(DOMAIN))
    assert older is not None and newer is not None
    await node.wait_for_checkpoint(root=_wanted_root(harness))
    await harness.bucket.put(s.bundle_key(DOMAIN), older.body, newer.sequence)


async def _lose_bucket(harness: EdgeSyncHarness, _node: FakeNode) -> None:
    """Lose every stream while the replica runs."""
    await recreate_streams(harness.clients["stream_admin"])


async def _start_anew(harness: EdgeSyncHarness, _node: FakeNode) -> None:
    """Lose the bucket while no replica runs."""
    await harness.replicas[-1].stop()
    await recreate_streams(harness.clients["stream_admin"])
    await harness.spawn_replica("edge_sync-2", EDGE_SYNC_CHECKPOINT_SECONDS="0.2")


def _wanted_root(harness: EdgeSyncHarness) -> str:
    """Return the root of what config wants, which is one domain."""
    bundle = harness.config.bundles[DOMAIN]
    digest = Digest()
    digest.put(DOMAIN, bundle.revision, hash_bundle(bundle))
    return digest.root()


@pytest.mark.parametrize("spoil", [_forge, _replay, _lose_bucket, _start_anew])
async def test_no_checkpoint_is_published_of_a_bucket_that_may_lack_what_config_wants(
    harness: EdgeSyncHarness, spoil: Callable[[EdgeSyncHarness, FakeNode], Awaitable[None]]
) -> None:
    """A node drops what a signed checkpoint lacks: it would serve nothing until config is back."""
    await harness.start_replica()
    node = await harness.add_node("node-1")
    await harness.wait_for_bundle(await harness.config.change_domain(DOMAIN))
    await node.wait_for_checkpoint(root=_wanted_root(harness))
    harness.config.answers = False
    await spoil(harness, node)
    count_before = len(node.checkpoints)
    wanted = hash_bundle(harness.config.bundles[DOMAIN])

    async def is_spoilt() -> bool:
        with contextlib.suppress(BrokerAway):
            answer = await ask(
                node.client,
                catalogue.RPC_EDGE_DIGEST,
                DigestQuestion(bucket=bucket_of(DOMAIN)),
            )
            return wanted not in [row.hash for row in answer.members]
        return False

    await until(is_spoilt, "edge_sync knows what became of the bucket")
    harness.config.answers = True
    count_spoilt = len(node.checkpoints)
    await node.wait_for_more_checkpoints(count_spoilt)
    assert {checkpoint.root for checkpoint in node.checkpoints[count_before:]} == {
        _wanted_root(harness)
    }


async def test_the_digest_of_a_bucket_names_its_members(harness: EdgeSyncHarness) -> None:
    await harness.start_replica()
    node = await harness.add_node("node-1")
    await harness.wait_for_bundle(await harness.config.change_domain(DOMAIN))
    await node.wait_for_checkpoint(domains=1)
    every = await ask(node.client, catalogue.RPC_EDGE_DIGEST, DigestQuestion())
    assert every.digests == node.digest.buckets()
    one = await ask(
        node.client,
        catalogue.RPC_EDGE_DIGEST,
        DigestQuestion(bucket=bucket_of(DOMAIN)),
    )
    assert [(row.domain, row.revision) for row in one.members] == [(DOMAIN, 1)]


async def test_a_tombstone_past_its_time_is_dropped_and_a_live_bundle_that_config_forgot_is_kept(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica(REPAIR_SECONDS="0.3")
    live = await harness.config.change_domain("live.example.test")
    gone = await harness.config.change_domain(DOMAIN, BundleKind.REMOVED)
    await harness.wait_for_bundle(live)
    await harness.wait_for_bundle(gone)
    harness.config.bundles.clear()

    async def dropped() -> bool:
        return await harness.read_bundle(DOMAIN) is None

    await until(dropped, "the tombstone is dropped")
    assert await harness.read_bundle("live.example.test") == live


async def test_a_signing_key_that_nodes_would_refuse_is_one_clear_line(
    harness: EdgeSyncHarness, tmp_path: Path
) -> None:
    stranger = Signer.generate("edge_sync-1")
    (tmp_path / "key").write_text(f"edge_sync-1 {stranger.text()}")
    replica = await harness.spawn_replica("stranger", EDGE_SYNC_SIGNING_KEY_FILE=tmp_path / "key")
    assert await replica.wait_for_end() == 2
    (line,) = [
        line for line in replica.log_file.read_text().splitlines() if not line.startswith("{")
    ]
    assert "EDGETLS_EDGE_SYNC_SIGNING_KEY_FILE" in line
    assert stranger.text() not in line


async def test_config_away_pauses_the_live_path_and_loses_nothing(harness: EdgeSyncHarness) -> None:
    replica = await harness.start_replica()
    await harness.clients["config"].close()
    harness.clients["config"] = await harness.cluster.client("config")
    harness.config.use_client(harness.clients["config"])
    bundle = await harness.config.change_domain(DOMAIN)
    await until(replica.is_unready, "a condition is missing")
    await harness.config.start()
    await harness.wait_for_bundle(bundle)
    await replica.until_ready()


async def test_a_broker_that_is_killed_costs_a_pause(harness: EdgeSyncHarness) -> None:
    replica = await harness.start_replica()
    node = await harness.add_node("node-1")
    await harness.wait_for_bundle(await harness.config.change_domain(DOMAIN))
    before = time.monotonic()
    harness.cluster.kill("nats")
    await harness.cluster.until_broker_answers()
    bundle = await harness.config.change_domain(DOMAIN)
    await until(lambda: node.bundles.get(DOMAIN) == bundle, "the node has the next")
    await replica.until_ready()
    assert time.monotonic() - before < 20


async def test_a_stopped_database_costs_a_pause(harness: EdgeSyncHarness) -> None:
    replica = await harness.start_replica()
    harness.cluster.kill("postgres")
    bundle = await harness.config.change_domain(DOMAIN)
    await until(harness.cluster.database_server.ready, "PostgreSQL is back")
    await harness.wait_for_bundle(bundle)
    await replica.until_ready()
