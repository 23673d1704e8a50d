"""Every setting seen at a real node: changed live, without a reload."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clients.platform import Platform as Client
from deploy.demo.visitors.handshakes import (
    HANDSHAKE_REFUSED,
    Endpoint,
    NegotiatedTls,
    negotiate_tls,
    verifying_context,
)
from deploy.demo.visitors.http_requests import VisitorConnection
from deploy.embedded.dev_ca import DevCa
from deploy.embedded.platform import EmbeddedPlatform
from shared.contracts.domains import CommandSettled, Hsts, Outcome

ACCOUNT = "e2e-settings"
"""Its requests are charged: not to the account whose balance other tests check."""
V10, V11, V12, V13 = (
    ssl.TLSVersion.TLSv1,
    ssl.TLSVersion.TLSv1_1,
    ssl.TLSVersion.TLSv1_2,
    ssl.TLSVersion.TLSv1_3,
)
pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")


class Recorder:
    """An origin that keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            length = next(
                (
                    int(line.split(":")[1])
                    for line in lines
                    if line.lower().startswith("content-length")
                ),
                0,
            )
            self.requests.append((lines[0].split()[0], await reader.readexactly(length)))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await writer.drain()
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()


@pytest.fixture
async def origin() -> AsyncIterator[Recorder]:
    recorder = Recorder()
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0)
    recorder.port = server.sockets[0].getsockname()[1]
    yield recorder
    server.close()


@pytest.fixture
def http_nodes(platform: EmbeddedPlatform) -> list[Endpoint]:
    return [Endpoint.parse(node["id"], node["http"]) for node in platform.run["nodes"]]


async def live(customer: Client, command_id: str) -> CommandSettled:
    settled = await customer.settled(command_id)
    assert settled.outcome is Outcome.APPLIED, settled.codes
    await customer.converged(settled.domain or "", settled.revision or 0, limit=20)
    return settled


async def enabled(customer: Client, ca: DevCa, domain: str, port: int = 9) -> None:
    await customer.settled(
        (await customer.register(domain, ACCOUNT, "video", f"http://127.0.0.1:{port}")).command_id
    )
    await live(
        customer, (await customer.submit(domain, ACCOUNT, *ca.issue([domain], "ecdsa"))).command_id
    )


async def spoken(
    platform: EmbeddedPlatform,
    place: Endpoint,
    domain: str,
    low: ssl.TLSVersion,
    high: ssl.TLSVersion,
) -> NegotiatedTls | None:
    """What a client agrees on that offers from ``low`` to ``high``; None where it is refused."""
    context = verifying_context(Path(platform.run["trust_roots"]))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = low, high
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        return await negotiate_tls(place, domain, context)
    except HANDSHAKE_REFUSED:
        return None


def workers(platform: EmbeddedPlatform) -> set[int]:
    """Pids of the nginx processes of every node: a reload would make new ones."""
    found: set[int] = set()
    for pid_file in (platform.data / "nodes").rglob("nginx.pid"):
        master = int(pid_file.read_text())
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        found |= {master, *map(int, children)}
    return found


async def test_a_range_of_tls_versions_is_a_domains_own_and_changes_without_a_reload(
    platform: EmbeddedPlatform, customer: Client, ca: DevCa, nodes: list[Endpoint]
) -> None:
    only12, only13 = "only12.example.test", "only13.example.test"
    await asyncio.gather(enabled(customer, ca, only12), enabled(customer, ca, only13))
    before = workers(platform)
    assert before
    for domain, version in ((only12, "1.2"), (only13, "1.3")):
        ordered = await customer.change_settings(domain, ACCOUNT, tls_min=version, tls_max=version)  # type: ignore[arg-type]
        await live(customer, ordered.command_id)
    for place in nodes:
        told = await spoken(platform, place, only12, V10, V13)
        assert told is not None and told.version == "TLSv1.2"
        assert await spoken(platform, place, only12, V13, V13) is None
        assert await spoken(platform, place, only12, V11, V11) is None
        assert await spoken(platform, place, only13, V12, V12) is None
        told = await spoken(platform, place, only13, V12, V13)
        assert told is not None and told.version == "TLSv1.3"
    await live(
        customer, (await customer.change_settings(only12, ACCOUNT, tls_min="1.0")).command_id
    )
    for place in nodes:
        told = await spoken(platform, place, only12, V11, V11)
        assert told is not None and told.version == "TLSv1.1"
    assert workers(platform) == before


