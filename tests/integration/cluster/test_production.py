"""The configuration that compose.yaml mounts, run by real servers: three with TLS, replicated
streams, one server killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.docker.secrets import SERVERS, write_all
from deploy.embedded.nats import find_nats_server
from deploy.embedded.ports import Ports
from shared import catalogue, topology
from shared.contracts.commands import DisableHttps
from shared.errors import BrokerAway, EdgetlsError, SettingsError
from shared.messaging.cloudevents import outgoing
from shared.messaging.connection import connect, probe, service_broker
from shared.messaging.publisher import Publisher
from shared.settings import BrokerSettings
from tests.support.waiting import until


class Cluster:
    """Three servers with the mounted configuration, on loopback ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_all(folder, datetime.now(UTC))
        ports = Ports(folder / "ports.json")
        self.clients = {server: ports.pick(server) for server in SERVERS}
        routes = {server: ports.pick(f"{server}-route") for server in SERVERS}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for server in SERVERS:
            config = folder / "nats" / f"{server}.conf"
            text = config.read_text()
            # Only folders and addresses are changed: those of containers into those of this host.
            text = text.replace("/etc/nats", str(folder / "nats"))
            text = text.replace('"/data"', f'"{folder / "data" / server}"')
            text = text.replace("0.0.0.0:6222", f"127.0.0.1:{routes[server]}")
            text = text.replace('"0.0.0.0"', '"127.0.0.1"')
            for other in SERVERS:
                text = text.replace(f"//{other}:6222", f"//127.0.0.1:{routes[other]}")
            text = text.replace("port: 4222", f"port: {self.clients[server]}")
            config.write_text(text)
            self.start(server)

    def start(self, server: str) -> None:
        command = [
            str(find_nats_server()),
            "-c",
            str(self.folder / "nats" / f"{server}.conf"),
            "-l",
            str(self.folder / f"{server}.log"),
        ]
        self.processes[server] = subprocess.Popen(command)

    def settings(self, user: str) -> BrokerSettings:
        """Return the settings of a user who knows all three servers."""
        urls = ",".join(f"nats://127.0.0.1:{port}" for port in self.clients.values())
        return BrokerSettings(
            nats_url=urls,
            nats_seed_file=self.folder / "keys" / f"{user}.nk",
            nats_ca_file=self.folder / "nats" / "ca.pem",
        )

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(10)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
async def cluster_with_streams(cluster: Cluster) -> AsyncIterator[Cluster]:
    async def apply() -> bool:
        try:
            client = await connect(cluster.settings("topology"), "topology")
        except EdgetlsError:
            return False
        try:
            await topology.apply(client.jetstream(timeout=5), replicas=3)
        except Exception:
            return False
        finally:
            await client.close()
        return True

    await until(apply, "the topology is applied with three replicas", every=0.2)
    yield cluster


async def test_every_stream_has_three_replicas(cluster_with_streams: Cluster) -> None:
    client = await connect(cluster_with_streams.settings("topology"), "topology")
    for stream in topology.STREAMS:
        info = await client.jetstream(timeout=5).stream_info(stream.name)
        assert info.config.num_replicas == 3
        assert info.cluster is not None
        assert len(info.cluster.replicas or []) == 2
    await client.close()


async def test_a_service_logs_in_over_tls_and_without_the_ca_it_is_refused(
    cluster_with_streams: Cluster,
) -> None:
    broker, client = await service_broker(cluster_with_streams.settings("config"), "config")
    assert client.is_connected
    await broker.stop()
    with pytest.raises((BrokerAway, SettingsError)):
        await probe(
            cluster_with_streams.settings("config").model_copy(update={"nats_ca_file": None}),
            "config",
        )


async def test_the_command_line_applies_the_topology_over_tls_as_compose_runs_it(
    cluster_with_streams: Cluster,
) -> None:
    settings = cluster_with_streams.settings("topology")
    environment = os.environ | {
        "EDGETLS_NATS_URL": settings.nats_url,
        "EDGETLS_NATS_CA_FILE": str(settings.nats_ca_file),
        "EDGETLS_NATS_SEED_FILE": str(settings.nats_seed_file),
        "EDGETLS_NATS_USER": "topology",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clients.cli.main",
        "topology",
        "apply",
        "--replicas",
        "3",
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    assert out.decode().splitlines()[-1].startswith("0 of ")


async def test_a_ca_file_that_cannot_be_used_is_named_at_once(
    cluster_with_streams: Cluster, tmp_path: Path
) -> None:
    broken = tmp_path / "ca.pem"
    broken.write_text("not PEM")
    for file in (broken, tmp_path / "missing.pem"):
        settings = cluster_with_streams.settings("config").model_copy(update={"nats_ca_file": file})
        with pytest.raises(SettingsError, match=rf"EDGETLS_NATS_CA_FILE.*{file.name}"):
            await connect(settings, "config")


async def test_commands_are_stored_while_a_server_is_dead(cluster_with_streams: Cluster) -> None:
    client = await connect(cluster_with_streams.settings("platform"), "platform")
    publisher = Publisher(client)
    cluster_with_streams.processes[SERVERS[0]].send_signal(signal.SIGKILL)
    for number in range(20):
        body = DisableHttps(domain="a.example", account="a")
        at = datetime.now(UTC)
        message = outgoing(
            catalogue.CMD_HTTPS_DISABLE, body, source="t", about="a", at=at, id=f"c{number}"
        )
        assert await publisher.publish(message, timeout=30) > 0
    await client.close()
