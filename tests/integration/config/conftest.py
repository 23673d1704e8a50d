"""One broker, one PostgreSQL and one config process for the folder; tests use domains of their
own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.config.harness import ConfigHarness, config_harness


@pytest.fixture(scope="package")
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ConfigHarness]:
    async with config_harness(tmp_path_factory.mktemp("config")) as harness:
        await harness.start()
        yield harness
