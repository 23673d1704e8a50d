"""The platform without services and nodes: its files, its messages, and what it uses instead of its
own servers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from clients.fleet.fleet_file import FleetFile, FleetNode
from clients.fleet.keys import ensure_node
from deploy.embedded import nats, orphans
from deploy.embedded import platform as platform_module
from deploy.embedded.down import stop_platform
from deploy.embedded.errors import PlatformError
from deploy.embedded.platform import EmbeddedPlatform
from deploy.embedded.ports import Ports
from shared.errors import BrokerAway, SettingsError
from tests.support.waiting import until

KEYS = {
    "nats_url",
    "postgres",
    "health",
    "nodes",
    "credentials",
    "trust_roots",
    "trust",
    "operator_key",
    "fleet_file",
    "submission_key",
    "pid",
}
BuildPlatform = Callable[..., EmbeddedPlatform]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start servers alone, without settings of the environment that the tests run in."""
    monkeypatch.setattr(platform_module, "SERVICES", ())
    for name in list(os.environ):
        if name.startswith("EDGETLS_"):
            monkeypatch.delenv(name)


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[BuildPlatform]:
    """Return a function that builds platforms without nodes, by default in ``tmp_path / "data"``;
    all are stopped at the end."""
    built: list[EmbeddedPlatform] = []

    def build_one(data: Path = tmp_path / "data", **options: object) -> EmbeddedPlatform:
        built.append(EmbeddedPlatform(data, nodes=0, **options))  # type: ignore[arg-type]
        return built[-1]

    yield build_one
    for platform in built:
        await platform.stop()
        assert orphans.find_orphans(platform.data) == []


def listening_socket() -> socket.socket:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return taken


async def test_run_json_holds_all_addresses_for_its_owner_only(build: BuildPlatform) -> None:
    platform = build()
    await platform.start()
    file = platform.data / "run.json"
    run = json.loads(file.read_text())
    assert run == platform.run
    assert set(run) == KEYS and set(run["postgres"]) == {
        "config",
        "edge_sync",
        "billing",
        "finance",
    }
    assert set(run["credentials"]) == {"platform", "operator", "finance", "topology", "searcher"}
    assert run["pid"] == os.getpid()
    places = [
        *run["credentials"].values(),
        *(run[key] for key in KEYS if key.endswith(("_key", "_file", "trust"))),
    ]
    assert all(Path(place).is_file() for place in places)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(platform.data.stat().st_mode) == 0o700


async def test_a_second_start_uses_the_same_places_and_keys(build: BuildPlatform) -> None:
    first = build()
    await first.start()
    await first.stop()
    second = build()
    await second.start()
    assert second.run == first.run


async def test_a_busy_port_that_was_asked_for_is_named(build: BuildPlatform) -> None:
    with listening_socket() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PlatformError) as caught:
            await build(nats_port=port).start()
    assert (
        str(caught.value) == f"port {port} for nats is busy on 127.0.0.1: free it or name another"
    )


def test_a_busy_port_that_was_only_remembered_is_replaced(tmp_path: Path) -> None:
    first = Ports(tmp_path / "ports.json").pick("nats")
    assert Ports(tmp_path / "ports.json").pick("nats") == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        taken.listen()
        second = Ports(tmp_path / "ports.json").pick("nats")
    assert second != first
    assert Ports(tmp_path / "ports.json").pick("nats") == second


async def test_a_folder_in_use_and_a_folder_with_other_files_are_left_alone(
    build: BuildPlatform, tmp_path: Path
) -> None:
    await build().start()
    with pytest.raises(PlatformError, match=f"in use by process {os.getpid()}"):
        await build().start()
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    (other / "thesis.txt").touch()
    with pytest.raises(PlatformError, match="holds other files"):
        await build(other).start()
    assert stat.S_IMODE(other.stat().st_mode) == 0o755


async def test_a_service_that_cannot_run_is_named_with_its_last_line_and_all_is_stopped(
    build: BuildPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform_module, "SERVICES", ("phantom",))
    platform = build()
    with pytest.raises(
        PlatformError, match=r"phantom cannot run: .*No module named .*logs/phantom\.log"
    ):
        await platform.start()
    assert orphans.find_orphans(platform.data) == []


async def test_a_service_that_never_gets_ready_is_named_after_the_limit(
    build: BuildPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform_module, "SERVICES", ("phantom",))
    platform = build(start_seconds=0.5)
    with pytest.raises(
        PlatformError, match=r"not ready after 0\.5 s: phantom: http://\S+/readyz does not answer"
    ):
        await platform.start()


async def test_databases_that_the_environment_names_are_used_instead_of_started(
    build: BuildPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build()
    await first.start()
    for name, dsn in first.run["postgres"].items():
        monkeypatch.setenv(f"EDGETLS_{name.upper()}_DSN", dsn)
    second = build(tmp_path / "second")
    await second.start()
    assert second.names() == ["nats"]
    assert second.run["postgres"] == first.run["postgres"]


async def test_a_broker_that_the_environment_names_is_used_instead_of_started(
    build: BuildPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening_socket() as taken:
        monkeypatch.setenv("EDGETLS_NATS_URL", f"nats://127.0.0.1:{taken.getsockname()[1]}")
        platform = build()
        with pytest.raises(BrokerAway, match="does not answer"):
            await platform.start()
    assert not (platform.data / "nats" / "store").exists()


async def test_a_node_that_the_operator_adds_can_log_in_while_the_platform_runs(
    build: BuildPlatform, tmp_path: Path
) -> None:
    platform = build()
    await platform.start()
    credentials = ensure_node(tmp_path / "paris-1")
    with FleetFile.edit(Path(platform.run["fleet_file"])) as fleet:
        fleet.put_node(
            FleetNode(node="paris-1", public_key=credentials.public_key, nkey=credentials.nkey)
        )
        fleet.write_users()

    async def logs_in() -> bool:
        try:
            client = await nats.login(
                platform.run["nats_url"], "node-paris-1", tmp_path / "paris-1" / "nats.nk"
            )
        except (SettingsError, BrokerAway):
            return False
        await client.close()
        return True

    await until(logs_in, "the new node logs in")


async def test_killed_processes_answer_again_and_down_finds_nothing_after_the_stop(
    build: BuildPlatform,
) -> None:
    platform = build()
    await platform.start()
    for name in platform.names():
        first = platform.pid(name)
        platform.kill(name)
        await until(
            lambda name=name, first=first: platform.pid(name) not in (None, first),
            f"{name} is started again",
        )
    await platform.wait_ready()
    await platform.stop()
    assert await asyncio.to_thread(stop_platform, platform.data) == "nothing was running"
