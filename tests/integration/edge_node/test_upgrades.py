"""WebSocket and other upgrades pass, and end with their domain."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from clients.edge_node.nginx.entry import EntryOrigin, NginxEntry
from tests.integration.edge_node.nginx_node import CA, NginxNode, https_entry
from tests.integration.edge_node.raw_origin import origin_at, raw_origin
from tests.integration.edge_node.test_usage_counting import wait_for_totals
from tests.support.browser import HttpConnection, OriginServer

HEAD = (
    b"GET /ws HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: x\r\n"
    b"X-Bytes: \xff\xe2\x80\xa8X-Edgetls-Hop-Origin: http://7f000001.origin:1\r\n"
    b"X-Edgetls-Hop-Origin: http://7f000001.origin:1\r\n\r\n"
)


class MirrorOrigin:
    """Switches protocols and sends everything back in reverse."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
        )
        while data := await reader.read(4096):
            writer.write(data[::-1])


async def connect(node: NginxNode, scheme: str) -> HttpConnection:
    if scheme == "https":
        return await node.connect_https("a.test")
    return await node.connect_http()


@asynccontextmanager
async def upgraded(node: NginxNode, scheme: str) -> AsyncIterator[tuple[HttpConnection, bytes]]:
    """Give an upgraded connection and the head of its answer."""
    async with await connect(node, scheme) as visitor:
        head = await visitor.exchange_bytes(HEAD, lambda data: b"\r\n\r\n" in data)
        assert head.startswith(b"HTTP/1.1 101 ")
        yield visitor, head


async def mirror(visitor: HttpConnection, sent: bytes) -> bytes:
    return await visitor.exchange_bytes(sent, lambda data: len(data) >= len(sent))


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_upgrade_passes_and_is_one_line_with_its_bytes(
    node: NginxNode, scheme: str
) -> None:
    mirroring = MirrorOrigin()
    async with raw_origin(mirroring.answer) as port:
        await node.put_entries(https_entry("a.test", origin=origin_at(port)))
        async with upgraded(node, scheme) as (visitor, received):
            for n in range(3):
                sent = b"message %d" % n
                assert await mirror(visitor, sent) == sent[::-1]
                received += sent
            sent = bytes(range(256)) * 4000
            back = await mirror(visitor, sent)
            assert len(back) == len(sent)
            received += back
        head = mirroring.heads[0].lower()
        assert b"upgrade: websocket" in head
        assert b"\r\nx-edgetls" not in head
        assert b"x-bytes: \xff\xe2\x80\xa8x-edgetls" in head
        assert b"host: a.test\r\n" in head
        cell = (await wait_for_totals(node, 1))["a.test"]
    assert cell.https_requests + cell.http_requests == 1
    assert cell.https_bytes + cell.http_bytes == len(received)


@pytest.mark.parametrize(("name", "is_served"), [("origin.test", True), ("other.test", False)])
async def test_an_upgrade_to_an_https_origin_is_verified_by_name(
    node: NginxNode, name: str, is_served: bool
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("origin.test").configure_cert(tls)
    mirroring = MirrorOrigin()
    async with raw_origin(mirroring.answer, tls=tls) as port:
        origin = EntryOrigin("https", (f"127.0.0.9:{port}", f"127.0.0.1:{port}"), name)
        await node.put_entries(https_entry("a.test", origin=origin))
        async with await node.connect_https("a.test") as visitor:
            head = await visitor.exchange_bytes(HEAD, lambda data: b"\r\n\r\n" in data)
            assert head.startswith(b"HTTP/1.1 101 " if is_served else b"HTTP/1.1 502 ")
            if is_served:
                assert await mirror(visitor, b"abc") == b"cba"
    assert len(mirroring.heads) == int(is_served)


@pytest.mark.parametrize("gone", ["disabled", "suspended", "removed"])
async def test_an_upgraded_connection_ends_with_its_domain(node: NginxNode, gone: str) -> None:
    mirroring = MirrorOrigin()
    async with raw_origin(mirroring.answer) as port:
        origin = origin_at(port)
        await node.put_entries(https_entry("a.test", origin=origin))
        async with upgraded(node, "https") as (visitor, _):
            assert await mirror(visitor, b"abc") == b"cba"
            if gone == "removed":
                await node.data_plane.remove_many(["a.test"])
            else:
                kind = "http_only" if gone == "disabled" else "suspended"
                await node.put_entries(NginxEntry("a.test", 2, kind, origin=origin))
            # Nothing is sent: the connection ends by itself.
            assert await visitor.exchange_bytes(b"", lambda _: False) == b""


async def test_an_upgraded_connection_outlives_an_update_of_its_domain(node: NginxNode) -> None:
    mirroring = MirrorOrigin()
    async with raw_origin(mirroring.answer) as port:
        await node.put_entries(https_entry("a.test", origin=origin_at(port)))
        async with upgraded(node, "https") as (visitor, _), upgraded(node, "http") as (plain, _):
            await node.put_entries(https_entry("a.test", origin=origin_at(port), revision=2))
            await asyncio.sleep(2.5)
            assert await mirror(visitor, b"abc") == b"cba"
            assert await mirror(plain, b"abc") == b"cba"


async def test_http2_without_tls_is_no_upgrade(node: NginxNode, origin: OriginServer) -> None:
    # The requests inside it would pass no gate.
    await node.put_entries(https_entry("a.test"))
    answer = await node.get_https(
        "a.test", Upgrade="websocket, H2C", Connection="Upgrade, HTTP2-Settings"
    )
    assert answer.status == 200
    assert "upgrade" not in origin.requests[-1].headers
