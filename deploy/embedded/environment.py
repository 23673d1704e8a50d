"""Settings that the environment gives to the platform, and the settings that the platform gives to
each child."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clients.fleet.keys import NODE_KEY, NODE_SEED
from deploy.embedded.keys import PlatformKeys
from deploy.embedded.launch import base_environment, python_command
from deploy.embedded.ports import HOST
from deploy.embedded.supervisor import ProcessSpec
from shared.private_files import private_folder

SERVICES: Final = ("validator", "config", "edge_sync", "billing")
DATABASES: Final = ("config", "edge_sync", "billing")
# Children stop from the highest rank to the lowest; NATS has 0, PostgreSQL 1. An agent stops
# before its nginx, whose last log lines it sends after the next start.
_SERVICE_RANK: Final = 2
_NGINX_RANK: Final = 3
_AGENT_RANK: Final = 4


@dataclass(frozen=True)
class EnvironmentSettings:
    """Settings of ``edgetls up`` from the environment; None where it does not name them.

    A broker (``EDGETLS_NATS_URL``) or database (``EDGETLS_<SERVICE>_DSN``) that is named is used
    instead of started. ``EDGETLS_FINANCE_DSN`` is only written to run.json. Besides:
    ``EDGETLS_TRUST_ROOTS_FILE`` and ``EDGETLS_LOG_LEVEL``."""

    nats_url: str | None
    dsns: Mapping[str, str]
    trust_roots: Path | None
    log_level: str
    finance_dsn: str | None = None

    @classmethod
    def read(cls) -> EnvironmentSettings:
        """Read them; an empty variable counts as not set."""
        dsns: dict[str, str] = {}
        for name in DATABASES:
            dsn = os.environ.get(f"EDGETLS_{name.upper()}_DSN")
            if dsn:
                dsns[name] = dsn
        roots = os.environ.get("EDGETLS_TRUST_ROOTS_FILE")
        return cls(
            nats_url=os.environ.get("EDGETLS_NATS_URL") or None,
            dsns=dsns,
            trust_roots=Path(roots).resolve() if roots else None,
            log_level=os.environ.get("EDGETLS_LOG_LEVEL") or "info",
            finance_dsn=os.environ.get("EDGETLS_FINANCE_DSN") or None,
        )


@dataclass(frozen=True)
class LocalNode:
    """An edge node of this machine and its two ports."""

    id: str
    https_port: int
    http_port: int

    @property
    def https(self) -> str:
        """``host:port`` for HTTPS."""
        return f"{HOST}:{self.https_port}"

    @property
    def http(self) -> str:
        """``host:port`` for HTTP."""
        return f"{HOST}:{self.http_port}"


@dataclass(frozen=True)
class SpecBuilder:
    """Builds the ``ProcessSpec`` of each service and node. ``clock``: file of the test clock."""

    data: Path
    keys: PlatformKeys
    nats_url: str
    dsns: Mapping[str, str]
    log_level: str
    clock: Path | None = None

    def service_spec(self, service: str, name: str, health_port: int) -> ProcessSpec:
        """Return the spec of a service. ``name``: of this process, which may be a replica."""
        settings = {
            "NATS_SEED_FILE": self.keys.seed(service),
            "HEALTH_PORT": health_port,
            "LOG_LEVEL": self.log_level,
            "EMBEDDED": "true",
            **self._common_settings(),
        }
        if self.clock is not None:
            settings["TEST_CLOCK"] = self.clock
        if service in DATABASES:
            settings[f"{service.upper()}_DSN"] = self.dsns[service]
        if service == "config":
            settings["ALLOW_PRIVATE_ORIGINS"] = "true"
        elif service == "validator":
            settings["SUBMISSION_PRIVATE_KEY_FILE"] = self.keys.submission_private
            settings["TRUST_ROOTS_FILE"] = self.keys.trust_roots
        # config signs nothing: nodes believe validator, edge_sync and billing only.
        if service != "config":
            settings[f"{service.upper()}_SIGNING_KEY_FILE"] = self.keys.signer(service)
        command = python_command(f"services.{service}")
        return _build_spec(name, command, settings, self.data, _SERVICE_RANK)

    def node_specs(self, node: LocalNode) -> tuple[ProcessSpec, ProcessSpec]:
        """Return the specs of a node's nginx and of its agent."""
        folder = private_folder(self.data / "nodes" / node.id)
        keys = self.keys.node_folder(node.id)
        settings = {
            "NODE_ID": node.id,
            "NODE_FOLDER": folder,
            "NODE_PRIVATE_KEY_FILE": keys / NODE_KEY,
            "NODE_HTTPS": node.https,
            "NODE_HTTP": node.http,
            "NATS_SEED_FILE": keys / NODE_SEED,
            "ALLOW_PRIVATE_ORIGINS": "true",
            "LOG_LEVEL": self.log_level,
            **self._common_settings(),
        }
        nginx = python_command("clients.edge_node", "nginx")
        agent = python_command("clients.edge_node", "agent")
        return (
            _build_spec(f"{node.id}-nginx", nginx, settings, folder, _NGINX_RANK),
            _build_spec(f"{node.id}-agent", agent, settings, folder, _AGENT_RANK),
        )

    def _common_settings(self) -> dict[str, object]:
        return {
            "NATS_URL": self.nats_url,
            "OPERATOR_KEY_FILE": self.keys.operator_public,
            "TRUST_FILE": self.keys.trust,
        }


def _build_spec(
    name: str, argv: tuple[str, ...], settings: Mapping[str, object], cwd: Path, rank: int
) -> ProcessSpec:
    environment = base_environment()
    for key, value in settings.items():
        environment[f"EDGETLS_{key}"] = str(value)
    return ProcessSpec(name, argv, environment, cwd, rank)
