"""The platforms that fault tests hurt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.embedded.platform import EmbeddedPlatform
from tests.conftest import CALL_FAILED
from tests.faults.broker_outage import BrokerOutage
from tests.faults.shared_platform import SharedPlatform
from tests.faults.workload import Workload


@pytest.fixture(scope="session", autouse=True)
def outage_from_the_start(background_outage: BrokerOutage | Exception | None) -> None:
    """Begin the outage here at the latest, when only these tests run."""


@pytest.fixture
def begun_outage(background_outage: BrokerOutage | Exception | None) -> BrokerOutage:
    if isinstance(background_outage, Exception):
        raise background_outage
    assert background_outage is not None
    return background_outage


@pytest.fixture(scope="session")
async def shared_platform(scratch: Path) -> AsyncIterator[SharedPlatform]:
    shared = SharedPlatform(scratch / "killed", nodes=2, replicas={"config": 2})
    yield shared
    await shared.discard()


@pytest.fixture
async def platform(
    shared_platform: SharedPlatform, request: pytest.FixtureRequest
) -> AsyncIterator[EmbeddedPlatform]:
    """A healthy platform; one on which a test failed is not given to the next."""
    yield await shared_platform.healthy()
    if request.node.stash.get(CALL_FAILED, True):
        await shared_platform.discard()


@pytest.fixture
async def workload(platform: EmbeddedPlatform) -> AsyncIterator[Workload]:
    async with Workload.prepare(platform, domain_count=3) as workload:
        yield workload
