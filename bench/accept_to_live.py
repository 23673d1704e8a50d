"""From submission to the last node's real handshake: p50 and p99 over 200 updates on 3 nodes, one
after the other.

Timed by the client: from publishing the submission until every node has served the new leaf in a
handshake of ours. Beside it, in the same run: what the plain way takes, a certificate file written
and nginx reloaded, with 1,000 TLS servers in its configuration.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import tempfile
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bench.report import Result, main
from clients import platform as client
from clients.edge_node.nginx.handshake import get_served_leaf
from clients.edge_node.nginx.process import nginx_binary
from clients.platform import Platform
from deploy.embedded.dev_ca import DevCa
from deploy.embedded.platform import EmbeddedPlatform as Embedded
from deploy.embedded.ports import Ports
from shared.contracts.domains import Outcome
from shared.observability import logs

NODES, DOMAINS = 3, 4
ACCOUNT, ORIGIN = "bench", "http://203.0.113.10"
SERVERS = 1_000
LOOK_SECONDS = 0.003
GOAL_MS = 500


async def measure(quick: bool) -> list[Result]:
    logs.setup("bench", "error")
    with tempfile.TemporaryDirectory(prefix="edgetls-bench-") as folder:
        platform = Embedded(Path(folder) / "platform", nodes=NODES)
        await platform.start()
        try:
            times = sorted(
                await _updates(Path(folder) / "platform", platform.run, 60 if quick else 200)
            )
        finally:
            await platform.stop()
        peer = statistics.median(await _reloads(Path(folder) / "peer", 3 if quick else 7))
    p50, p99 = statistics.median(times), times[min(len(times) - 1, int(len(times) * 0.99))]
    return [
        Result.of(
            "accept_to_live", "submission to the last of 3 nodes' handshake, p50", p50, "ms", peer
        ),
        Result.of(
            "accept_to_live",
            "submission to the last of 3 nodes' handshake, p99",
            p99,
            "ms",
            peer,
            at_most=GOAL_MS,
        ),
    ]


async def _updates(data: Path, run: dict[str, Any], count: int) -> list[float]:
    ca = DevCa.load(data / "test-ca")
    names = [f"www{number}.bench.test" for number in range(DOMAINS)]
    pairs = [
        ca.issue([names[i % DOMAINS]], key="rsa" if i % 4 == 3 else "ecdsa") for i in range(count)
    ]
    async with await client.connect(
        run["nats_url"], Path(run["credentials"]["platform"]), Path(run["submission_key"])
    ) as platform:
        for name in names:
            await platform.settled(
                (await platform.register(name, ACCOUNT, "video", ORIGIN)).command_id
            )
        for name in names:
            await _update(platform, run, name, *ca.issue([name], key="ecdsa"))
        return [
            await _update(platform, run, names[i % DOMAINS], *pair) for i, pair in enumerate(pairs)
        ]


async def _update(
    platform: Platform, run: dict[str, Any], name: str, chain: str, key: str
) -> float:
    """Milliseconds; the pair must be accepted."""
    wanted = fingerprint(chain)
    started = time.perf_counter()
    settled = await platform.settled((await platform.submit(name, ACCOUNT, chain, key)).command_id)
    if settled.outcome is not Outcome.APPLIED:
        raise RuntimeError(f"the update of {name} was {settled.outcome}: {settled.codes}")
    await asyncio.gather(*(_served(node["https"], name, wanted) for node in run["nodes"]))
    return (time.perf_counter() - started) * 1000


async def _served(place: str, name: str, wanted: str) -> None:
    host, port = place.rsplit(":", 1)
    while await get_served_leaf(host, int(port), name) != wanted:
        await asyncio.sleep(LOOK_SECONDS)


async def _reloads(folder: Path, count: int) -> list[float]:
    """Milliseconds from writing the certificate to its first handshake, by nginx's reload."""
    folder.mkdir()
    ca, name = DevCa.ensure(folder / "ca", datetime.now(UTC)), "www0.bench.test"
    port = Ports(folder / "ports.json").pick("https")
    _write(folder, *ca.issue([name], key="ecdsa"))
    blocks = "".join(
        f"server {{ listen 127.0.0.1:{port} ssl; server_name www{i}.bench.test;"
        f" ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; return "
        "204; }}\n"
        for i in range(SERVERS)
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process on; worker_processes 2; pid {folder}/pid; error_log "
        f"{folder}/error.log crit;\n"
        # Else a file with the same inode, written within the same second, counts as unchanged, for
        # good.
        "ssl_object_cache_inheritable off;\n"
        f"events {{ worker_connections 1024; }}\nhttp "
        f"{{ access_log off; server_names_hash_max_size 8192;\n{blocks}}}\n"
    )
    process = await asyncio.create_subprocess_exec(
        str(nginx_binary()),
        "-p",
        str(folder),
        "-c",
        str(folder / "nginx.conf"),
        "-e",
        str(folder / "error.log"),
    )
    try:
        times = []
        for _ in range(count + 1):
            chain, key = ca.issue([name], key="ecdsa")
            while not await _up(port, name):
                await asyncio.sleep(0.05)
            started = time.perf_counter()
            _write(folder, chain, key)
            process.send_signal(signal.SIGHUP)
            await _served(f"127.0.0.1:{port}", name, fingerprint(chain))
            times.append((time.perf_counter() - started) * 1000)
        return times[1:]
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 10)


async def _up(port: int, name: str) -> bool:
    try:
        return await get_served_leaf("127.0.0.1", port, name) is not None
    except OSError:
        return False


def _write(folder: Path, chain: str, key: str) -> None:
    (folder / "cert.pem").write_text(chain)
    (folder / "key.pem").write_text(key)


def fingerprint(chain: str) -> str:
    leaf = x509.load_pem_x509_certificates(chain.encode())[0]
    return sha256(leaf.public_bytes(serialization.Encoding.DER)).hexdigest()


if __name__ == "__main__":
    main(__doc__, measure)
