from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.backend import Backend, backend


@pytest.fixture(scope="session")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    folder: Path = tmp_path_factory.mktemp("delivery")
    async with backend(folder, ("config",)) as made:
        yield made
