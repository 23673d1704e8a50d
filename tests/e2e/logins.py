"""Log in as any user of a running platform: a service, a node, an operator."""

from __future__ import annotations

from contextlib import AsyncExitStack

from nats.aio.client import Client

from clients.fleet.keys import NODE_SEED
from deploy.embedded import nats
from deploy.embedded.keys import seed_file
from deploy.embedded.platform import EmbeddedPlatform


class Logins:
    """One connection for each user that is asked for, closed with the stack."""

    def __init__(self, platform: EmbeddedPlatform, stack: AsyncExitStack) -> None:
        self._platform = platform
        self._stack = stack
        self._clients: dict[str, Client] = {}

    async def __call__(self, user: str) -> Client:
        """Return the connection of a user of the topology or of ``node-<id>``."""
        if user not in self._clients:
            data = self._platform.data
            node = user.removeprefix("node-")
            if node == user:
                seed = seed_file(data, user)
            else:
                seed = data / "keys" / "nodes" / node / NODE_SEED
            client = await nats.login(self._platform.run["nats_url"], user, seed)
            self._stack.push_async_callback(client.close)
            self._clients[user] = client
        return self._clients[user]
