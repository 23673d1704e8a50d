"""What the environment names is used instead of started; and what every child is told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clients.fleet.keys import NODE_KEY, NODE_SEED
from deploy.embedded.keys import Keys
from deploy.embedded.ports import HOST
from deploy.embedded.supervisor import Spec, base_environment, python
from shared.private_files import private_folder

SERVICES: Final = ("validator", "config", "edge_sync", "billing")
DATABASES: Final = ("config", "edge_sync", "billing")
_SERVICE_RANK, _NGINX_RANK, _AGENT_RANK = 2, 3, 4


@dataclass(frozen=True)
class Given:
    """``EDGETLS_NATS_URL``, ``EDGETLS_<SERVICE>_DSN``, ``EDGETLS_FINANCE_DSN`` (told in run.json,
    else unused), ``EDGETLS_TRUST_ROOTS_FILE`` and ``EDGETLS_LOG_LEVEL``."""

    nats_url: str | None
    dsns: Mapping[str, str]
    trust_roots: Path | None
    log_level: str
    finance_dsn: str | None = None

    @classmethod
    def read(cls) -> Given:
        named = {name: os.environ.get(f"EDGETLS_{name.upper()}_DSN", "") for name in DATABASES}
        roots = os.environ.get("EDGETLS_TRUST_ROOTS_FILE")
        return cls(
            nats_url=os.environ.get("EDGETLS_NATS_URL") or None,
            dsns={name: dsn for name, dsn in named.items() if dsn},
            trust_roots=Path(roots).resolve() if roots else None,
            log_level=os.environ.get("EDGETLS_LOG_LEVEL") or "info",
            finance_dsn=os.environ.get("EDGETLS_FINANCE_DSN") or None,
        )


@dataclass(frozen=True)
class Node:
    """One edge node of this machine and its two ports."""

    id: str
    https_port: int
    http_port: int

    @property
    def https(self) -> str:
        return f"{HOST}:{self.https_port}"

    @property
    def http(self) -> str:
        return f"{HOST}:{self.http_port}"


@dataclass(frozen=True)
class Children:
    """Builds the Spec of each service and node. ``clock``: the file of the test clock, or None."""

    data: Path
    keys: Keys
    nats_url: str
    dsns: Mapping[str, str]
    log_level: str
    clock: Path | None = None

    def service(self, service: str, name: str, health_port: int) -> Spec:
        """``name``: the service's, or one of its replicas'."""
        own = {
            "NATS_SEED_FILE": self.keys.seed(service),
            "HEALTH_PORT": health_port,
            "LOG_LEVEL": self.log_level,
            "EMBEDDED": "true",
            **self._common(),
        }
        if self.clock is not None:
            own["TEST_CLOCK"] = self.clock
        if service in DATABASES:
            own[f"{service.upper()}_DSN"] = self.dsns[service]
        if service == "config":
            own["ALLOW_PRIVATE_ORIGINS"] = "true"
        elif service == "validator":
            own["SUBMISSION_PRIVATE_KEY_FILE"] = self.keys.submission_private
            own["TRUST_ROOTS_FILE"] = self.keys.trust_roots
        if service != "config":
            own[f"{service.upper()}_SIGNING_KEY_FILE"] = self.keys.signer(service)
        return self._spec(name, python(f"services.{service}"), own, self.data, _SERVICE_RANK)

    def node(self, node: Node) -> tuple[Spec, Spec]:
        """nginx and the agent."""
        folder = private_folder(self.data / "nodes" / node.id)
        keys = self.keys.node_folder(node.id)
        own = {
            "NODE_ID": node.id,
            "NODE_FOLDER": folder,
            "NODE_PRIVATE_KEY_FILE": keys / NODE_KEY,
            "NODE_HTTPS": node.https,
            "NODE_HTTP": node.http,
            "NATS_SEED_FILE": keys / NODE_SEED,
            "ALLOW_PRIVATE_ORIGINS": "true",
            "LOG_LEVEL": self.log_level,
            **self._common(),
        }
        nginx, agent = (python("clients.edge_node", part) for part in ("nginx", "agent"))
        return (
            self._spec(f"{node.id}-nginx", nginx, own, folder, _NGINX_RANK),
            self._spec(f"{node.id}-agent", agent, own, folder, _AGENT_RANK),
        )

    def _common(self) -> dict[str, object]:
        return {
            "NATS_URL": self.nats_url,
            "OPERATOR_KEY_FILE": self.keys.operator_public,
            "TRUST_FILE": self.keys.trust,
        }

    @staticmethod
    def _spec(
        name: str, argv: tuple[str, ...], own: Mapping[str, object], cwd: Path, rank: int
    ) -> Spec:
        environment = {
            **base_environment(),
            **{f"EDGETLS_{key}": str(value) for key, value in own.items()},
        }
        return Spec(name, argv, environment, cwd, rank)
