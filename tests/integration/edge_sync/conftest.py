"""A broker and a database for all tests of the folder, emptied for each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.edge_sync.ground import Ground
from tests.integration.edge_sync.harness import World


@pytest.fixture(scope="session")
async def ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    ground = await Ground.start(tmp_path_factory.mktemp("edge_sync"))
    yield ground
    await ground.supervisor.stop()


@pytest.fixture
async def world(ground: Ground) -> AsyncIterator[World]:
    world = World(ground)
    await world.start()
    yield world
    await world.stop()
