"""The program ``python -m clients.edge_node nginx``: prepare the node's folder and become nginx."""

from __future__ import annotations

import errno
import os
import resource
import socket

from clients.edge_node.nginx.process import (
    NginxError,
    NginxLayout,
    listen_address,
    nginx_command,
    prepare_folder,
)
from clients.edge_node.usage.logs import UsageLogs


def prepare_node(layout: NginxLayout) -> None:
    """Make the folder ready for a start: configuration, usage log, nothing left from a crash.

    Raises NginxError if an nginx of this folder is running, or if a worker of a killed one does
    not end."""
    prepare_folder(layout)
    # After the old workers have ended: they would write to the log that is closed here.
    UsageLogs(layout.folder / "usage").ensure_current()


def exec_nginx(layout: NginxLayout) -> None:
    """Prepare the folder and become nginx, in the foreground. Does not return.

    Raises NginxError when nginx cannot run here."""
    prepare_node(layout)
    _check_port_free(layout.https_host, layout.https_port)
    _check_port_free(layout.http_host, layout.http_port)
    _check_port_free(*layout.resolver_address, kind=socket.SOCK_DGRAM)
    _set_limits()
    os.chdir(layout.folder)
    command = nginx_command(layout)
    os.execv(command[0], command)  # noqa: S606 - becoming nginx is the purpose


def _check_port_free(host: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
    """Raise NginxError when another program has the port.

    nginx itself would log this six times over three seconds, without saying what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        # A port whose last connections are in TIME_WAIT is free for a server: nginx sets this too.
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = f"cannot be taken ({error.strerror})"
            if error.errno == errno.EADDRINUSE:
                reason = "is in use"
            address = listen_address(host, port)
            if kind == socket.SOCK_DGRAM:
                address += " (UDP, for nginx's resolver)"
            raise NginxError(f"{address} {reason}: free it or name another") from None


def _set_limits() -> None:
    """Allow this process and the nginx that it becomes many files and no core dumps.

    A visitor takes four descriptors (stream, its unix pair, origin), so the usual soft limit of
    1,024 is soon used up. The memory of nginx holds keys."""
    _, hard_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_files, hard_files))
    _, hard_core = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard_core))
