"""Bundles from the bucket to real handshakes."""

from __future__ import annotations

import time

from clients.edge_node.nginx.handshake import get_served_leaf
from deploy.embedded.ports import HOST
from shared.contracts.edge import BundleKind, NodeStatus
from shared.crypto.signing import Signer
from tests.integration.edge_agent.conftest import EdgeSetup
from tests.integration.edge_agent.node_processes import NODE_ID
from tests.support.pki import rsa_key
from tests.support.waiting import until


async def test_a_new_node_reads_the_bucket_and_then_follows_it_live(edge: EdgeSetup) -> None:
    first = await edge.put_https("www.example.test", 1)
    wildcard = await edge.put_https("*.img.example.test", 2)
    await edge.node.wait_until_served("www.example.test", first)
    await edge.node.wait_until_served("a.img.example.test", wildcard)
    assert await edge.node.served_leaf("unknown.example.test") is None
    status = await edge.control_plane.wait_until_in_sync(NODE_ID)
    assert status.epochs == [1]
    assert not status.stale
    started = time.monotonic()
    second = await edge.put_https("www.example.test", 3)
    proof = await edge.control_plane.wait_for_proof("www.example.test", 3)
    print(f"put to proof {(time.monotonic() - started) * 1000:.1f} ms")
    assert (proof.served, proof.fault) == (second.fingerprint, None)
    assert await edge.node.served_leaf("www.example.test") == second.fingerprint
    await edge.control_plane.wait_until_in_sync(NODE_ID)


async def test_a_domain_with_an_rsa_and_an_ecdsa_pair_is_proven_with_both(edge: EdgeSetup) -> None:
    rsa, ecdsa = edge.authority.issue(["a.test"], key=rsa_key()), edge.issue_leaf("a.test")
    pairs = [edge.signers.make_pair("a.test", leaf) for leaf in (rsa, ecdsa)]
    await edge.control_plane.put_bundle(edge.signers.make_bundle("a.test", 1, *pairs))
    assert (await edge.control_plane.wait_for_proof("a.test", 1)).fault is None
    assert await get_served_leaf(HOST, edge.node.https_port, "a.test", "rsa") == rsa.fingerprint
    assert await get_served_leaf(HOST, edge.node.https_port, "a.test", "ecdsa") == ecdsa.fingerprint


async def test_disable_ends_https_and_leaves_no_file_with_the_pair(edge: EdgeSetup) -> None:
    leaf = await edge.put_https("a.test", 1)
    await edge.node.wait_until_served("a.test", leaf)
    await until(
        lambda: any(b"BEGIN CERTIFICATE" in file for file in edge.node.read_files()),
        "the replica is written",
    )
    await edge.control_plane.put_bundle(edge.signers.make_bundle("a.test", 2))
    proof = await edge.control_plane.wait_for_proof("a.test", 2)
    assert (proof.served, proof.fault) == (None, None)
    assert await edge.node.served_leaf("a.test") is None
    for needle in (b"BEGIN CERTIFICATE", leaf.fingerprint.encode(), b"sealed_key"):
        assert not [file for file in edge.node.read_files() if needle in file]
    await edge.control_plane.wait_until_in_sync(NODE_ID)


async def test_suspended_is_refused_and_served_again_when_it_is_resumed(edge: EdgeSetup) -> None:
    leaf = edge.issue_leaf("a.test")
    pair = edge.signers.make_pair("a.test", leaf)
    await edge.control_plane.put_bundle(edge.signers.make_bundle("a.test", 1, pair))
    await edge.control_plane.wait_for_proof("a.test", 1)
    await edge.control_plane.put_bundle(
        edge.signers.make_bundle("a.test", 2, kind=BundleKind.SUSPENDED)
    )
    assert (await edge.control_plane.wait_for_proof("a.test", 2)).served is None
    await edge.control_plane.put_bundle(edge.signers.make_bundle("a.test", 3, pair))
    assert (await edge.control_plane.wait_for_proof("a.test", 3)).served == leaf.fingerprint


async def test_a_removed_host_falls_to_its_wildcard_and_stays_removed_after_a_restart(
    edge: EdgeSetup,
) -> None:
    exact, wildcard = (
        await edge.put_https("a.example.test", 1),
        await edge.put_https("*.example.test", 2),
    )
    await edge.node.wait_until_served("a.example.test", exact)
    await edge.node.wait_until_served("b.example.test", wildcard)
    old = edge.signers.sign_bundle(
        edge.signers.make_bundle(
            "a.example.test", 1, edge.signers.make_pair("a.example.test", exact)
        )
    )
    await edge.control_plane.put_bundle(
        edge.signers.make_bundle("a.example.test", 3, kind=BundleKind.REMOVED)
    )
    assert (await edge.control_plane.wait_for_proof("a.example.test", 3)).fault is None
    assert await edge.node.served_leaf("a.example.test") == wildcard.fingerprint
    await edge.node.stop("agent")
    await edge.node.start("agent")
    edge.control_plane.statuses.clear()
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    edge.control_plane.sequence = await edge.control_plane.put_raw("a.example.test", old)
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    assert await edge.node.served_leaf("a.example.test") == wildcard.fingerprint


