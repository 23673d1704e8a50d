"""Each test has a broker with the real rights, a control plane that it plays, and a node in
processes."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from clients.fleet.keys import ensure_node
from shared import subjects as s
from shared.contracts.base import Signed
from tests.integration.edge_agent.control import BrokerProcess, Control
from tests.integration.edge_agent.rig import NODE, EdgeNode
from tests.integration.edge_agent.signing import Signers
from tests.support.pki import Authority, Leaf


@dataclass
class Stage:
    """``control`` is made anew when the broker was restarted."""

    signers: Signers
    broker: BrokerProcess
    control: Control
    node: EdgeNode
    authority: Authority

    def leaf(self, *names: str) -> Leaf:
        return self.authority.issue(list(names))

    async def https(self, domain: str, revision: int, **options: object) -> Leaf:
        """Puts an https bundle with a new leaf."""
        leaf = self.leaf(domain)
        await self.control.put(
            self.signers.bundle(domain, revision, self.signers.pair(domain, leaf), **options)
        )
        return leaf

    def enrolment(self) -> Signed:
        return self.signers.enrol(NODE, ensure_node(self.node.base / "keys"))

    async def restart_broker(self) -> None:
        """The control plane of before goes on with what it held."""
        await self.control.stop()
        self.broker.stop()
        await self.broker.start()
        before = self.control
        self.control = Control(
            self.signers,
            await self.broker.login("edge_sync"),
            await self.broker.login("billing"),
            digest=before.digest,
            held=before.held,
            stored=before.stored,
        )

    async def restart_broker_unheard(self) -> None:
        """Nothing that is put until ``agent_wakes`` reaches the agent live: its connection is lost
        meanwhile."""
        self.node.running["agent"].send_signal(signal.SIGSTOP)
        await self.restart_broker()
        self.control.silent = True
        await self.control.start()

    def agent_wakes(self) -> None:
        self.node.running["agent"].send_signal(signal.SIGCONT)


@pytest.fixture
async def make_stage(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Stage]]]:
    stages: list[Stage] = []

    async def make(*, enrolled: bool = True, **settings: str) -> Stage:
        signers = Signers.make(tmp_path)
        credentials = ensure_node(tmp_path / "keys")
        broker = BrokerProcess.make(tmp_path, {NODE: credentials.nkey})
        await broker.start()
        trust = signers.trust().encode().decode()
        node = EdgeNode.make(tmp_path, broker.broker.url, signers.operator_key(), trust, **settings)
        control = Control(signers, await broker.login("edge_sync"), await broker.login("billing"))
        await control.start()
        if enrolled:
            await control.put_keyring(s.keyring_node(NODE), signers.enrol(NODE, credentials))
        stages.append(Stage(signers, broker, control, node, Authority.create()))
        return stages[-1]

    yield make
    for stage in stages:
        stage.node.stop()
        await stage.control.stop()
        stage.broker.stop()


@pytest.fixture
async def stage(make_stage: Callable[..., Awaitable[Stage]]) -> Stage:
    made = await make_stage()
    made.node.start()
    return made
