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
from deploy.embedded.enrolment import enrol_fleet, enrol_missing
from deploy.embedded.environment import (
    DATABASES,
    SERVICES,
    EnvironmentSettings,
    LocalNode,
    SpecBuilder,
)
from deploy.embedded.errors import PlatformError
from deploy.embedded.keys import PlatformKeys, ensure_keys, ensure_nodes, node_names, seed_file
from deploy.embedded.lock import DataLock
from deploy.embedded.ports import HOST, Ports
from deploy.embedded.ready import fleet_view, last_line, node_fault, service_fault, wait_until
from deploy.embedded.supervisor import Supervisor
from shared import topology
from shared.errors import Transient
from shared.private_files import private_folder, write_private
from shared.retry import every

RUN_FILE: Final = "run.json"
START_SECONDS: Final = 60.0
_HOPELESS_DEATHS: Final = 5
"""A process that died early so often will not become ready."""
_REPEAT_SECONDS: Final = 10.0
_RELOAD_CHECK_SECONDS: Final = 0.25
_RUN_FILE_USERS: Final = ("platform", "operator", "finance", "topology", nats.SEARCHER.name)


class EmbeddedPlatform:
    """NATS, PostgreSQL, the services and the nodes of one data folder.

    ``data``: made when missing; a second start continues with what it holds. ``replicas``:
    processes by service, 1 where it is not named. ``nats_port``: use this port or fail.
    ``test_clock``: services read an offset in seconds from ``<data>/clock``. ``on_line``: gets a
    line for each thing that happens. Start it in the main thread (see Supervisor)."""

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
        self._node_count = nodes
        self._replicas = dict(replicas or {})
        self._on_line = on_line
        self._nats_port = nats_port
        self._test_clock = test_clock
        self._start_seconds = start_seconds
        self._settings = EnvironmentSettings.read()
        self._lock = DataLock(self.data)
        self._supervisor = Supervisor(self.data, on_line)
        self._run: dict[str, Any] = {}
        self._health_ports: dict[str, int] = {}
        self._nodes: list[LocalNode] = []
        self._server: postgres.EmbeddedPostgres | None = None
        self._reload: asyncio.Task[None] | None = None

    @property
    def run(self) -> dict[str, Any]:
        """The content of ``run.json``."""
        return self._run

    def names(self) -> list[str]:
        """Return the names of all processes: ``nats``, ``postgres``, the services (a replica is
        ``config-2``), ``node-1-nginx``, ``node-1-agent`` and so on."""
        return self._supervisor.names()

    def pid(self, name: str) -> int | None:
        """Return the pid of a process, None while it is down."""
        return self._supervisor.pid(name)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one process; when it dies of it, it is started again."""
        self._supervisor.kill(name, number)

    def log(self, name: str) -> Path:
        """Return the file that holds a process's output."""
        return self._supervisor.log(name)

    async def start(self) -> None:
        """Start everything and wait until it is ready.

        PlatformError says in one line what is wrong; everything is stopped again then."""
        began = time.monotonic()
        await self._take_folder()
        try:
            await self._start_processes()
            await self.wait_ready(self._start_seconds)
        except BaseException:
            await self.stop()
            raise
        self._on_line(f"ready in {time.monotonic() - began:.1f} s")

    async def stop(self) -> None:
        """Stop everything in reverse order, also when a part of it died. Safe to call twice."""
        if self._reload is not None:
            self._reload.cancel()
            with suppress(asyncio.CancelledError):
                await self._reload
            self._reload = None
        await self._supervisor.stop()
        if self._server is not None:
            self._server.tidy()
            self._server = None
        self._lock.release()

    async def serve(self) -> None:
        """Wait for SIGINT or SIGTERM, then stop."""
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
        """Wait until every service is ready and every node is live and in sync.

        PlatformError names each process that is not, with its log."""
        faults: dict[str, str] = {}
        fleet = _FleetWatch(self._run, [node.id for node in self._nodes])

        async def all_ready() -> bool:
            faults.clear()
            faults.update(await self._service_faults())
            # No node becomes live before all services work.
            if not faults and self._nodes:
                faults.update(await fleet.node_faults())
            self._check_hope(faults)
            return not faults

        try:
            ready = await wait_until(all_ready, limit)
        finally:
            await fleet.close()
        if not ready:
            details = [f"{name}: {text} (see {self.log(name)})" for name, text in faults.items()]
            raise PlatformError(f"not ready after {limit:g} s: {'; '.join(details)}")

    def _check_hope(self, names: Iterable[str]) -> None:
        """Raise PlatformError when one of these processes dies again and again: waiting longer
        would not help."""
        for name in names:
            if self._supervisor.early_deaths(name) >= _HOPELESS_DEATHS:
                raise PlatformError(
                    f"{name} cannot run: {last_line(self.log(name))} (see {self.log(name)})"
                )

    async def _service_faults(self) -> dict[str, str]:
        ports = self._health_ports
        answers = await asyncio.gather(*(service_fault(HOST, port) for port in ports.values()))
        return {name: fault for name, fault in zip(ports, answers, strict=True) if fault}

    async def _take_folder(self) -> None:
        """Make the data folder, take its lock, and end what an earlier supervisor left."""
        try:
            # A folder with other files is left alone: its mode would change to 0700.
            is_foreign = self.data.exists() and not self._lock.file_exists()
            if is_foreign and any(self.data.iterdir()):
                raise PlatformError(
                    f"{self.data} holds other files: name a new folder, or one of an earlier start"
                )
            private_folder(self.data)
            self._lock.acquire()
        except PermissionError as error:
            place = error.filename or self.data
            raise PlatformError(
                f"{place} belongs to another user: use a folder of your own"
            ) from None
        try:
            ended = orphans.end_orphans(self.data)
        except TimeoutError as error:
            self._lock.release()
            raise PlatformError(str(error)) from None
        if ended:
            self._on_line(f"ended {len(ended)} processes that a killed supervisor had left")

    async def _start_processes(self) -> None:
        """Start everything in order: each step needs the ones before it."""
        ports = Ports(self.data / "ports.json")
        broker, keys = self._prepare_keys(ports)
        for name in node_names(keys, self._node_count):
            https = ports.pick(f"{name}.https")
            self._nodes.append(LocalNode(name, https, ports.pick(f"{name}.http")))
        ensure_nodes(keys, [node.id for node in self._nodes])
        nats_url = self._settings.nats_url or broker.url
        dsns = await self._start_servers(broker)
        # Streams and consumers must be there before the first service asks for them.
        await self._apply_topology(nats_url)
        builder = SpecBuilder(
            self.data, keys, nats_url, dsns, self._settings.log_level, self._clock_file()
        )
        await self._start_services(builder, ports)
        operator = await nats.login(nats_url, "operator", keys.seed("operator"))
        try:
            enrolled = await enrol_fleet(operator, keys.fleet_file, datetime.now(UTC))
        finally:
            await operator.close()
        self._on_line(f"services started; enrolled {', '.join(enrolled) or 'no new node'}")
        for node in self._nodes:
            for spec in builder.node_specs(node):
                await self._supervisor.start(spec)
        self._write_run(keys, nats_url, dsns)

    def _prepare_keys(self, ports: Ports) -> tuple[nats.EmbeddedBroker, PlatformKeys]:
        port = 0 if self._settings.nats_url else ports.pick("nats", self._nats_port)
        broker = nats.EmbeddedBroker(self.data / "nats", port, {})
        keys = ensure_keys(
            self.data, broker.users_file, datetime.now(UTC), self._settings.trust_roots
        )
        searcher = nats.SEARCHER
        users = {**keys.users, searcher.name: ensure_nkey(keys.seed(searcher.name))}
        return replace(broker, public_keys=users, more=(searcher,)), keys

    async def _start_servers(self, broker: nats.EmbeddedBroker) -> dict[str, str]:
        """Start the broker and PostgreSQL; return the DSN of each database."""
        if len(self._settings.dsns) < len(DATABASES):
            self._server = postgres.EmbeddedPostgres(self.data, DATABASES)
        server = self._server
        # Both at once take the time of the slower one: initdb leaves a core to the broker.
        both = (self._start_broker(broker), self._start_postgres(server))
        # Not the first exception at once: the other start must have ended before the stop.
        for result in await asyncio.gather(*both, return_exceptions=True):
            if result is not None:
                raise result
        if server is None:
            return dict(self._settings.dsns)
        return {**await server.provision(), **self._settings.dsns}

    async def _start_broker(self, broker: nats.EmbeddedBroker) -> None:
        if self._settings.nats_url:
            self._on_line(f"using NATS at {self._settings.nats_url}")
            return
        spec = await asyncio.to_thread(broker.prepare)
        await self._supervisor.start(spec)
        seed = seed_file(self.data, "topology")
        await self._wait_for_server(nats.NAME, lambda: nats.serves_jetstream(broker.url, seed))
        self._reload = asyncio.create_task(
            self._reload_users(broker.users_file), name="reload node users"
        )
        self._on_line(f"NATS at {broker.url}")

    async def _start_postgres(self, server: postgres.EmbeddedPostgres | None) -> None:
        if server is None:
            self._on_line("using the PostgreSQL that EDGETLS_*_DSN name")
            return
        await self._supervisor.start(await asyncio.to_thread(server.prepare))
        await self._wait_for_server(postgres.NAME, server.ready)
        self._on_line(f"PostgreSQL at {server.socket_folder}")

    async def _wait_for_server(self, name: str, answers: Callable[[], Awaitable[bool]]) -> None:
        async def is_up() -> bool:
            self._check_hope([name])
            return await answers()

        if not await wait_until(is_up, self._start_seconds):
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

    async def _start_services(self, builder: SpecBuilder, ports: Ports) -> None:
        for service in SERVICES:
            for number in range(1, self._replicas.get(service, 1) + 1):
                name = service if number == 1 else f"{service}-{number}"
                port = ports.pick(f"{name}.health")
                await self._supervisor.start(builder.service_spec(service, name, port))
                self._health_ports[name] = port

    async def _reload_users(self, file: Path) -> None:
        """Send SIGHUP to nats-server when ``edgetls fleet`` wrote the node users anew.

        nats-server adds the new users and keeps every connection but those of users that are
        gone."""
        seen = file.read_bytes()

        async def check_file() -> None:
            nonlocal seen
            now = file.read_bytes()
            if now != seen:
                # ProcessLookupError while nats-server is down: the next check sends it again.
                self.kill(nats.NAME, signal.SIGHUP)
                seen = now

        await every(_RELOAD_CHECK_SECONDS, check_file)

    def _clock_file(self) -> Path | None:
        if not self._test_clock:
            return None
        file = self.data / "clock"
        if not file.exists():
            write_private(file, "0\n")
        return file

    def _finance_dsns(self) -> dict[str, str]:
        """Return the DSN of finance's role; nothing when the environment names billing's database
        and no DSN for finance."""
        if self._settings.finance_dsn:
            return {"finance": self._settings.finance_dsn}
        if self._server is None or postgres.FINANCE_DATABASE in self._settings.dsns:
            return {}
        return {"finance": self._server.finance_dsn}

    def _write_run(self, keys: PlatformKeys, nats_url: str, dsns: Mapping[str, str]) -> None:
        nodes: list[dict[str, str]] = []
        for node in self._nodes:
            nodes.append({"id": node.id, "https": node.https, "http": node.http})
        self._run = {
            "nats_url": nats_url,
            "postgres": {name: dsns[name] for name in DATABASES} | self._finance_dsns(),
            "health": {name: f"http://{HOST}:{port}" for name, port in self._health_ports.items()},
            "nodes": nodes,
            "credentials": {user: str(keys.seed(user)) for user in _RUN_FILE_USERS},
            "trust_roots": str(keys.trust_roots),
            "trust": str(keys.trust),
            "operator_key": str(keys.operator_public),
            "fleet_file": str(keys.fleet_file),
            "submission_key": str(keys.submission_public),
            "pid": os.getpid(),
        }
        write_private(self.data / RUN_FILE, json.dumps(self._run, indent=1) + "\n")


