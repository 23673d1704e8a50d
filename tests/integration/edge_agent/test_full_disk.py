"""On a full disk the agent goes on, and a bundle that was closed or replaced never comes back."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator

import pytest

from shared import subjects as s
from shared.contracts.edge import BundleKind, Proof
from tests.integration.edge_agent.conftest import EdgeSetup, MakeEdge
from tests.integration.edge_agent.node_processes import NODE_ID
from tests.integration.edge_agent.test_usage import count_requests, send_requests
from tests.support.waiting import until


def limit_file_size(edge: EdgeSetup, size: int) -> None:
    """Limit the size of the files that the agent writes: beyond it a write fails, as on a full
    disk."""
    pid = edge.node.agent.pid
    assert pid is not None
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


NOTHING = 1
NO_BUNDLE = 2500
ALL = resource.RLIM_INFINITY


@pytest.fixture
async def edge(make_edge: MakeEdge) -> AsyncIterator[EdgeSetup]:
    """Return a setup with four served domains. The agent logs nothing: its log is on that disk."""
    setup = await make_edge(LOG_LEVEL="critical")
    await setup.node.start()
    for revision, domain in enumerate(
        ("closed.test", "removed.test", "replaced.test", "kept.test"), 1
    ):
        await setup.node.wait_until_served(domain, await setup.put_https(domain, revision))
    await setup.control_plane.wait_until_in_sync(NODE_ID)
    yield setup
    assert setup.node.agent.pid is not None, "the agent runs on"


def disk_faults(edge: EdgeSetup, domain: str) -> list[Proof]:
    return [
        p
        for p in edge.control_plane.list_proofs()
        if p.domain == domain and p.fault and "cannot be written" in p.fault
    ]


async def test_a_domain_closed_or_replaced_on_a_full_disk_stays_so_after_a_crash(
    edge: EdgeSetup,
) -> None:
    kept = await edge.node.served_leaf("kept.test")
    limit_file_size(edge, NO_BUNDLE)
    replaced = await edge.put_https("replaced.test", 5)
    assert (
        await edge.control_plane.wait_for_proof("replaced.test", 5)
    ).served == replaced.fingerprint
    limit_file_size(edge, NOTHING)
    await edge.control_plane.put_bundle(edge.signers.make_bundle("closed.test", 6))
    await edge.control_plane.put_bundle(
        edge.signers.make_bundle("removed.test", 7, kind=BundleKind.REMOVED)
    )
    for domain in ("replaced.test", "closed.test", "removed.test"):
        await until(lambda domain=domain: disk_faults(edge, domain), f"{domain} is reported")
    for domain in ("closed.test", "removed.test"):
        await edge.node.wait_until_served(domain, None)
    await edge.node.crash("agent")
    await edge.node.stop("nginx")
    await edge.control_plane.stop()
    await edge.cluster.stop_broker()
    await edge.node.start()
    await until(lambda: edge.node.served_leaf("kept.test"), "the replica is served")
    assert await edge.node.served_leaf("kept.test") == kept
    for domain in ("closed.test", "removed.test", "replaced.test"):
        assert await edge.node.served_leaf(domain) is None, domain
    await edge.restart_broker()
    await edge.control_plane.start()
    await edge.node.wait_until_served("replaced.test", replaced)
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    assert await edge.node.served_leaf("closed.test") is None


async def test_a_bundle_that_the_disk_refused_is_written_once_there_is_space(
    edge: EdgeSetup,
) -> None:
    limit_file_size(edge, NO_BUNDLE)
    replaced = await edge.put_https("replaced.test", 5)
    await until(lambda: disk_faults(edge, "replaced.test"), "it is reported")
    assert await edge.node.served_leaf("replaced.test") == replaced.fingerprint
    # nginx holds nothing and neither does the disk: it comes from the agent's memory.
    await edge.node.crash("nginx")
    await edge.node.start("nginx")
    await edge.node.wait_until_served("replaced.test", replaced)
    limit_file_size(edge, ALL)
    await edge.control_plane.put_keyring(s.keyring_node(NODE_ID), edge.sign_enrolment())
    files = edge.node.folder / "replica"
    await until(lambda: list(files.glob("replaced.test-*")), "it is on the disk")
    edge.control_plane.statuses.clear()
    await edge.control_plane.wait_until_in_sync(NODE_ID)


async def test_usage_waits_for_the_disk_and_is_counted_once(edge: EdgeSetup) -> None:
    limit_file_size(edge, NOTHING)
    await send_requests(edge.node, "kept.test", 5)
    await edge.control_plane.put_bundle(edge.signers.make_bundle("closed.test", 5))
    await until(lambda: _is_disk_full(edge), "it says that its disk is full")
    before = len(edge.control_plane.statuses)
    await until(lambda: len(edge.control_plane.statuses) > before + 3, "it reports on")
    assert count_requests(edge) == 0, "a range is sent before its cut is on the disk"
    limit_file_size(edge, ALL)
    await until(lambda: count_requests(edge) == 5, "all are reported")
    await until(edge.node.agent.is_ready, "nothing is wrong any more")


async def _is_disk_full(edge: EdgeSetup) -> bool:
    missing = await edge.node.agent.missing_conditions()
    return missing is not None and "cannot be written" in missing.get("disk", "")
