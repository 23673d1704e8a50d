"""A platform behind a proxy to its broker, and three minutes without that broker."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from deploy.embedded import nats
from deploy.embedded.keys import ensure_keys, ensure_nodes, seed_file
from deploy.embedded.lock import DataLock
from deploy.embedded.platform import EmbeddedPlatform
from deploy.embedded.ports import HOST, Ports
from shared.private_files import private_folder
from tests.faults.workload import Workload
from tests.support.processor_time import processor_seconds
from tests.support.proxy import CuttableProxy
from tests.support.service_process import ServiceProcess
from tests.support.waiting import until

OUTAGE_SECONDS: Final = 180.0
_NODES: Final = ["node-1", "node-2"]


@dataclass
class BrokerOutage:
    """An outage that has begun; whoever takes it restores ``proxy``.

    ``pids`` and ``processor_before`` (seconds of processor time): of each process before the cut.
    """

    platform: EmbeddedPlatform
    proxy: CuttableProxy
    workload: Workload
    pids: dict[str, int | None] = field(default_factory=dict)
    processor_before: dict[str, float] = field(default_factory=dict)
    _began: float = 0.0

    def begin(self) -> None:
        self.pids = {name: self.platform.pid(name) for name in self.platform.names()}
        self.processor_before = self._processor_seconds()
        self.proxy.cut()
        self._began = time.monotonic()

    def is_long_enough(self) -> bool:
        return time.monotonic() - self._began >= OUTAGE_SECONDS

    def processor_seconds_spent(self) -> dict[str, float]:
        """Return the user and system time of each process since the cut."""
        spent = {}
        for name, seconds in self._processor_seconds().items():
            spent[name] = seconds - self.processor_before[name]
        return spent

    def _processor_seconds(self) -> dict[str, float]:
        return {name: processor_seconds(pid) for name, pid in self.pids.items() if pid}


@asynccontextmanager
async def platform_behind_proxy(
    folder: Path,
) -> AsyncIterator[tuple[EmbeddedPlatform, CuttableProxy]]:
    """Start a broker, a proxy to it, and a platform that knows the broker by the proxy alone."""
    data = folder / "data"
    ports = Ports(folder / "ports.json")
    broker = nats.EmbeddedBroker(private_folder(data) / "nats", ports.pick("nats"), {})
    lock = DataLock(data)
    lock.acquire()
    keys = ensure_keys(data, broker.users_file, datetime.now(UTC))
    spec = nats.EmbeddedBroker(broker.folder, broker.port, keys.users).prepare()
    process = ServiceProcess(spec, folder)
    ensure_nodes(keys, _NODES)
    lock.release()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(process.stop)
        await process.start()
        seed = seed_file(data, "topology")
        await until(lambda: nats.serves_jetstream(broker.url, seed), "the broker answers")
        proxy = await stack.enter_async_context(
            CuttableProxy(HOST, ports.pick("proxy"), (HOST, broker.port))
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGETLS_NATS_URL", f"nats://{proxy.host}:{proxy.port}")
            platform = EmbeddedPlatform(data, nodes=len(_NODES))
        stack.push_async_callback(platform.stop)
        await platform.start()
        yield platform, proxy


@asynccontextmanager
async def broker_outage(folder: Path) -> AsyncIterator[BrokerOutage]:
    """Start a platform with a workload and cut it off from its broker."""
    async with (
        platform_behind_proxy(folder) as (platform, proxy),
        Workload.prepare(platform, domain_count=1) as workload,
    ):
        async with workload.running():
            await workload.until_each_replaced()
        await platform.wait_ready()
        outage = BrokerOutage(platform, proxy, workload)
        outage.begin()
        yield outage
