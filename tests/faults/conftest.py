"""The platform that is killed at, and the one without a broker meanwhile."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deploy.embedded.platform import Platform
from tests.faults.outage import Outage, outage
from tests.faults.story import Story


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """Outside pytest's folders: PostgreSQL runs as a user of its own there when the tests are root's."""
    folder = Path(tempfile.mkdtemp(prefix="edgetls-faults-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def broker_outage(scratch: Path) -> AsyncIterator[Outage]:
    async with outage(scratch / "outage") as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def outage_from_the_start(request: pytest.FixtureRequest) -> None:
    """Its three minutes pass while the other tests run."""
    if any("broker_outage" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("broker_outage")


@pytest.fixture(scope="session")
async def platform(scratch: Path) -> AsyncIterator[Platform]:
    running = Platform(scratch / "killed", nodes=2, replicas={"config": 2})
    await running.start()
    yield running
    await running.stop()


@pytest.fixture(scope="session")
async def story(platform: Platform) -> AsyncIterator[Story]:
    async with Story.on(platform, [f"www.fault-{number}.test" for number in range(3)]) as story:
        yield story
