"""The platform that is killed at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.embedded.platform import EmbeddedPlatform
from tests.faults.story import Story


@pytest.fixture(scope="session", autouse=True)
def outage_from_the_start(outage_in_the_background: None) -> None:
    """At the latest here, when only these tests run."""


@pytest.fixture(scope="session")
async def platform(scratch: Path) -> AsyncIterator[EmbeddedPlatform]:
    running = EmbeddedPlatform(scratch / "killed", nodes=2, replicas={"config": 2})
    await running.start()
    yield running
    await running.stop()


@pytest.fixture(scope="session")
async def story(platform: EmbeddedPlatform) -> AsyncIterator[Story]:
    async with Story.on(platform, [f"www.fault-{number}.test" for number in range(3)]) as story:
        yield story
