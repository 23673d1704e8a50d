"""One broker, one PostgreSQL and one billing process for the folder.

Each test uses names of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.billing.harness import BillingHarness, billing_harness


@pytest.fixture(scope="package")
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BillingHarness]:
    async with billing_harness(tmp_path_factory.mktemp("billing")) as harness:
        await harness.start()
        yield harness
