"""One running platform for several fault tests, of which each finds it healthy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deploy.embedded.errors import PlatformError
from deploy.embedded.platform import EmbeddedPlatform
from tests.faults.workload import count_dead_letters
from tests.support.waiting import LIMIT_SECONDS


class SharedPlatform:
    """Lends a platform that is healthy: every service ready, every node live, no dead letter.

    One that is not is stopped, and a new one is started in a new folder.
    """

    def __init__(self, folder: Path, nodes: int, replicas: Mapping[str, int]) -> None:
        self._folder = folder
        self._nodes = nodes
        self._replicas = replicas
        self._platform: EmbeddedPlatform | None = None
        self._started = 0

    async def healthy(self) -> EmbeddedPlatform:
        """Return the platform of before where it is healthy still, else a new one."""
        if self._platform is not None and not await _is_healthy(self._platform):
            await self.discard()
        if self._platform is None:
            self._started += 1
            data = self._folder / f"platform-{self._started}"
            platform = EmbeddedPlatform(data, nodes=self._nodes, replicas=self._replicas)
            await platform.start()
            self._platform = platform
        return self._platform

    async def discard(self) -> None:
        """Stop the platform; the next test gets a new one."""
        if self._platform is not None:
            await self._platform.stop()
            self._platform = None


async def _is_healthy(platform: EmbeddedPlatform) -> bool:
    try:
        await platform.wait_ready(LIMIT_SECONDS)
    except PlatformError:
        return False
    return await count_dead_letters(platform) == 0