class _FleetWatch:
    """Asks edge_sync, as operator, for the state of the nodes, and enrols again those that it still
    does not know after a while."""

    def __init__(self, run: Mapping[str, Any], nodes: Sequence[str]) -> None:
        self._run = run
        self._nodes = nodes
        self._operator: Client | None = None
        self._repeat_at = time.monotonic() + _REPEAT_SECONDS

    async def node_faults(self) -> dict[str, str]:
        """Return the faults by the name of the agent's process; nothing when all nodes are fine."""
        faults: dict[str, str] = {}
        try:
            if self._operator is None or self._operator.is_closed:
                seed = Path(self._run["credentials"]["operator"])
                self._operator = await nats.login(self._run["nats_url"], "operator", seed)
            view = await fleet_view(self._operator)
            if view is not None and time.monotonic() > self._repeat_at:
                self._repeat_at = time.monotonic() + _REPEAT_SECONDS
                fleet_file = Path(self._run["fleet_file"])
                now = datetime.now(UTC)
                await enrol_missing(self._operator, fleet_file, view, self._nodes, now)
        except Transient as error:
            return {f"{node}-agent": str(error) for node in self._nodes}
        for node in self._nodes:
            fault = node_fault(view, node)
            if fault is not None:
                faults[f"{node}-agent"] = fault
        return faults

    async def close(self) -> None:
        """Close the connection."""
        if self._operator is not None:
            await self._operator.close()
