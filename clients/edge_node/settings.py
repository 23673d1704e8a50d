"""Settings of the node's two programs: ``EDGETLS_<NAME>`` in the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from clients.edge_node.nginx import NginxLayout
from shared.contracts.base import NodeId
from shared.settings import BrokerSettings


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("not host:port")
    return value


def split(value: str) -> tuple[str, int]:
    """``host:port``, an IPv6 host in brackets."""
    host, _, port = value.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


Listen = Annotated[str, AfterValidator(_host_and_port)]


class NginxSettings(BaseSettings):
    """Of both programs. ``node_https``, ``node_http``: where nginx listens; ``origin_ca_file`` verifies https origins
    (Mozilla's roots without it); ``entry_zone_mb``: memory for certificates, about 5 KB a pair."""

    model_config = SettingsConfigDict(env_prefix="EDGETLS_", extra="ignore", hide_input_in_errors=True)

    node_id: NodeId
    node_folder: Path
    node_https: Listen
    node_http: Listen
    origin_ca_file: Path | None = None
    entry_zone_mb: Annotated[int, Field(ge=1)] = 64
    nginx_workers: Annotated[int, Field(ge=0)] = 0

    def layout(self) -> NginxLayout:
        https_host, https_port = split(self.node_https)
        http_host, http_port = split(self.node_http)
        return NginxLayout(
            folder=self.node_folder, https_host=https_host, https_port=https_port,
            http_host=http_host, http_port=http_port, entry_zone_mb=self.entry_zone_mb,
            origin_ca_file=self.origin_ca_file, workers=self.nginx_workers,
        )


class NodeSettings(NginxSettings, BrokerSettings):
    """Of the agent. ``node_private_key_file``: the node's HPKE key; ``usage_log_bytes``: a log is rotated above it;
    ``health_port``: none is opened without it, 0 picks a free one."""

    node_private_key_file: Path
    operator_key_file: Path
    trust_file: Path
    allow_private_origins: bool = False
    usage_log_bytes: Annotated[int, Field(ge=4096)] = 64 * 1024 * 1024
    log_level: str = "info"
    health_host: str = "127.0.0.1"
    health_port: int | None = None

    @property
    def user(self) -> str:
        """The node's NATS user."""
        return f"node-{self.node_id}"
