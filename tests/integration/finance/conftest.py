"""A stage of their own: what these tests make in the database came through no batch, and an audit
would say so.

Billing's clock stands at NOW, so that dates can be written down and are not forgotten as too old
one day."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.billing.harness import Stage, stage
from tests.integration.finance.made_months import set_clock


@pytest.fixture(scope="package")
async def staged(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("finance")) as built:
        set_clock(built)
        await built.start()
        yield built
