"""One broker, one PostgreSQL and one billing process for the folder.

Each test uses names of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.billing.harness import Stage, stage


@pytest.fixture(scope="package")
async def staged(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("billing")) as built:
        await built.start()
        yield built
