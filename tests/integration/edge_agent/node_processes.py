"""A node as it runs in production: nginx and the agent, two processes, in a folder of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from clients.edge_node.nginx.handshake import get_served_leaf
from clients.fleet.keys import NODE_KEY, NODE_SEED
from deploy.embedded.ports import HOST, Ports
from tests.support.pki import Leaf
from tests.support.waiting import until

NODE_ID = "node-1"


@dataclass
class NodeProcesses:
    """The two processes of one node.

    ``environment`` is all that they get. Their logs are nginx.log and agent.log in ``base``."""

    base: Path
    environment: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @classmethod
    def create(
        cls, base: Path, broker_url: str, operator_key: str, trust: str, **settings: str
    ) -> NodeProcesses:
        """Write the node's files. Its credentials are in ``base``/keys already."""
        ports = Ports(base / "ports.json")
        (base / "operator.pub").write_text(operator_key)
        (base / "trust.json").write_text(trust)
        own = {
            "NODE_ID": NODE_ID,
            "NODE_FOLDER": base / "node",
            "NODE_PRIVATE_KEY_FILE": base / "keys" / NODE_KEY,
            "NATS_SEED_FILE": base / "keys" / NODE_SEED,
            "NATS_URL": broker_url,
            "NGINX_WORKERS": 2,
            "NODE_HTTPS": f"{HOST}:{ports.pick('https')}",
            "NODE_HTTP": f"{HOST}:{ports.pick('http')}",
            "OPERATOR_KEY_FILE": base / "operator.pub",
            "TRUST_FILE": base / "trust.json",
            "ALLOW_PRIVATE_ORIGINS": "true",
            "LOG_LEVEL": "info",
        }
        environment = {"PYTHONPATH": str(Path(__file__).parents[3])}
        for name in ("PATH", "HOME", "LANG"):
            if name in os.environ:
                environment[name] = os.environ[name]
        for name, value in {**own, **settings}.items():
            environment[f"EDGETLS_{name}"] = str(value)
        return cls(base, environment)

    @property
    def folder(self) -> Path:
        return self.base / "node"

    @property
    def https_port(self) -> int:
        return int(self.environment["EDGETLS_NODE_HTTPS"].rpartition(":")[2])

    def start(self, *programs: str) -> None:
        for program in programs or ("nginx", "agent"):
            with (self.base / f"{program}.log").open("ab") as log:
                self.running[program] = subprocess.Popen(
                    [sys.executable, "-m", "clients.edge_node", program],
                    env=self.environment,
                    cwd=self.base,
                    stdout=log,
                    stderr=log,
                )

    def stop(self, *programs: str, number: int = signal.SIGTERM) -> None:
        for program in programs or ("agent", "nginx"):
            process = self.running.pop(program, None)
            if process is not None and process.poll() is None:
                process.send_signal(number)
                process.wait(10)

    def read_log(self, program: str) -> str:
        return (self.base / f"{program}.log").read_text()

    def read_files(self) -> list[bytes]:
        """Return the content of every file in the node's folder."""
        contents = []
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                contents.append(path.read_bytes())
        return contents

    async def served_leaf(self, name: str) -> str | None:
        """Return the leaf that a handshake gets; None when refused, or without nginx."""
        try:
            return await get_served_leaf(HOST, self.https_port, name)
        except OSError:
            return None

    async def wait_until_served(self, name: str, leaf: Leaf | None, *, limit: float = 15) -> None:
        """Wait until ``name`` is served with ``leaf``, or refused when that is None."""
        wanted = leaf.fingerprint if leaf else None

        async def is_served() -> bool:
            return await self.served_leaf(name) == wanted

        what = f"{name} is served with the leaf" if leaf else f"{name} is refused"
        await until(is_served, what, limit=limit)
