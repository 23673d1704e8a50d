"""Each test gets a broker with the real rights, a fake control plane, and a node in processes."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared import subjects as s
from shared.contracts.base import Signed
from tests.integration.edge_agent.node_processes import NODE_ID, NodeProcesses
from tests.support.cluster import LocalCluster, local_cluster
from tests.support.fakes.control_plane import FakeControlPlane
from tests.support.fleet_signers import FleetSigners
from tests.support.pki import Authority, Leaf


@dataclass
class EdgeSetup:
    """A node with all that it talks to.

    ``control_plane`` is another object after a restart of the broker."""

    signers: FleetSigners
    cluster: LocalCluster
    control_plane: FakeControlPlane
    node: NodeProcesses
    authority: Authority

    def issue_leaf(self, *names: str) -> Leaf:
        return self.authority.issue(list(names))

    async def put_https(self, domain: str, revision: int, **options: object) -> Leaf:
        """Put an https bundle with a new leaf and return the leaf."""
        leaf = self.issue_leaf(domain)
        pair = self.signers.make_pair(domain, leaf)
        bundle = self.signers.make_bundle(domain, revision, pair, **options)
        await self.control_plane.put_bundle(bundle)
        return leaf

    def sign_enrolment(self) -> Signed:
        """Return the node's keyring with all epochs of the fleet."""
        return self.signers.sign_enrolment(NODE_ID)

    async def restart_broker(self) -> None:
        """Restart the broker; the new control plane has the old one's digest and confirmed ends."""
        await self.control_plane.stop()
        await self.cluster.stop_broker()
        await self.cluster.start_broker()
        before = self.control_plane
        self.control_plane = FakeControlPlane(
            self.signers,
            await self.cluster.client("edge_sync"),
            await self.cluster.client("billing"),
            digest=before.digest,
            pages=before.pages,
            confirmed_ends=before.confirmed_ends,
        )

    async def restart_broker_while_agent_sleeps(self) -> None:
        """Stop the agent's process with SIGSTOP and restart the broker.

        The agent hears nothing live that is put until `wake_agent`: its connection is lost."""
        self.node.agent.send_signal(signal.SIGSTOP)
        await self.restart_broker()
        self.control_plane.silent = True
        await self.control_plane.start()

    def wake_agent(self) -> None:
        self.node.agent.send_signal(signal.SIGCONT)


MakeEdge = Callable[..., Awaitable[EdgeSetup]]


@pytest.fixture
async def make_edge(tmp_path: Path) -> AsyncIterator[MakeEdge]:
    """Return a function that makes the setup; its node is not started."""
    async with AsyncExitStack() as stack:

        async def make(*, enrolled: bool = True, **settings: str) -> EdgeSetup:
            cluster = await stack.enter_async_context(local_cluster(tmp_path, nodes=[NODE_ID]))
            signers = FleetSigners.of(cluster.keys)
            node = NodeProcesses.create(cluster.keys, cluster.url, **settings)
            control_plane = FakeControlPlane(
                signers, await cluster.client("edge_sync"), await cluster.client("billing")
            )
            await control_plane.start()
            if enrolled:
                keyring = signers.sign_enrolment(NODE_ID)
                await control_plane.put_keyring(s.keyring_node(NODE_ID), keyring)
            setup = EdgeSetup(signers, cluster, control_plane, node, Authority.create())
            stack.push_async_callback(_stop_setup, setup)
            return setup

        yield make


async def _stop_setup(setup: EdgeSetup) -> None:
    await setup.node.stop()
    await setup.control_plane.stop()


@pytest.fixture
async def edge(make_edge: MakeEdge) -> EdgeSetup:
    """Return a setup whose node is started."""
    setup = await make_edge()
    await setup.node.start()
    return setup
