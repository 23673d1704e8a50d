"""The program ``python -m clients.edge_node nginx``: prepare the node's folder and become nginx."""

from __future__ import annotations

import errno
import os
import resource
import socket

from clients.edge_node.nginx.process import (
    ListenAddress,
    NginxError,
    NginxLayout,
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
    for address in (*layout.https, *layout.http):
        _check_port_free(address)
    _check_port_free(layout.resolver_address, socket.SOCK_DGRAM)
    _set_limits()
    os.chdir(layout.folder)
    command = nginx_command(layout)
    os.execv(command[0], command)  # noqa: S606 - becoming nginx is the purpose


def _check_port_free(address: ListenAddress, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
    """Raise NginxError when another program has the port.

    nginx itself would log this six times over three seconds, without saying what to do."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        # A port whose last connections are in TIME_WAIT is free for a server: nginx sets this too.
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Beside it, 0.0.0.0 may have the same port: nginx sets this too.
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(address)
        except OSError as error:
            reason = f"cannot be taken ({error.strerror})"
            if error.errno == errno.EADDRINUSE:
                reason = "is in use"
            what = str(address)
            if kind == socket.SOCK_DGRAM:
                what += " (UDP, for nginx's own resolver)"
            raise NginxError(f"{what} {reason}: free it or name another") from None


def _set_limits() -> None:
    """Allow this process and the nginx that it becomes many files and no core dumps.

    A visitor takes four descriptors (stream, its unix pair, origin), so the usual soft limit of
    1,024 is soon used up. The memory of nginx holds keys."""
    _, hard_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_files, hard_files))
    _, hard_core = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard_core))
