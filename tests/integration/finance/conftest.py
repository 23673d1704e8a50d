"""A harness of their own: these tests write to the database, past every batch.

An audit reports that. Billing's clock stands at NOW, so that tests can name dates that are never
too old.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.billing.harness import BillingHarness, billing_harness
from tests.integration.finance.made_months import set_clock


@pytest.fixture(scope="package")
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BillingHarness]:
    async with billing_harness(tmp_path_factory.mktemp("finance")) as harness:
        set_clock(harness)
        await harness.start()
        yield harness
