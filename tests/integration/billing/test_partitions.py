from __future__ import annotations

from datetime import UTC, datetime

from services.billing.store.partitions import Partitions, drop_old
from tests.integration.billing.harness import Stage

_NAMES = "select relname from pg_class where relname like 'batch_archive_2%' and relkind = 'r'"


async def test_a_month_is_made_once_and_dropped_after_thirteen(staged: Stage) -> None:
    for month in (datetime(2023, 12, 31, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)):
        for _ in range(2):
            await Partitions(staged.database).ensure(month)
    async with staged.database.acquire() as connection:
        assert await drop_old(connection, datetime(2025, 1, 31, tzinfo=UTC)) == []
        assert await drop_old(connection, datetime(2025, 2, 1, tzinfo=UTC)) == ["batch_archive_202312"]
        assert "batch_archive_202401" in {row["relname"] for row in await connection.fetch(_NAMES)}
        await drop_old(connection, datetime(2026, 3, 1, tzinfo=UTC))
