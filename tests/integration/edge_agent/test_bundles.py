"""Bundles from the bucket to real handshakes."""

from __future__ import annotations

import signal
import time

from clients.edge_node.nginx.handshake import handshake
from deploy.embedded.ports import HOST
from shared.contracts.edge import BundleKind, NodeStatus
from shared.crypto.signing import Signer
from tests.integration.edge_agent.conftest import Stage
from tests.integration.edge_agent.rig import NODE
from tests.support.pki import rsa_key
from tests.support.waiting import until


async def test_a_new_node_reads_the_bucket_and_then_follows_it_live(stage: Stage) -> None:
    first = await stage.https("www.example.test", 1)
    wildcard = await stage.https("*.img.example.test", 2)
    await stage.node.serves("www.example.test", first)
    await stage.node.serves("a.img.example.test", wildcard)
    assert await stage.node.served("unknown.example.test") is None
    status = await stage.control.agrees(NODE)
    assert status.epochs == [1]
    assert not status.stale
    started = time.monotonic()
    second = await stage.https("www.example.test", 3)
    proof = await stage.control.proof("www.example.test", 3)
    print(f"put to proof {(time.monotonic() - started) * 1000:.1f} ms")
    assert (proof.served, proof.fault) == (second.fingerprint, None)
    assert await stage.node.served("www.example.test") == second.fingerprint
    await stage.control.agrees(NODE)


async def test_a_domain_with_an_rsa_and_an_ecdsa_pair_is_proven_with_both(stage: Stage) -> None:
    rsa, ecdsa = stage.authority.issue(["a.test"], key=rsa_key()), stage.leaf("a.test")
    pairs = [stage.signers.pair("a.test", leaf) for leaf in (rsa, ecdsa)]
    await stage.control.put(stage.signers.bundle("a.test", 1, *pairs))
    assert (await stage.control.proof("a.test", 1)).fault is None
    assert await handshake(HOST, stage.node.https_port, "a.test", "rsa") == rsa.fingerprint
    assert await handshake(HOST, stage.node.https_port, "a.test", "ecdsa") == ecdsa.fingerprint


async def test_disable_ends_https_and_leaves_no_file_with_the_pair(stage: Stage) -> None:
    leaf = await stage.https("a.test", 1)
    await stage.node.serves("a.test", leaf)
    await until(
        lambda: any(b"BEGIN CERTIFICATE" in file for file in stage.node.files()),
        "the replica is written",
    )
    await stage.control.put(stage.signers.bundle("a.test", 2))
    proof = await stage.control.proof("a.test", 2)
    assert (proof.served, proof.fault) == (None, None)
    assert await stage.node.served("a.test") is None
    for needle in (b"BEGIN CERTIFICATE", leaf.fingerprint.encode(), b"sealed_key"):
        assert not [file for file in stage.node.files() if needle in file]
    await stage.control.agrees(NODE)


async def test_suspended_is_refused_and_served_again_when_it_is_resumed(stage: Stage) -> None:
    leaf = stage.leaf("a.test")
    pair = stage.signers.pair("a.test", leaf)
    await stage.control.put(stage.signers.bundle("a.test", 1, pair))
    await stage.control.proof("a.test", 1)
    await stage.control.put(stage.signers.bundle("a.test", 2, kind=BundleKind.SUSPENDED))
    assert (await stage.control.proof("a.test", 2)).served is None
    await stage.control.put(stage.signers.bundle("a.test", 3, pair))
    assert (await stage.control.proof("a.test", 3)).served == leaf.fingerprint


async def test_a_removed_host_falls_to_its_wildcard_and_stays_removed_after_a_restart(
    stage: Stage,
) -> None:
    exact, wildcard = await stage.https("a.example.test", 1), await stage.https("*.example.test", 2)
    await stage.node.serves("a.example.test", exact)
    await stage.node.serves("b.example.test", wildcard)
    old = stage.signers.signed(
        stage.signers.bundle("a.example.test", 1, stage.signers.pair("a.example.test", exact))
    )
    await stage.control.put(stage.signers.bundle("a.example.test", 3, kind=BundleKind.REMOVED))
    assert (await stage.control.proof("a.example.test", 3)).fault is None
    assert await stage.node.served("a.example.test") == wildcard.fingerprint
    stage.node.stop("agent")
    stage.node.start("agent")
    stage.control.statuses.clear()
    await stage.control.agrees(NODE)
    stage.control.sequence = await stage.control.put_raw("a.example.test", old)
    await stage.control.agrees(NODE)
    assert await stage.node.served("a.example.test") == wildcard.fingerprint