async def test_http2_is_negotiated_where_it_is_on(
    platform: EmbeddedPlatform, customer: Client, ca: DevCa, nodes: list[Endpoint]
) -> None:
    domain = "h2.example.test"
    await enabled(customer, ca, domain)
    for on, alpn in ((True, "h2"), (False, "http/1.1")):
        await live(customer, (await customer.change_settings(domain, ACCOUNT, http2=on)).command_id)
        for place in nodes:
            told = await spoken(platform, place, domain, V12, V13)
            assert told is not None and told.alpn == alpn


async def test_hsts_is_sent_while_it_is_on(
    platform: EmbeddedPlatform, customer: Client, ca: DevCa, nodes: list[Endpoint], origin: Recorder
) -> None:
    domain = "hsts.example.test"
    await enabled(customer, ca, domain, origin.port)
    on = await customer.change_settings(
        domain, ACCOUNT, hsts=Hsts(max_age=600, include_subdomains=True, preload=True)
    )
    await live(customer, on.command_id)
    assert await _hsts(platform, nodes[0], domain) == "max-age=600; includeSubDomains; preload"
    await live(customer, (await customer.change_settings(domain, ACCOUNT, hsts="off")).command_id)
    assert await _hsts(platform, nodes[0], domain) is None


async def _hsts(platform: EmbeddedPlatform, place: Endpoint, domain: str) -> str | None:
    visitor = await VisitorConnection.open(
        place, domain, verifying_context(Path(platform.run["trust_roots"]))
    )
    try:
        return (await visitor.get("/")).headers.get("strict-transport-security")
    finally:
        visitor.close()


async def test_a_post_survives_a_redirect_with_308(
    platform: EmbeddedPlatform,
    customer: Client,
    ca: DevCa,
    nodes: list[Endpoint],
    http_nodes: list[Endpoint],
    origin: Recorder,
) -> None:
    domain = "post.example.test"
    await enabled(customer, ca, domain, origin.port)
    ordered = await customer.change_settings(
        domain, ACCOUNT, redirect="to_https", redirect_status=308
    )
    settled = await live(customer, ordered.command_id)
    assert settled.codes == ["settings.redirect_may_loop"]
    status, location = await _post(http_nodes[0], domain, None)
    assert status == 308 and location.startswith(f"https://{domain}") and location.endswith("/form")
    assert origin.requests == []
    status, _ = await _post(nodes[0], domain, verifying_context(Path(platform.run["trust_roots"])))
    assert status == 200 and origin.requests == [("POST", b"name=value")]


async def _post(place: Endpoint, domain: str, context: ssl.SSLContext | None) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection(
        place.host, place.port, ssl=context, server_hostname=domain if context else None
    )
    try:
        writer.write(
            f"POST /form HTTP/1.1\r\nHost: {domain}\r\n"
            "Content-Length: 10\r\n\r\nname=value".encode()
        )
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        location = next(
            (line.split(": ", 1)[1] for line in lines if line.lower().startswith("location")), ""
        )
        return int(lines[0].split()[1]), location
    finally:
        writer.transport.abort()


async def test_a_new_origin_is_fetched_from_at_once_with_https_on_or_off(
    customer: Client,
    ca: DevCa,
    nodes: list[Endpoint],
    http_nodes: list[Endpoint],
    platform: EmbeddedPlatform,
    origin: Recorder,
) -> None:
    domain = "moved.example.test"
    ordered = await customer.register(domain, ACCOUNT, "video", "http://127.0.0.1:9")
    await customer.settled(ordered.command_id)
    change = await customer.change_settings(
        domain, ACCOUNT, origin=f"http://127.0.0.1:{origin.port}"
    )
    await live(customer, change.command_id)
    visitor = await VisitorConnection.open(http_nodes[0], domain, None)
    assert (await visitor.get("/")).body == b"ok"
    visitor.close()


async def test_settings_that_exclude_each_other_are_refused(customer: Client, ca: DevCa) -> None:
    domain = "conflict.example.test"
    await enabled(customer, ca, domain)
    await live(
        customer,
        (await customer.change_settings(domain, ACCOUNT, hsts=Hsts(max_age=60))).command_id,
    )
    for wanted in (
        {"redirect": "to_http"},
        {"tls_max": "1.1"},
        {"http2": True, "tls_min": "1.0", "tls_max": "1.1"},
    ):
        ordered = await customer.change_settings(domain, ACCOUNT, **wanted)  # type: ignore[arg-type]
        assert (await customer.settled(ordered.command_id)).codes == ["settings.conflict"]
