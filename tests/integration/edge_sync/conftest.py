"""One broker and one database for all tests of the folder, emptied for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.edge_sync.harness import NODES, EdgeSyncHarness
from tests.support.cluster import LocalCluster, local_cluster


@pytest.fixture(scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("edge_sync")
    async with local_cluster(folder, ["edge_sync"], NODES) as cluster:
        yield cluster


@pytest.fixture
async def harness(cluster: LocalCluster) -> AsyncIterator[EdgeSyncHarness]:
    harness = EdgeSyncHarness(cluster)
    await harness.start()
    yield harness
    await harness.stop()
