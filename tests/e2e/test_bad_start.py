"""A program that cannot run says why in one clear line on stderr, and its exit code is not zero."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from clients.fleet.keys import ensure_nkey
from deploy.embedded.environment import DATABASES, SERVICES, LocalNode, SpecBuilder
from deploy.embedded.keys import ensure_keys
from deploy.embedded.platform import EmbeddedPlatform
from deploy.embedded.supervisor import ProcessSpec

AGENT, NGINX = "agent", "nginx"
PROGRAMS = [*SERVICES, AGENT]
NEEDED = {"NATS_URL", "NATS_SEED_FILE", "OPERATOR_KEY_FILE", "TRUST_FILE"}
OWN = {
    "validator": {"SUBMISSION_PRIVATE_KEY_FILE", "VALIDATOR_SIGNING_KEY_FILE"},
    "config": {"CONFIG_DSN"},
    "edge_sync": {"EDGE_SYNC_DSN", "EDGE_SYNC_SIGNING_KEY_FILE"},
    "billing": {"BILLING_DSN", "BILLING_SIGNING_KEY_FILE"},
    AGENT: {"NODE_ID", "NODE_FOLDER", "NODE_PRIVATE_KEY_FILE", "NODE_HTTPS", "NODE_HTTP"},
}


@pytest.fixture(scope="module")
def programs(platform: EmbeddedPlatform, scratch: Path) -> dict[str, ProcessSpec]:
    """Return how the platform starts each program. The node is a new one without any data."""
    data, run = platform.data, platform.run
    keys = ensure_keys(data, data / "nats" / "unused", datetime.now(UTC))
    builder = SpecBuilder(data, keys, run["nats_url"], run["postgres"], "info")
    fresh = SpecBuilder(scratch / "fresh", keys, run["nats_url"], run["postgres"], "info")
    (scratch / "fresh").mkdir(mode=0o700)
    with bound_socket() as https, bound_socket() as http:
        node = LocalNode("node-1", https.getsockname()[1], http.getsockname()[1])
    nginx, agent = fresh.node_specs(node)
    found = {service: builder.service_spec(service, service, 0) for service in SERVICES}
    return found | {AGENT: agent, NGINX: nginx}


def bound_socket() -> socket.socket:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    return taken


@pytest.fixture
def busy() -> Iterator[int]:
    with bound_socket() as taken:
        taken.listen()
        yield taken.getsockname()[1]


async def run_to_fault(spec: ProcessSpec, environment: Mapping[str, str], limit: float = 15) -> str:
    """Run a program that must end with a fault; return the one line that says which."""
    process = await asyncio.create_subprocess_exec(
        *spec.argv,
        env=dict(environment),
        cwd=spec.cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), limit)
    except TimeoutError:
        process.kill()
        raise AssertionError(f"it runs on: {(await process.communicate())[1].decode()}") from None
    assert process.returncode not in (0, None), err.decode()
    # Its log is one JSON object a line and not for people; lines of level info are no faults.
    lines = [line for line in (out + err).decode().splitlines() if '"level": "info"' not in line]
    assert len(lines) == 1, f"{len(lines)} lines instead of one: {lines}"
    assert lines[0].startswith("edgetls ") and "Traceback" not in lines[0], lines[0]
    return lines[0]


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_missing_setting_is_named(program: str, programs: dict[str, ProcessSpec]) -> None:
    spec = programs[program]
    needed = {f"EDGETLS_{name}" for name in NEEDED | OWN[program]}
    assert needed <= spec.env.keys()
    for missing in sorted(needed):
        line = await run_to_fault(
            spec, {name: value for name, value in spec.env.items() if name != missing}
        )
        assert f"{missing} is not set" in line
    line = await run_to_fault(
        spec, {name: value for name, value in spec.env.items() if not name.startswith("EDGETLS_")}
    )
    assert all(f"{name} is not set" in line for name in needed)


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_file_that_is_not_there_is_named(
    program: str, programs: dict[str, ProcessSpec], tmp_path: Path
) -> None:
    spec = programs[program]
    for name in sorted(
        name for name in spec.env if name.startswith("EDGETLS_") and name.endswith("_FILE")
    ):
        line = await run_to_fault(spec, {**spec.env, name: str(tmp_path / "missing")})
        assert str(tmp_path / "missing") in line, f"{name}: {line}"


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_busy_health_port_is_named(
    program: str, programs: dict[str, ProcessSpec], busy: int
) -> None:
    spec = programs[program]
    line = await run_to_fault(spec, {**spec.env, "EDGETLS_HEALTH_PORT": str(busy)})
    assert str(busy) in line and "in use" in line


@pytest.mark.parametrize("port", ["HTTPS", "HTTP"])
async def test_a_busy_port_of_nginx_is_named(
    port: str, programs: dict[str, ProcessSpec], busy: int
) -> None:
    spec = programs[NGINX]
    line = await run_to_fault(spec, {**spec.env, f"EDGETLS_NODE_{port}": f"127.0.0.1:{busy}"})
    assert str(busy) in line and "in use" in line


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_setting_that_can_never_be_right_is_named(
    program: str, programs: dict[str, ProcessSpec], tmp_path: Path
) -> None:
    spec, garbage = programs[program], tmp_path / "garbage"
    garbage.write_text("garbage")
    for name, value, why in (
        ("NATS_URL", "nats://127.0.0.1:port", "is not nats://host:port"),
        ("NATS_SEED_FILE", str(garbage), f"{garbage} is not an nkey seed"),
        ("NATS_CA_FILE", str(garbage), f"{garbage} holds no certificates"),
        ("LOG_LEVEL", "verbose", "not one of debug, info, warning, error, critical"),
    ):
        line = await run_to_fault(spec, {**spec.env, f"EDGETLS_{name}": value})
        assert f"EDGETLS_{name}" in line and why in line


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_refused_login_at_nats_is_named(
    program: str, programs: dict[str, ProcessSpec], tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger.nk"
    ensure_nkey(stranger)
    spec = programs[program]
    line = await run_to_fault(spec, {**spec.env, "EDGETLS_NATS_SEED_FILE": str(stranger)})
    assert "refused the login" in line and str(stranger) in line
    assert stranger.read_text().strip() not in line


@pytest.mark.parametrize("program", DATABASES)
async def test_a_refused_login_at_postgresql_is_named(
    program: str, programs: dict[str, ProcessSpec]
) -> None:
    spec, name = programs[program], f"EDGETLS_{program.upper()}_DSN"
    dsn = urlsplit(spec.env[name])
    password = dsn.password or ""
    wrong = urlunsplit(dsn._replace(netloc=dsn.netloc.replace(password, "not-the-password")))
    line = await run_to_fault(spec, {**spec.env, name: wrong})
    assert "PostgreSQL refused" in line and program in line
    assert "not-the-password" not in line and password not in line
