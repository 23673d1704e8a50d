"""One broker and one database for all tests of the folder, emptied for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.edge_sync.harness import EdgeSyncStage
from tests.integration.edge_sync.infrastructure import Infrastructure


@pytest.fixture(scope="session")
async def infrastructure(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Infrastructure]:
    infrastructure = await Infrastructure.start(tmp_path_factory.mktemp("edge_sync"))
    yield infrastructure
    await infrastructure.supervisor.stop()


@pytest.fixture
async def stage(infrastructure: Infrastructure) -> AsyncIterator[EdgeSyncStage]:
    stage = EdgeSyncStage(infrastructure)
    await stage.start()
    yield stage
    await stage.stop()
