"""From submission to the last node's handshake: p50 and p99 over 200 updates on 3 nodes, one after
the other.

The client's clock measures: from publishing the submission until every node has served the new leaf
in a real handshake. Beside it, in the same run: the time of the plain way, which writes a
certificate file and reloads nginx, with 1,000 TLS servers in its configuration.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.report import Result, main
from clients import platform as client
from clients.edge_node.nginx.handshake import get_served_leaf
from clients.edge_node.nginx.process import nginx_binary
from clients.platform import Platform
from deploy.embedded.dev_ca import CertificatePair, DevCa
from deploy.embedded.platform import EmbeddedPlatform
from deploy.embedded.ports import HOST, Ports
from shared.contracts.domains import Outcome
from shared.observability import logs

NODES = 3
DOMAINS = 4
ACCOUNT = "bench"
ORIGIN = "http://203.0.113.10"
SERVERS = 1_000
LOOK_SECONDS = 0.003
GOAL_MS = 500
# One update in four has an RSA pair, the others have ECDSA pairs.
RSA_EVERY = 4


async def measure(quick: bool) -> list[Result]:
    """Measure the updates of a platform, then the reloads of a plain nginx."""
    logs.setup("bench", "error")
    with tempfile.TemporaryDirectory(prefix="edgetls-bench-") as name:
        folder = Path(name)
        platform = EmbeddedPlatform(folder / "platform", nodes=NODES)
        await platform.start()
        try:
            times = await _measure_updates(platform.data, platform.run, 60 if quick else 200)
        finally:
            await platform.stop()
        peer = statistics.median(await _measure_reloads(folder / "peer", 3 if quick else 7))
    times.sort()
    p50 = statistics.median(times)
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    what = "submission to the last of 3 nodes' handshake"
    return [
        Result.of("accept_to_live", f"{what}, p50", p50, "ms", peer),
        Result.of("accept_to_live", f"{what}, p99", p99, "ms", peer, at_most=GOAL_MS),
    ]


async def _measure_updates(data: Path, run: Mapping[str, Any], count: int) -> list[float]:
    """Return the milliseconds of each update."""
    ca = DevCa.load(data / "test-ca")
    names = [f"www{number}.bench.test" for number in range(DOMAINS)]
    # All keys are made before the first update: an RSA key takes up to a second.
    updates: list[tuple[str, CertificatePair]] = []
    for number in range(count):
        name = names[number % DOMAINS]
        kind: Any = "rsa" if number % RSA_EVERY == RSA_EVERY - 1 else "ecdsa"
        updates.append((name, CertificatePair(*ca.issue([name], key=kind))))
    async with await client.connect(
        run["nats_url"], Path(run["credentials"]["platform"]), Path(run["submission_key"])
    ) as platform:
        for name in names:
            ordered = await platform.register(name, ACCOUNT, "video", ORIGIN)
            await platform.settled(ordered.command_id)
            # The first certificate of a domain is not an update.
            first = CertificatePair(*ca.issue([name], key="ecdsa"))
            await _time_update(platform, run, name, first)
        times: list[float] = []
        for name, pair in updates:
            times.append(await _time_update(platform, run, name, pair))
        return times


async def _time_update(
    platform: Platform, run: Mapping[str, Any], name: str, pair: CertificatePair
) -> float:
    """Return milliseconds; RuntimeError when the pair is not accepted."""
    leaf = pair.leaf
    started = time.perf_counter()
    ordered = await platform.submit(name, ACCOUNT, pair.chain, pair.key)
    settled = await platform.settled(ordered.command_id)
    if settled.outcome is not Outcome.APPLIED:
        raise RuntimeError(f"the update of {name} was {settled.outcome}: {settled.codes}")
    await asyncio.gather(*(_wait_served(node["https"], name, leaf) for node in run["nodes"]))
    return (time.perf_counter() - started) * 1000


async def _wait_served(address: str, name: str, leaf: str) -> None:
    host, _, port = address.rpartition(":")
    while await get_served_leaf(host, int(port), name) != leaf:
        await asyncio.sleep(LOOK_SECONDS)


async def _measure_reloads(folder: Path, count: int) -> list[float]:
    """Return the milliseconds from writing a certificate to its first handshake, by reload."""
    folder.mkdir()
    ca = DevCa.ensure(folder / "ca", datetime.now(UTC))
    name = "www0.bench.test"
    port = Ports(folder / "ports.json").pick("https")
    _write_pair(folder, CertificatePair(*ca.issue([name], key="ecdsa")))
    config = folder / "nginx.conf"
    config.write_text(_nginx_config(folder, port))
    process = await asyncio.create_subprocess_exec(
        str(nginx_binary()), "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")
    )
    try:
        times: list[float] = []
        for _ in range(count + 1):
            pair = CertificatePair(*ca.issue([name], key="ecdsa"))
            while not await _answers_handshake(port, name):
                await asyncio.sleep(0.05)
            started = time.perf_counter()
            _write_pair(folder, pair)
            process.send_signal(signal.SIGHUP)
            await _wait_served(f"{HOST}:{port}", name, pair.leaf)
            times.append((time.perf_counter() - started) * 1000)
        # The first reload is not counted.
        return times[1:]
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 10)


def _nginx_config(folder: Path, port: int) -> str:
    """Return a configuration with 1,000 TLS servers that share one certificate."""
    servers: list[str] = []
    for number in range(SERVERS):
        servers.append(
            f"server {{ listen {HOST}:{port} ssl; server_name www{number}.bench.test;"
            f" ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;"
            " return 204; }\n"
        )
    return (
        f"daemon off; master_process on; worker_processes 2; pid {folder}/pid; error_log "
        f"{folder}/error.log crit;\n"
        # Else a file with the same inode, written within the same second, counts as unchanged, for
        # good.
        "ssl_object_cache_inheritable off;\n"
        f"events {{ worker_connections 1024; }}\n"
        f"http {{ access_log off; server_names_hash_max_size 8192;\n{''.join(servers)}}}\n"
    )


async def _answers_handshake(port: int, name: str) -> bool:
    try:
        return await get_served_leaf(HOST, port, name) is not None
    except OSError:
        return False


def _write_pair(folder: Path, pair: CertificatePair) -> None:
    (folder / "cert.pem").write_text(pair.chain)
    (folder / "key.pem").write_text(pair.key)


if __name__ == "__main__":
    main(__doc__, measure)