async def test_a_domain_that_was_removed_and_registered_again_is_served_after_a_crash(
    stage: Stage,
) -> None:
    await stage.node.serves("a.test", await stage.https("a.test", 1))
    await stage.control.put(stage.signers.bundle("a.test", 2, kind=BundleKind.REMOVED))
    await stage.control.proof("a.test", 2)
    await stage.control.put(stage.signers.bundle("a.test", 3))
    back = await stage.https("a.test", 4)
    await stage.node.serves("a.test", back)
    await stage.control.agrees(NODE)
    for programs in (("agent",), ("nginx", "agent")):
        stage.node.stop(*programs, number=signal.SIGKILL)
        stage.node.start(*programs)
        stage.control.statuses.clear()
        await stage.control.agrees(NODE)
        await stage.node.serves("a.test", back)
    assert b"a.test" not in (stage.node.folder / "tombstones.json").read_bytes()


async def test_a_pair_that_does_not_fit_is_a_fault_and_the_old_one_is_still_served(
    stage: Stage,
) -> None:
    old = await stage.https("a.test", 1)
    await stage.node.serves("a.test", old)
    new, other = stage.leaf("a.test"), stage.leaf("a.test")
    pair = stage.signers.pair("a.test", new, key_pem=other.key_pem)
    await stage.control.put(stage.signers.bundle("a.test", 2, pair))
    proof = await stage.control.proof("a.test", 2)
    assert proof.fault is not None
    assert "does not load" in proof.fault
    assert proof.served == old.fingerprint
    assert await stage.node.served("a.test") == old.fingerprint
    stage.node.stop(number=signal.SIGKILL)
    stage.node.start()
    await stage.node.serves("a.test", old)
    needles = [other.key_pem.splitlines()[1].encode(), new.key_pem.splitlines()[1].encode()]
    logs = [stage.node.log("agent").encode(), stage.node.log("nginx").encode(), *stage.node.files()]
    assert not [file for file in logs if any(needle in file for needle in needles)]
    fixed = await stage.https("a.test", 3)
    assert (await stage.control.proof("a.test", 3)).served == fixed.fingerprint


async def test_what_is_not_signed_for_this_domain_or_is_older_is_dropped_and_the_rest_goes_on(
    stage: Stage,
) -> None:
    signers, control = stage.signers, stage.control
    good = await stage.https("a.test", 5)
    await stage.node.serves("a.test", good)
    evil = stage.leaf("a.test")
    hostile = {
        "signed by nobody known": signers.signed(
            signers.bundle("a.test", 6, signers.pair("a.test", evil)),
            Signer.generate("edge_sync-1"),
        ),
        "not JSON": b"\xff{",
        "of another domain": signers.signed(
            signers.bundle("b.test", 7, signers.pair("b.test", evil))
        ),
        "an older revision": signers.signed(
            signers.bundle("a.test", 4, signers.pair("a.test", evil))
        ),
        "no domain at all": signers.signed(
            signers.bundle("../../a", 8, signers.pair("../../a", evil))
        ),
    }
    for body in hostile.values():
        control.sequence = await control.put_raw("a.test", body)
    await control.agrees(NODE)
    unattested = signers.pair("a.test", evil, domains=["b.test"])
    await control.put(signers.bundle("a.test", 9, unattested))
    proof = await control.proof("a.test", 9)
    assert proof.fault == "the validator vouched for another domain"
    assert await stage.node.served("a.test") == good.fingerprint
    assert stage.node.log("agent").count("feed.dropped") >= 4


async def test_the_status_says_stale_only_after_a_minute_and_comes_each_second(
    stage: Stage,
) -> None:
    await stage.https("a.test", 1)
    await stage.control.agrees(NODE)
    seen: list[NodeStatus] = stage.control.statuses
    before = len(seen)
    await until(lambda: len(seen) >= before + 2, "two more statuses")
    gap = (seen[-1].time - seen[-2].time).total_seconds()
    assert 0.5 < gap < 1.5
    assert not seen[-1].stale
