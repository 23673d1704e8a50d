"""Each test gets a broker with the real rights, a fake control plane, and a node in processes."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from clients.fleet.keys import ensure_node
from shared import subjects as s
from shared.contracts.base import Signed
from tests.integration.edge_agent.control_plane import BrokerProcess, FakeControlPlane
from tests.integration.edge_agent.node_processes import NODE_ID, NodeProcesses
from tests.integration.edge_agent.signers import FleetSigners
from tests.support.pki import Authority, Leaf


@dataclass
class EdgeSetup:
    """A node with all that it talks to.

    ``control_plane`` is another object after a restart of the broker."""

    signers: FleetSigners
    broker: BrokerProcess
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
        return self.signers.sign_enrolment(NODE_ID, ensure_node(self.node.base / "keys"))

    async def restart_broker(self) -> None:
        """Restart the broker; the new control plane has the old one's digest and confirmed ends."""
        await self.control_plane.stop()
        self.broker.stop()
        await self.broker.start()
        before = self.control_plane
        self.control_plane = FakeControlPlane(
            self.signers,
            await self.broker.login("edge_sync"),
            await self.broker.login("billing"),
            digest=before.digest,
            pages=before.pages,
            confirmed_ends=before.confirmed_ends,
        )

    async def restart_broker_while_agent_sleeps(self) -> None:
        """Stop the agent's process with SIGSTOP and restart the broker.

        The agent hears nothing live that is put until `wake_agent`: its connection is lost."""
        self.node.running["agent"].send_signal(signal.SIGSTOP)
        await self.restart_broker()
        self.control_plane.silent = True
        await self.control_plane.start()

    def wake_agent(self) -> None:
        self.node.running["agent"].send_signal(signal.SIGCONT)


MakeEdge = Callable[..., Awaitable[EdgeSetup]]


@pytest.fixture
async def make_edge(tmp_path: Path) -> AsyncIterator[MakeEdge]:
    """Return a function that makes the setup; its node is not started."""
    setups: list[EdgeSetup] = []

    async def make(*, enrolled: bool = True, **settings: str) -> EdgeSetup:
        signers = FleetSigners.create(tmp_path)
        credentials = ensure_node(tmp_path / "keys")
        broker = BrokerProcess.create(tmp_path, {NODE_ID: credentials.nkey})
        await broker.start()
        trust = signers.sign_trust().encode().decode()
        node = NodeProcesses.create(
            tmp_path, broker.broker.url, signers.operator_key(), trust, **settings
        )
        control_plane = FakeControlPlane(
            signers, await broker.login("edge_sync"), await broker.login("billing")
        )
        await control_plane.start()
        if enrolled:
            keyring = signers.sign_enrolment(NODE_ID, credentials)
            await control_plane.put_keyring(s.keyring_node(NODE_ID), keyring)
        setups.append(EdgeSetup(signers, broker, control_plane, node, Authority.create()))
        return setups[-1]

    yield make
    for setup in setups:
        setup.node.stop()
        await setup.control_plane.stop()
        setup.broker.stop()


@pytest.fixture
async def edge(make_edge: MakeEdge) -> EdgeSetup:
    """Return a setup whose node is started."""
    setup = await make_edge()
    setup.node.start()
    return setup
