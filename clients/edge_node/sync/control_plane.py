"""Keep the node connected to the control plane, and run its tasks on each connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from clients.edge_node.bundles.versions import BundleVersions
from clients.edge_node.settings import NodeSettings
from clients.edge_node.trust import NodeTrust
from shared.errors import BrokerAway, EdgetlsError, SettingsError
from shared.messaging.connection import connect
from shared.retry import run_together

log = structlog.get_logger()
_LOGIN_PAUSE_SECONDS = 5.0
_CLOSE_SECONDS = 2.0
_CLOSED_CHECK_SECONDS = 0.5

SessionTask = Callable[[Client], Coroutine[Any, Any, None]]
"""A task that runs as long as one connection to NATS."""


class ControlPlaneConnection:
    """The connection to NATS. ``tasks`` run on it, together, after the trust is refreshed."""

    def __init__(
        self,
        settings: NodeSettings,
        trust: NodeTrust,
        versions: BundleVersions,
        tasks: Sequence[SessionTask],
    ) -> None:
        self._settings = settings
        self._trust = trust
        self._versions = versions
        self._tasks = tasks

    async def run(self) -> None:
        """Connect, again and again. Returns never.

        Raises SettingsError when the login is refused and the node has nothing to serve. A node
        that has something to serve goes on and logs the refusal."""
        while True:
            try:
                await self._run_session()
            except SettingsError as error:
                if not len(self._versions):
                    raise
                log.error("broker.login_refused", error=str(error))
            except (NatsError, EdgetlsError, OSError, TimeoutError) as error:
                log.error("broker.session_ended", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(_LOGIN_PAUSE_SECONDS)

    async def _run_session(self) -> None:
        client = await connect(self._settings, self._settings.user, patient=True)
        try:
            await self._trust.refresh(client)
            running = [task(client) for task in self._tasks]
            await run_together(*running, _wait_until_closed(client))
        finally:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await client.close()


async def _wait_until_closed(client: Client) -> None:
    """Raise BrokerAway once the connection is closed for good."""
    while not client.is_closed:
        await asyncio.sleep(_CLOSED_CHECK_SECONDS)
    raise BrokerAway(
        "NATS closed the connection and gave no reason: check that this node's user still exists "
        "on the server"
    )
