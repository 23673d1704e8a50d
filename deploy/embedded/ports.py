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


class Ports:
    """``file``: JSON of name -> port."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}

    def pick(self, name: str, wanted: int | None = None) -> int:
        """The remembered port, or a new one when it is busy. ``wanted`` is taken or refused:
        PlatformError."""
        if wanted is not None:
            if not _free(wanted):
                raise PlatformError(
                    f"port {wanted} for {name} is busy on {HOST}: free it or name another"
                )
            port = wanted
        else:
            port = self._known.get(name, 0)
            if not (port and _free(port)):
                port = self._new()
        if self._known.get(name) != port:
            self._known[name] = port
            write_private(self._file, json.dumps(self._known, indent=1) + "\n")
        return port

    def _new(self) -> int:
        """Below the kernel's ephemeral range: an outgoing connection must not take it while its
        server restarts."""
        try:
            highest = int(_EPHEMERAL.read_text().split()[0])
        except (OSError, ValueError, IndexError):
            highest = 32_768
        if highest < _LOWEST + 1000:
            highest = 65_536
        taken = set(self._known.values())
        for port in random.sample(range(_LOWEST, highest), min(2000, highest - _LOWEST)):
            if port not in taken and _free(port):
                return port
        raise PlatformError(f"no free port on {HOST} from {_LOWEST} to {highest - 1}")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # A port whose last connections are in TIME_WAIT is free for a server: servers set this too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return False
        return True
