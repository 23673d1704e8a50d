"""Ports on loopback, picked once and remembered, so that a restart and a second ``up`` use the
same."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path
from typing import Final

from deploy.embedded.errors import PlatformError
from shared.private_files import write_private

HOST: Final = "127.0.0.1"
_LOWEST: Final = 20_000
_EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_EPHEMERAL_START: Final = 32_768


class Ports:
    """The ports of one data folder. ``file``: JSON of name -> port."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, int] = {}
        if file.exists():
            self._known = json.loads(file.read_text())

    def pick(self, name: str, wanted: int | None = None) -> int:
        """Return the remembered port of ``name``, or a new one when that is busy.

        ``wanted``: this port and no other; PlatformError when it is busy."""
        if wanted is not None:
            if not _is_free(wanted):
                raise PlatformError(
                    f"port {wanted} for {name} is busy on {HOST}: free it or name another"
                )
            port = wanted
        else:
            port = self._known.get(name, 0)
            if not (port and _is_free(port)):
                port = self._find_free_port()
        if self._known.get(name) != port:
            self._known[name] = port
            write_private(self._file, json.dumps(self._known, indent=1) + "\n")
        return port

    def _find_free_port(self) -> int:
        # Below the kernel's ephemeral range: an outgoing connection must not take the port while
        # its server restarts.
        try:
            highest = int(_EPHEMERAL.read_text().split()[0])
        except (OSError, ValueError, IndexError):
            highest = _USUAL_EPHEMERAL_START
        if highest < _LOWEST + 1000:
            highest = 65_536
        taken = set(self._known.values())
        for port in random.sample(range(_LOWEST, highest), min(2000, highest - _LOWEST)):
            if port not in taken and _is_free(port):
                return port
        raise PlatformError(f"no free port on {HOST} from {_LOWEST} to {highest - 1}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # A port whose last connections are in TIME_WAIT is free for a server: servers set this too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return False
        return True
