"""The whole platform: started in order, watched, stopped in reverse."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from nats.aio.client import Client

from clients.fleet.keys import ensure_nkey
from deploy.embedded import nats, orphans, postgres
from deploy.embedded.enrolment import announce, repeat
from deploy.embedded.environment import DATABASES, SERVICES, Children, Given, Node
from deploy.embedded.errors import PlatformError
from deploy.embedded.keys import Keys, ensure_keys, ensure_nodes, node_names, seed_file
from deploy.embedded.lock import DataLock
from deploy.embedded.ports import HOST, Ports
from deploy.embedded.ready import fleet_view, last_line, node_fault, service_fault, until
from deploy.embedded.supervisor import Spec, Supervisor
from shared import topology
from shared.errors import Transient
from shared.private_files import private_folder, write_private

RUN_FILE: Final = "run.json"
START_SECONDS: Final = 60.0
_HOPELESS_DEATHS: Final = 5
_REPEAT_SECONDS: Final = 10.0
_USERS = ("platform", "operator", "finance", "topology", nats.SEARCHER.name)


class Platform:
    """``data``: made when missing; a second start continues with what it holds. ``replicas``:
    processes by service.

    ``nats_port``: this port or none. ``test_clock``: services read an offset in seconds from
    ``<data>/clock``.
    ``on_line``: told what happens, a line at a time. Start it in the main thread."""

    def __init__(
        self,
        data: Path,
        nodes: int = 3,
        replicas: Mapping[str, int] | None = None,
        on_line: Callable[[str], None] = lambda line: None,
        *,
        nats_port: int | None = None,
        test_clock: bool = False,
        start_seconds: float = START_SECONDS,
    ) -> None:
        self.data = data.resolve()
        self._node_count, self._replicas, self._on_line = nodes, dict(replicas or {}), on_line
        self._nats_port, self._test_clock, self._start_seconds = (
            nats_port,
            test_clock,
            start_seconds,
        )
        self._given = Given.read()
        self._lock = DataLock(self.data)
        self._supervisor = Supervisor(self.data, on_line)
        self._run: dict[str, Any] = {}
        self._health: dict[str, int] = {}
        self._nodes: list[Node] = []
        self._server: postgres.Postgres | None = None
        self._reload: asyncio.Task[None] | None = None

    @property
    def run(self) -> dict[str, Any]:
        """What ``run.json`` holds."""
        return self._run

    def names(self) -> list[str]:
        """``nats``, ``postgres``, the services (a replica is ``config-2``), ``node-1-nginx``,
        ``node-1-agent``…"""
        return self._supervisor.names()

    def pid(self, name: str) -> int | None:
        """None while it is down."""
        return self._supervisor.pid(name)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Signals that one process; it is started again when it dies of it."""
        self._supervisor.kill(name, number)

    def log(self, name: str) -> Path:
        return self._supervisor.log(name)

    async def start(self) -> None:
        """Everything, ready. PlatformError says in one line what is wrong; then all that had
        started is stopped."""
        began = time.monotonic()
        await self._acquire()
        try:
            await self._bring_up()
            await self.wait_ready(self._start_seconds)
        except BaseException:
            await self.stop()
            raise
        self._on_line(f"ready in {time.monotonic() - began:.1f} s")

    async def stop(self) -> None:
        """In reverse order; also when some of it died. Safe to call twice."""
        if self._reload is not None:
            self._reload.cancel()
            with suppress(asyncio.CancelledError):
                await self._reload
            self._reload = None
        await self._supervisor.stop()
        if self._server is not None:
            self._server.tidy()
            self._server = None
        self._lock.drop()

    async def serve(self) -> None:
        """Waits for SIGINT or SIGTERM, then stops."""
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, asked.set)
        try:
            await asked.wait()
            self._on_line("stopping")
            await self.stop()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def wait_ready(self, limit: float = START_SECONDS) -> None:
        """Every service answers ready, every node is live and in sync; PlatformError names who is
        not, and its log."""
        faults: dict[str, str] = {}
        fleet = _FleetWatch(self._run, [node.id for node in self._nodes])

        async def all_ready() -> bool:
            faults.clear()
            faults.update(await self._service_faults())
            if not faults and self._nodes:
                faults.update(await fleet.faults())
            self._check_hope(faults)
            return not faults

        try:
            ready = await until(all_ready, limit)
        finally:
            await fleet.close()
        if not ready:
            told = "; ".join(
                f"{name}: {fault} (see {self.log(name)})" for name, fault in faults.items()
            )
            raise PlatformError(f"not ready after {limit:g} s: {told}")

    def _check_hope(self, names: Iterable[str]) -> None:
        """PlatformError when one of them dies again and again: waiting longer would not help."""
        for name in names:
            if self._supervisor.early_deaths(name) >= _HOPELESS_DEATHS:
                raise PlatformError(
                    f"{name} cannot run: {last_line(self.log(name))} (see {self.log(name)})"
                )

    async def _service_faults(self) -> dict[str, str]:
        found = await asyncio.gather(*(service_fault(HOST, port) for port in self._health.values()))
        return {name: fault for name, fault in zip(self._health, found, strict=True) if fault}

    async def _acquire(self) -> None:
        try:
            if self.data.exists() and not self._lock.exists() and any(self.data.iterdir()):
                raise PlatformError(
                    f"{self.data} holds other files: name a new folder, or one of an earlier start"
                )
            private_folder(self.data)
            self._lock.take()
        except PermissionError as error:
            place = error.filename or self.data
            raise PlatformError(
                f"{place} belongs to another user: use a folder of your own"
            ) from None
        try:
            ended = orphans.end(self.data)
        except TimeoutError as error:
            self._lock.drop()
            raise PlatformError(str(error)) from None
        if ended:
            self._on_line(f"ended {len(ended)} processes that a killed supervisor had left")

    async def _bring_up(self) -> None:
        ports = Ports(self.data / "ports.json")
        broker, keys = self._prepare_keys(ports)
        self._nodes = [self._node(ports, name) for name in node_names(keys, self._node_count)]
        ensure_nodes(keys, [node.id for node in self._nodes])
        nats_url = self._given.nats_url or broker.url
        server = self._server = self._own_postgres()
        # One after the other costs what the slower takes alone: initdb leaves a core to the broker.
        both = (self._start_broker(broker), self._start_postgres(server))
        for result in await asyncio.gather(*both, return_exceptions=True):
            if result is not None:
                raise result
        dsns = {**(await server.provision() if server else {}), **self._given.dsns}
        await self._apply_topology(nats_url)
        children = Children(self.data, keys, nats_url, dsns, self._given.log_level, self._clock())
        for spec, port in self._services(children, ports):
            await self._supervisor.start(spec)
            self._health[spec.name] = port
        operator = await nats.login(nats_url, "operator", keys.seed("operator"))
        try:
            enrolled = await announce(operator, keys.fleet_file, datetime.now(UTC))
        finally:
            await operator.close()
        self._on_line(f"services started; enrolled {', '.join(enrolled) or 'no new node'}")
        for node in self._nodes:
            for spec in children.node(node):
                await self._supervisor.start(spec)
        self._write_run(keys, nats_url, dsns)

    def _finance(self) -> dict[str, str]:
        """The DSN of finance's role; none in a billing database of others whose DSN nobody told."""
        if self._given.finance_dsn:
            return {"finance": self._given.finance_dsn}
        if self._server is None or postgres.FINANCE_DATABASE in self._given.dsns:
            return {}
        return {"finance": self._server.finance_dsn}

    def _own_postgres(self) -> postgres.Postgres | None:
        """None when the environment names every database."""
        return (
            None
            if len(self._given.dsns) == len(DATABASES)
            else postgres.Postgres(self.data, DATABASES)
        )

    def _prepare_keys(self, ports: Ports) -> tuple[nats.Broker, Keys]:
        port = 0 if self._given.nats_url else ports.pick("nats", self._nats_port)
        broker = nats.Broker(self.data / "nats", port, {})
        keys = ensure_keys(self.data, broker.users_file, datetime.now(UTC), self._given.trust_roots)
        users = {**keys.users, nats.SEARCHER.name: ensure_nkey(keys.seed(nats.SEARCHER.name))}
        return replace(broker, public_keys=users, more=(nats.SEARCHER,)), keys

    @staticmethod
    def _node(ports: Ports, name: str) -> Node:
        return Node(name, ports.pick(f"{name}.https"), ports.pick(f"{name}.http"))

    def _services(self, children: Children, ports: Ports) -> list[tuple[Spec, int]]:
        found = []
        for service in SERVICES:
            for number in range(1, self._replicas.get(service, 1) + 1):
                name = service if number == 1 else f"{service}-{number}"
                port = ports.pick(f"{name}.health")
                found.append((children.service(service, name, port), port))
        return found

    async def _start_broker(self, broker: nats.Broker) -> None:
        if self._given.nats_url:
            self._on_line(f"using NATS at {self._given.nats_url}")
            return
        spec = await asyncio.to_thread(broker.prepare)
        await self._supervisor.start(spec)
        seed = seed_file(self.data, "topology")
        await self._until_up(nats.NAME, lambda: nats.serves_jetstream(broker.url, seed))
        self._reload = asyncio.create_task(
            self._reload_users(broker.users_file), name="reload node users"
        )
        self._on_line(f"NATS at {broker.url}")

    async def _start_postgres(self, server: postgres.Postgres | None) -> None:
        if server is None:
            self._on_line("using the PostgreSQL that EDGETLS_*_DSN name")
            return
        await self._supervisor.start(await asyncio.to_thread(server.prepare))
        await self._until_up(postgres.NAME, server.ready)
        self._on_line(f"PostgreSQL at {server.socket_folder}")

    async def _until_up(self, name: str, answers: Callable[[], Awaitable[bool]]) -> None:
        async def up() -> bool:
            self._check_hope([name])
            return await answers()

        if not await until(up, self._start_seconds):
            raise PlatformError(
                f"{name} does not answer after {self._start_seconds:g} s (see {self.log(name)})"
            )

    async def _apply_topology(self, nats_url: str) -> None:
        client = await nats.login(nats_url, "topology", seed_file(self.data, "topology"))
        try:
            changes = await topology.apply(client.jetstream(timeout=10))
        finally:
            await client.close()
        changed = sum(change.action != "same" for change in changes)
        self._on_line(f"topology: {changed} of {len(changes)} streams and consumers changed")

    async def _reload_users(self, file: Path) -> None:
        """SIGHUP when ``edgetls fleet`` rendered the node users anew: nats-server keeps connections
        and adds them."""
        seen = file.read_bytes()
        while True:
            await asyncio.sleep(0.25)
            with suppress(FileNotFoundError, ProcessLookupError):
                if (now := file.read_bytes()) != seen:
                    self.kill(nats.NAME, signal.SIGHUP)
                    seen = now

    def _clock(self) -> Path | None:
        if not self._test_clock:
            return None
        file = self.data / "clock"
        if not file.exists():
            write_private(file, "0\n")
        return file

    def _write_run(self, keys: Keys, nats_url: str, dsns: Mapping[str, str]) -> None:
        self._run = {
            "nats_url": nats_url,
            "postgres": {name: dsns[name] for name in DATABASES} | self._finance(),
            "health": {name: f"http://{HOST}:{port}" for name, port in self._health.items()},
            "nodes": [
                {"id": node.id, "https": node.https, "http": node.http} for node in self._nodes
            ],
            "credentials": {user: str(keys.seed(user)) for user in _USERS},
            "trust_roots": str(keys.trust_roots),
            "trust": str(keys.trust),
            "operator_key": str(keys.operator_public),
            "fleet_file": str(keys.fleet_file),
            "submission_key": str(keys.submission_public),
            "pid": os.getpid(),
        }
        write_private(self.data / RUN_FILE, json.dumps(self._run, indent=1) + "\n")


class _FleetWatch:
    """Asks edge_sync, as operator, how the nodes are; tells it again of nodes that it does not know
    after a while."""

    def __init__(self, run: Mapping[str, Any], nodes: Sequence[str]) -> None:
        self._run, self._nodes = run, nodes
        self._operator: Client | None = None
        self._repeat_at = time.monotonic() + _REPEAT_SECONDS

    async def faults(self) -> dict[str, str]:
        """By the name of the agent's process."""
        try:
            if self._operator is None or self._operator.is_closed:
                seed = Path(self._run["credentials"]["operator"])
                self._operator = await nats.login(self._run["nats_url"], "operator", seed)
            view = await fleet_view(self._operator)
            if view is not None and time.monotonic() > self._repeat_at:
                self._repeat_at = time.monotonic() + _REPEAT_SECONDS
                fleet_file = Path(self._run["fleet_file"])
                await repeat(self._operator, fleet_file, view, self._nodes, datetime.now(UTC))
        except Transient as error:
            return {f"{node}-agent": str(error) for node in self._nodes}
        found = {f"{node}-agent": node_fault(view, node) for node in self._nodes}
        return {name: fault for name, fault in found.items() if fault}

    async def close(self) -> None:
        if self._operator is not None:
            await self._operator.close()
