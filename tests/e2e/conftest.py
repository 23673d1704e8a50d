"""One embedded platform for all end-to-end tests; each uses domains of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from clients.platform import Platform as Client
from deploy.embedded.dev_ca import DevCa
from deploy.embedded.down import stop_platform
from deploy.embedded.platform import EmbeddedPlatform
from tests.e2e.logins import Logins
from tests.faults.broker_outage import BrokerOutage
from tests.support.browser import NodeAddress
from tests.support.command_line import DEFAULT_ACCOUNT, Edgetls
from tests.support.customer import connected_customer

ACCOUNT: Final = DEFAULT_ACCOUNT
NODES: Final = 2


@pytest.fixture(scope="session", autouse=True)
def outage_from_the_start(background_outage: BrokerOutage | Exception | None) -> None:
    """The outage of the fault tests passes while these tests run."""


@pytest.fixture(scope="session")
async def platform(scratch: Path) -> AsyncIterator[EmbeddedPlatform]:
    running = EmbeddedPlatform(scratch / "data", nodes=NODES)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def customer(platform: EmbeddedPlatform) -> AsyncIterator[Client]:
    """Another platform service."""
    async with connected_customer(platform.run) as client:
        yield client


@pytest.fixture
async def login(platform: EmbeddedPlatform) -> AsyncIterator[Logins]:
    async with AsyncExitStack() as stack:
        yield Logins(platform, stack)


@pytest.fixture
def ca(platform: EmbeddedPlatform) -> DevCa:
    """The CA that visitors of the nodes trust."""
    return DevCa.load(Path(platform.run["trust_roots"]).parent)


@pytest.fixture
def nodes(platform: EmbeddedPlatform) -> list[NodeAddress]:
    """Where the nodes take HTTPS."""
    return [NodeAddress.parse(node["id"], node["https"]) for node in platform.run["nodes"]]


@pytest.fixture
def http_nodes(platform: EmbeddedPlatform) -> list[NodeAddress]:
    """Where the nodes take plain HTTP."""
    return [NodeAddress.parse(node["id"], node["http"]) for node in platform.run["nodes"]]


@pytest.fixture
async def other_data(scratch: Path) -> AsyncIterator[Path]:
    """The data folder of a platform that a test starts by itself."""
    folder = scratch / "other"
    yield folder
    if folder.exists():
        await asyncio.to_thread(stop_platform, folder)


@pytest.fixture
def edgetls(platform: EmbeddedPlatform) -> Edgetls:
    """The command line on the shared platform."""
    return Edgetls(platform.data)


@pytest.fixture(scope="session")
def trust_roots(platform: EmbeddedPlatform) -> Path:
    """The file of the roots that visitors of the nodes trust."""
    return Path(platform.run["trust_roots"])
