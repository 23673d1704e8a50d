"""One embedded platform for all end-to-end tests, and the command line as a person runs it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clients.platform import Platform as Client
from clients.platform import connect
from deploy.demo.visitors.handshakes import Endpoint
from deploy.embedded.dev_ca import DevCa
from deploy.embedded.down import stop_platform
from deploy.embedded.platform import EmbeddedPlatform
from tests.e2e.logins import Logins

ACCOUNT = "e2e"
NODES = 2


@pytest.fixture(scope="session", autouse=True)
def outage_from_the_start(outage_in_the_background: None) -> None:
    """These tests take the three minutes that it needs."""


@pytest.fixture(scope="session")
async def platform(scratch: Path) -> AsyncIterator[EmbeddedPlatform]:
    running = EmbeddedPlatform(scratch / "data", nodes=NODES)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def customer(platform: EmbeddedPlatform) -> AsyncIterator[Client]:
    """Another platform service."""
    run = platform.run
    seed, key = Path(run["credentials"]["platform"]), Path(run["submission_key"])
    async with await connect(run["nats_url"], seed, key) as client:
        yield client


@pytest.fixture
async def login(platform: EmbeddedPlatform) -> AsyncIterator[Logins]:
    async with AsyncExitStack() as stack:
        yield Logins(platform, stack)


@pytest.fixture
def ca(platform: EmbeddedPlatform) -> DevCa:
    return DevCa.load(Path(platform.run["trust_roots"]).parent)


@pytest.fixture
def nodes(platform: EmbeddedPlatform) -> list[Endpoint]:
    return [Endpoint.parse(node["id"], node["https"]) for node in platform.run["nodes"]]


@dataclass(frozen=True)
class Done:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Edgetls:
    """``edgetls`` in a process of its own."""

    def __init__(self, data: Path, account: str = ACCOUNT) -> None:
        self._data = data
        self._account = account

    async def __call__(self, *words: str, limit: float = 60) -> Done:
        account = [] if "--account" in words else ["--account", self._account]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "clients.cli.main",
            *words,
            "--data",
            str(self._data),
            *account,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), limit)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        return Done(process.returncode or 0, out.decode(), err.decode())


@pytest.fixture
async def other_data(scratch: Path) -> AsyncIterator[Path]:
    """Of a platform that a test starts by itself."""
    folder = scratch / "other"
    yield folder
    if folder.exists():
        await asyncio.to_thread(stop_platform, folder)


@pytest.fixture
def edgetls(platform: EmbeddedPlatform) -> Edgetls:
    return Edgetls(platform.data)
