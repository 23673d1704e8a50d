"""One broker and one PostgreSQL for the folder's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.cluster import LocalCluster, local_cluster


@pytest.fixture(scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    async with local_cluster(tmp_path_factory.mktemp("delivery"), ["config"]) as cluster:
        yield cluster
