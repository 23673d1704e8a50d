"""A platform behind a proxy to its broker, and three minutes without it."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.embedded import nats
from deploy.embedded.keys import ensure_keys, ensure_nodes, seed_file
from deploy.embedded.lock import DataLock
from deploy.embedded.platform import EmbeddedPlatform
from deploy.embedded.ports import HOST, Ports
from deploy.embedded.supervisor import Supervisor
from shared.private_files import private_folder
from tests.faults.story import Story
from tests.support.proxy import CuttableProxy
from tests.support.waiting import until

SECONDS = 180.0
NODES = ["node-1", "node-2"]


@dataclass
class Outage:
    """``pids`` and ``used`` (processor seconds) by process, from before the cut; ``began``:
    monotonic."""

    platform: EmbeddedPlatform
    proxy: CuttableProxy
    story: Story
    pids: dict[str, int | None] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    began: float = 0.0

    def begin(self) -> None:
        self.pids = {name: self.platform.pid(name) for name in self.platform.names()}
        self.used = self.processor_seconds()
        self.proxy.cut()
        self.began = time.monotonic()

    def over(self) -> bool:
        return time.monotonic() - self.began >= SECONDS

    def processor_seconds(self) -> dict[str, float]:
        """User and system time of each process (proc(5))."""
        found = {}
        for name, pid in self.pids.items():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return found


@asynccontextmanager
async def behind_proxy(folder: Path) -> AsyncIterator[tuple[EmbeddedPlatform, CuttableProxy]]:
    """Services and nodes reach a broker of its own through a proxy, by EDGETLS_NATS_URL."""
    data = folder / "data"
    ports = Ports(folder / "ports.json")
    broker = nats.EmbeddedBroker(private_folder(data) / "nats", ports.pick("nats"), {})
    lock = DataLock(data)
    lock.acquire()
    keys = ensure_keys(data, broker.users_file, datetime.now(UTC))
    spec = nats.EmbeddedBroker(broker.folder, broker.port, keys.users).prepare()
    ensure_nodes(keys, NODES)
    lock.release()
    async with AsyncExitStack() as stack:
        supervisor = Supervisor(private_folder(folder / "broker"))
        stack.push_async_callback(supervisor.stop)
        await supervisor.start(spec)
        seed = seed_file(data, "topology")
        await until(lambda: nats.serves_jetstream(broker.url, seed), "the broker answers", limit=30)
        proxy = await stack.enter_async_context(
            CuttableProxy(HOST, ports.pick("proxy"), (HOST, broker.port))
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGETLS_NATS_URL", f"nats://{proxy.host}:{proxy.port}")
            platform = EmbeddedPlatform(data, nodes=len(NODES))
        stack.push_async_callback(platform.stop)
        await platform.start()
        yield platform, proxy


@asynccontextmanager
async def outage(folder: Path) -> AsyncIterator[Outage]:
    """The outage has begun when it is entered; whoever enters mends the proxy."""
    async with (
        behind_proxy(folder) as (platform, proxy),
        Story.on(platform, ["www.outage.test"]) as story,
    ):
        async with story.going_on():
            await story.each_replaced()
        await platform.wait_ready()
        made = Outage(platform, proxy, story)
        made.begin()
        yield made
