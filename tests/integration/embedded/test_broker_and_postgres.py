"""The real servers: their data outlives every kind of end, and each role reaches its own database
only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from clients.fleet.fleet_file import FleetFile
from clients.fleet.keys import ensure_nkey
from deploy.embedded import launch, nats, orphans, postgres
from deploy.embedded.environment import DATABASES
from deploy.embedded.errors import PlatformError
from deploy.embedded.keys import PlatformKeys, ensure_keys, ensure_nodes
from deploy.embedded.launch import base_environment
from deploy.embedded.ports import Ports
from deploy.embedded.supervisor import Supervisor
from shared import catalogue, subjects, topology
from shared.errors import BrokerAway, SettingsError
from shared.private_files import private_folder
from tests.support.waiting import until


class Servers:
    """A broker and a PostgreSQL under a supervisor."""

    def __init__(self, data: Path) -> None:
        self.data = private_folder(data)
        self.supervisor = Supervisor(data)
        broker = nats.EmbeddedBroker(data / "nats", Ports(data / "ports.json").pick("nats"), {})
        self.keys: PlatformKeys = ensure_keys(data, broker.users_file, datetime.now(UTC))
        self.broker = replace(broker, public_keys=self.keys.users)
        self.postgres = postgres.EmbeddedPostgres(data, DATABASES)

    async def start_broker(self) -> None:
        ensure_nodes(self.keys, ["node-1"])
        await self.supervisor.start(self.broker.prepare())
        await self.wait_for_broker()

    async def wait_for_broker(self) -> None:
        seed = self.keys.seed("topology")
        await until(lambda: nats.serves_jetstream(self.broker.url, seed), "JetStream answers")

    async def start_postgres(self) -> dict[str, str]:
        await self.supervisor.start(self.postgres.prepare())
        await until(self.postgres.ready, "PostgreSQL answers")
        return await self.postgres.provision()

    async def kill_and_wait(self, name: str) -> None:
        self.supervisor.kill(name)
        await until(
            lambda: self.supervisor.deaths(name) == 1 and self.supervisor.pid(name),
            f"{name} is started again",
        )


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    running = Servers(tmp_path / "data")
    yield running
    await running.supervisor.stop()
    assert orphans.find_orphans(running.data) == []


async def fetch_value(dsn: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def count_stored(servers: Servers) -> int:
    """Return the number of messages in the stream EVENTS."""
    client = await nats.login(servers.broker.url, "topology", servers.keys.seed("topology"))
    try:
        return (await client.jetstream().stream_info(subjects.STREAM_EVENTS)).state.messages
    finally:
        await client.close()


async def publish_events(servers: Servers, number: int) -> None:
    client = await nats.login(servers.broker.url, "config", servers.keys.seed("config"))
    try:
        for _ in range(number):
            await client.jetstream(timeout=5).publish(catalogue.EVENT_DOMAIN_CHANGED, b"{}")
    finally:
        await client.close()


async def apply_topology(servers: Servers) -> list[topology.TopologyChange]:
    client = await nats.login(servers.broker.url, "topology", servers.keys.seed("topology"))
    try:
        return await topology.apply(client.jetstream(timeout=10))
    finally:
        await client.close()


async def test_a_killed_broker_comes_back_with_its_data(servers: Servers) -> None:
    await servers.start_broker()
    await apply_topology(servers)
    await publish_events(servers, 20)
    await servers.kill_and_wait(nats.NAME)
    await servers.wait_for_broker()
    assert await count_stored(servers) == 20
    assert {change.action for change in await apply_topology(servers)} == {"same"}


async def test_a_second_start_continues_with_the_data_of_the_first(servers: Servers) -> None:
    await servers.start_broker()
    dsns = await servers.start_postgres()
    await apply_topology(servers)
    await publish_events(servers, 3)
    await fetch_value(dsns["config"], "CREATE TABLE kept AS SELECT 7 AS number")
    await servers.supervisor.stop()
    again = Servers(servers.data)
    try:
        await again.start_broker()
        assert await again.start_postgres() == dsns
        assert again.broker.url == servers.broker.url
        assert again.keys.users == servers.keys.users
        assert await count_stored(again) == 3
        assert await fetch_value(dsns["config"], "SELECT number FROM kept") == 7
    finally:
        await again.supervisor.stop()


async def test_a_killed_postgres_comes_back_with_what_was_committed(servers: Servers) -> None:
    dsns = await servers.start_postgres()
    await fetch_value(
        dsns["billing"], "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number"
    )
    busy = await asyncpg.connect(dsns["billing"], timeout=5)
    await servers.kill_and_wait(postgres.NAME)
    await until(servers.postgres.ready, "PostgreSQL answers again")
    assert await fetch_value(dsns["billing"], "SELECT count(*) FROM kept") == 1000
    busy.terminate()


async def test_lock_files_that_name_a_living_process_do_not_keep_postgres_from_starting(
    servers: Servers,
) -> None:
    await servers.start_postgres()
    await servers.supervisor.stop()
    # As after a kill -9 and a reboot: the pid belongs to another process by now.
    locks = (
        servers.postgres.folder / "postmaster.pid",
        servers.postgres.socket_folder / ".s.PGSQL.5432.lock",
    )
    for lock in locks:
        lock.write_text(f"{os.getppid()}\n{servers.postgres.folder}\n0\n5432\n\n\n")
    again = Servers(servers.data)
    try:
        await again.start_postgres()
        assert again.supervisor.deaths(postgres.NAME) == 0
    finally:
        await again.supervisor.stop()


async def test_every_role_reaches_its_own_database_only(servers: Servers) -> None:
    dsns = await servers.start_postgres()
    for role, dsn in dsns.items():
        assert (
            await fetch_value(dsn, "SELECT current_user || '@' || current_database()")
            == f"{role}@{role}"
        )
        for other in {*DATABASES, "postgres", "template1"} - {role}:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await fetch_value(dsn.replace(f"@/{role}?", f"@/{other}?"), "SELECT 1")
        rights = (
            "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = user"
        )
        assert await fetch_value(dsn, rights) is False
        with pytest.raises(asyncpg.InvalidPasswordError):
            await fetch_value(
                servers.postgres.dsn(role, role).replace(f"{role}:", f"{role}:x"), "SELECT 1"
            )
    assert await fetch_value(servers.postgres.dsn("postgres", "postgres"), "SHOW fsync") == "on"


async def test_a_data_folder_with_a_long_path_in_a_closed_folder_works(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    long = Servers(closed / ("with space " + "x" * 120))
    try:
        dsns = await long.start_postgres()
        assert await fetch_value(dsns["config"], "SELECT 1") == 1
        assert len(os.fsencode(long.postgres.socket_folder / ".s.PGSQL.5432")) < 108
    finally:
        await long.supervisor.stop()
        long.postgres.tidy()
    assert not long.postgres.socket_folder.exists()


async def test_postgres_runs_as_a_system_user_for_root_and_as_an_ordinary_user_for_itself(
    servers: Servers,
) -> None:
    await servers.start_postgres()
    owner = launch.unprivileged_user()
    expected = os.geteuid() if owner is None else owner.uid
    assert expected != 0
    assert Path(f"/proc/{servers.supervisor.pid(postgres.NAME)}").stat().st_uid == expected


def test_an_ordinary_user_can_run_both(tmp_path: Path) -> None:
    """Root runs it as a system user; an ordinary user runs it as himself."""
    owner = launch.unprivileged_user()
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    if owner is not None:
        os.chown(folder, owner.uid, owner.gid)
    tests = f"{__file__}::test_a_second_start_continues_with_the_data_of_the_first"
    argv = (
        sys.executable,
        "-B",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={folder}/base",
        tests,
    )
    done = subprocess.run(
        launch.wrap_command(argv, owner, (Path(sys.executable), Path(__file__), folder)),
        text=True,
        capture_output=True,
        env={**base_environment(), "HOME": str(folder)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_a_new_node_user_can_log_in_after_a_reload_and_a_removed_one_cannot(
    servers: Servers,
) -> None:
    await servers.start_broker()
    ensure_nodes(servers.keys, ["node-1", "node-2"])
    servers.supervisor.kill(nats.NAME, 1)

    async def accepted(node: str) -> bool:
        try:
            client = await nats.login(
                servers.broker.url, f"node-{node}", servers.keys.node_folder(node) / "nats.nk"
            )
        except (SettingsError, BrokerAway):
            return False
        await client.close()
        return True

    await until(lambda: accepted("node-2"), "the new node logs in")
    with FleetFile.edit(servers.keys.fleet_file) as fleet:
        fleet.mark_node("node-1", "removed")
        fleet.write_users()
    servers.supervisor.kill(nats.NAME, 1)

    async def refused() -> bool:
        return not await accepted("node-1")

    await until(refused, "the removed node is refused")


async def test_an_unknown_login_is_refused_in_one_line(servers: Servers) -> None:
    await servers.start_broker()
    unknown = servers.data / "unknown.nk"
    ensure_nkey(unknown)
    with pytest.raises(SettingsError, match="refused the login"):
        await nats.login(servers.broker.url, "operator", unknown)


def test_an_old_nats_server_is_refused_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "nats-server"
    fake.write_text("#!/bin/sh\necho 'nats-server: v2.10.4'\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(PlatformError, match=r"v2\.10\.4: version 2\.12 or later is needed"):
        nats.find_nats_server()
