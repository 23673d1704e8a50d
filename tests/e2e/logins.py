"""Logging in as anybody: what a test does in the place of a service, a node or an operator."""

from __future__ import annotations

from contextlib import AsyncExitStack

from nats.aio.client import Client

from clients.fleet.keys import NODE_SEED
from deploy.embedded import nats
from deploy.embedded.keys import seed_file
from deploy.embedded.platform import EmbeddedPlatform


class Logins:
    """Clients as any user of the platform, closed at the end."""

    def __init__(self, platform: EmbeddedPlatform, stack: AsyncExitStack) -> None:
        self._platform, self._stack = platform, stack
        self._known: dict[str, Client] = {}

    async def __call__(self, user: str) -> Client:
        if user not in self._known:
            data = self._platform.data
            node = user.removeprefix("node-")
            seed = (
                seed_file(data, user)
                if node == user
                else data / "keys" / "nodes" / node / NODE_SEED
            )
            client = await nats.login(self._platform.run["nats_url"], user, seed)
            self._stack.push_async_callback(client.close)
            self._known[user] = client
        return self._known[user]