async def test_a_domain_that_was_removed_and_registered_again_is_served_after_a_crash(
    edge: EdgeSetup,
) -> None:
    await edge.node.wait_until_served("a.test", await edge.put_https("a.test", 1))
    await edge.control_plane.put_bundle(
        edge.signers.make_bundle("a.test", 2, kind=BundleKind.REMOVED)
    )
    await edge.control_plane.wait_for_proof("a.test", 2)
    await edge.control_plane.put_bundle(edge.signers.make_bundle("a.test", 3))
    back = await edge.put_https("a.test", 4)
    await edge.node.wait_until_served("a.test", back)
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    for programs in (("agent",), ("nginx", "agent")):
        await edge.node.crash(*programs)
        await edge.node.start(*programs)
        edge.control_plane.statuses.clear()
        await edge.control_plane.wait_until_in_sync(NODE_ID)
        await edge.node.wait_until_served("a.test", back)
    assert b"a.test" not in (edge.node.folder / "tombstones.json").read_bytes()


async def test_a_pair_that_does_not_load_is_a_fault_and_the_old_one_is_still_served(
    edge: EdgeSetup,
) -> None:
    old = await edge.put_https("a.test", 1)
    await edge.node.wait_until_served("a.test", old)
    new, other = edge.issue_leaf("a.test"), edge.issue_leaf("a.test")
    pair = edge.signers.make_pair("a.test", new, key_pem=other.key_pem)
    await edge.control_plane.put_bundle(edge.signers.make_bundle("a.test", 2, pair))
    proof = await edge.control_plane.wait_for_proof("a.test", 2)
    assert proof.fault is not None
    assert "does not load" in proof.fault
    assert proof.served == old.fingerprint
    assert await edge.node.served_leaf("a.test") == old.fingerprint
    await edge.node.crash()
    await edge.node.start()
    await edge.node.wait_until_served("a.test", old)
    needles = [other.key_pem.splitlines()[1].encode(), new.key_pem.splitlines()[1].encode()]
    logs = [
        edge.node.read_log("agent").encode(),
        edge.node.read_log("nginx").encode(),
        *edge.node.read_files(),
    ]
    assert not [file for file in logs if any(needle in file for needle in needles)]
    fixed = await edge.put_https("a.test", 3)
    assert (await edge.control_plane.wait_for_proof("a.test", 3)).served == fixed.fingerprint


async def test_a_bundle_that_is_older_or_not_signed_for_this_domain_is_rejected_and_others_go_on(
    edge: EdgeSetup,
) -> None:
    signers, control_plane = edge.signers, edge.control_plane
    good = await edge.put_https("a.test", 5)
    await edge.node.wait_until_served("a.test", good)
    evil = edge.issue_leaf("a.test")
    hostile = {
        "signed by an unknown key": signers.sign_bundle(
            signers.make_bundle("a.test", 6, signers.make_pair("a.test", evil)),
            Signer.generate("edge_sync-1"),
        ),
        "not JSON": b"\xff{",
        "of another domain": signers.sign_bundle(
            signers.make_bundle("b.test", 7, signers.make_pair("b.test", evil))
        ),
        "an older revision": signers.sign_bundle(
            signers.make_bundle("a.test", 4, signers.make_pair("a.test", evil))
        ),
        "no domain at all": signers.sign_bundle(
            signers.make_bundle("../../a", 8, signers.make_pair("../../a", evil))
        ),
    }
    for body in hostile.values():
        control_plane.sequence = await control_plane.put_raw("a.test", body)
    await control_plane.wait_until_in_sync(NODE_ID)
    unattested = signers.make_pair("a.test", evil, domains=["b.test"])
    await control_plane.put_bundle(signers.make_bundle("a.test", 9, unattested))
    proof = await control_plane.wait_for_proof("a.test", 9)
    assert proof.fault == "the validator vouched for another domain"
    assert await edge.node.served_leaf("a.test") == good.fingerprint
    assert edge.node.read_log("agent").count("feed.rejected") >= 4


async def test_a_status_comes_each_second_and_is_not_stale_before_a_minute(
    edge: EdgeSetup,
) -> None:
    await edge.put_https("a.test", 1)
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    seen: list[NodeStatus] = edge.control_plane.statuses
    before = len(seen)
    await until(lambda: len(seen) >= before + 2, "two more statuses")
    gap = (seen[-1].time - seen[-2].time).total_seconds()
    assert 0.5 < gap < 1.5
    assert not seen[-1].stale
