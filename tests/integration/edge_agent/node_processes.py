"""A node as it runs in production: nginx and the agent, two processes, in a folder of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clients.edge_node.nginx.handshake import get_served_leaf
from clients.fleet.keys import NODE_KEY
from deploy.embedded.ports import HOST, Ports
from tests.support.pki import Leaf
from tests.support.service_process import ServiceProcess, program_spec
from tests.support.trust import PlatformSigners
from tests.support.waiting import until

NODE_ID = "node-1"
PROGRAMS = ("nginx", "agent")


@dataclass
class NodeProcesses:
    """The two processes of one node, by name. ``folder``: what they keep."""

    folder: Path
    https_port: int
    http_port: int
    health_port: int
    processes: dict[str, ServiceProcess] = field(default_factory=dict)

    @classmethod
    def create(cls, keys: PlatformSigners, broker_url: str, **settings: str) -> NodeProcesses:
        """Describe the node's processes; start none. Its credentials are among the keys."""
        base, files = keys.files.data, keys.files
        ports = Ports(base / "node-ports.json")
        node = cls(base / "node", ports.pick("https"), ports.pick("http"), ports.pick("health"))
        shared: dict[str, object] = {
            "NODE_ID": NODE_ID,
            "NODE_FOLDER": node.folder,
            "NODE_PRIVATE_KEY_FILE": files.node_folder(NODE_ID) / NODE_KEY,
            "NATS_SEED_FILE": keys.seed(f"node-{NODE_ID}"),
            "NATS_URL": broker_url,
            "NGINX_WORKERS": 2,
            "NODE_HTTPS": f"{HOST}:{node.https_port}",
            "NODE_HTTP": f"{HOST}:{node.http_port}",
            "OPERATOR_KEY_FILE": files.operator_public,
            "TRUST_FILE": files.trust,
            "ALLOW_PRIVATE_ORIGINS": "true",
            "LOG_LEVEL": "info",
            **settings,
        }
        for program in PROGRAMS:
            own = dict(shared)
            if program == "agent":
                own["HEALTH_PORT"] = node.health_port
            spec = program_spec(program, "clients.edge_node", program, settings=own, folder=base)
            node.processes[program] = ServiceProcess(spec, base, health_port=node.health_port)
        return node

    @property
    def agent(self) -> ServiceProcess:
        return self.processes["agent"]

    async def start(self, *programs: str) -> None:
        """Start both, or these."""
        for program in programs or PROGRAMS:
            await self.processes[program].start()

    async def stop(self, *programs: str) -> None:
        """Stop both, or these, as far as they run."""
        for program in programs or reversed(PROGRAMS):
            await self.processes[program].stop()

    async def crash(self, *programs: str) -> None:
        """Kill both, or these; what they leave behind lives on."""
        for program in programs or reversed(PROGRAMS):
            await self.processes[program].kill_and_wait()

    def read_log(self, program: str) -> str:
        return self.processes[program].log_file.read_text()

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

    async def wait_until_served(self, name: str, leaf: Leaf | None) -> None:
        """Wait until ``name`` is served with ``leaf``, or refused when that is None."""
        wanted = leaf.fingerprint if leaf else None

        async def is_served() -> bool:
            return await self.served_leaf(name) == wanted

        what = f"{name} is served with the leaf" if leaf else f"{name} is refused"
        await until(is_served, what)
