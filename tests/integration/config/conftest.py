"""One broker, one PostgreSQL and one config process for the folder; tests use domains of their
own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.config.harness import Stage, stage


@pytest.fixture(scope="package")
async def staged(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("config")) as built:
        await built.start()
        yield built
