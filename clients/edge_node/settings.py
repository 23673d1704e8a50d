"""Settings of the node's two programs: ``EDGETLS_<NAME>`` in the environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from clients.edge_node.nginx.process import ListenAddress, NginxLayout
from shared.contracts.base import NodeId
from shared.settings import BrokerSettings, LogLevel

_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[0-9a-fA-F:.]+)\]|(?P<host>[\w.-]+)):(?P<port>\d{1,5})", re.A)


def _check_addresses(value: str) -> str:
    split_addresses(value)
    return value


def split_addresses(value: str) -> tuple[ListenAddress, ...]:
    """Split ``host:port`` or several with commas between; an IPv6 host loses its brackets.

    Raises ValueError."""
    addresses = []
    for item in value.split(","):
        match = _ADDRESS.fullmatch(item.strip())
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ValueError("not host:port, or several with commas between")
        address = ListenAddress(match["ipv6"] or match["host"], int(match["port"]))
        if address in addresses:
            raise ValueError(f"{address} is there twice")
        addresses.append(address)
    return tuple(addresses)


Addresses = Annotated[str, AfterValidator(_check_addresses)]
PublicPort = Annotated[int | None, Field(gt=0, lt=65536)]


class NginxSettings(BaseSettings):
    """The settings that both programs read."""

    model_config = SettingsConfigDict(
        env_prefix="EDGETLS_", extra="ignore", hide_input_in_errors=True
    )

    node_id: NodeId = Field(
        description="the node's id in the fleet: lower-case letters, digits, hyphens"
    )
    node_folder: Path = Field(
        description="folder of the node's replica, usage logs and nginx configuration"
    )
    node_https: Addresses = Field(
        description=(
            "addresses on which nginx listens for HTTPS: host:port, several with commas between "
            "(0.0.0.0:443,[::]:443 is both families)"
        )
    )
    node_http: Addresses = Field(
        description="addresses on which nginx listens for HTTP, in the same form"
    )
    public_https_port: PublicPort = Field(
        default=None,
        description=(
            "port at which visitors reach this node's HTTPS, which redirects name; without it, "
            "that of the first address listened on"
        ),
    )
    public_http_port: PublicPort = Field(default=None, description="the same for HTTP")
    origin_ca_file: Path | None = Field(
        default=None,
        description="PEM roots that verify https origins; without it, Mozilla's roots",
    )
    origin_connect_seconds: float = Field(
        default=5.0, gt=0, le=60, description="longest wait for a connection to an origin's address"
    )
    origin_read_seconds: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description=(
            "longest wait for the first byte of an origin's answer, and between two later ones"
        ),
    )
    origin_pools: int = Field(
        default=128,
        ge=0,
        le=256,
        description=(
            "origins whose connections are kept and used again; those that come later get a "
            "connection for each request, until nginx is restarted"
        ),
    )
    node_resolver_port: int | None = Field(
        default=None,
        gt=0,
        lt=65536,
        description=(
            "UDP port on 127.0.0.1 for nginx's own resolver; without it, the number of the HTTP "
            "port: two nodes with one number on a machine need two"
        ),
    )
    entry_zone_mb: int = Field(
        default=64, ge=1, description="MB of memory for certificates, about 5 KB a pair"
    )
    nginx_workers: int = Field(
        default=0, ge=0, description="nginx's worker processes; 0: one for each core"
    )

    def layout(self) -> NginxLayout:
        """Return the layout of the node's nginx."""
        return NginxLayout(
            folder=self.node_folder,
            https=split_addresses(self.node_https),
            http=split_addresses(self.node_http),
            public_https_port=self.public_https_port or 0,
            public_http_port=self.public_http_port or 0,
            entry_zone_mb=self.entry_zone_mb,
            origin_ca_file=self.origin_ca_file,
            origin_connect_seconds=self.origin_connect_seconds,
            origin_read_seconds=self.origin_read_seconds,
            origin_pools=self.origin_pools,
            resolver_port=self.node_resolver_port or 0,
            workers=self.nginx_workers,
        )


class NodeSettings(NginxSettings, BrokerSettings):
    """The settings of the agent."""

    node_private_key_file: Path = Field(description="the node's HPKE key, which opens its keyring")
    operator_key_file: Path = Field(
        description="the operator's public key, which everything else is trusted by"
    )
    trust_file: Path = Field(description="the trust document that the operator signed")
    allow_private_origins: bool = Field(
        default=False,
        description=(
            "fetch from origins at internal addresses: for tests and closed networks (rule A5)"
        ),
    )
    usage_log_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=4096,
        description="size in bytes at which a usage log is rotated",
    )
    log_level: LogLevel = Field(
        default="info", description="debug, info, warning, error or critical"
    )
    health_host: str = Field(
        default="127.0.0.1", description="address of /livez, /readyz and /metrics"
    )
    health_port: int | None = Field(
        default=None, description="their port; 0 picks a free one, none opens without it"
    )

    @property
    def user(self) -> str:
        """Return the node's NATS user."""
        return f"node-{self.node_id}"
