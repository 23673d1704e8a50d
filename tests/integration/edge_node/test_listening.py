"""A node listens on several addresses, and names the ports that visitors reach."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from clients.edge_node.nginx.process import ListenAddress, NginxError, NginxLayout
from clients.edge_node.nginx_program import exec_nginx
from tests.integration.edge_node.conftest import node_layout
from tests.integration.edge_node.nginx_node import NginxNode, client_context, https_entry
from tests.support.browser import HttpConnection, OriginServer


@pytest.fixture
async def published_node(tmp_path: Path, origin: OriginServer) -> AsyncIterator[NginxNode]:
    """A node on both families, whose ports are published as 443 and 8080."""
    layout = node_layout(tmp_path / "node", public_https_port=443, public_http_port=8080)
    running = NginxNode(
        replace(
            layout,
            https=(
                ListenAddress("0.0.0.0", layout.https_port),
                ListenAddress("::", layout.https_port),
            ),
            http=(
                ListenAddress("::1", layout.http_port),
                ListenAddress("127.0.0.1", layout.http_port),
            ),
        ),
        origin,
    )
    await running.start()
    yield running
    await running.stop()


async def connect(host: str, port: int, tls: bool) -> HttpConnection:
    context: ssl.SSLContext | None = client_context() if tls else None
    name = "a.test" if tls else None
    streams = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    return HttpConnection(*streams)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_both_families_are_served(
    published_node: NginxNode, origin: OriginServer, host: str
) -> None:
    await published_node.put_entries(https_entry("a.test"))
    layout = published_node.layout
    for port, tls in ((layout.https_port, True), (layout.http_port, False)):
        async with await connect(host, port, tls) as visitor:
            assert (await visitor.get("a.test")).status == 200
        assert origin.requests[-1].headers["x-forwarded-for"] == host


async def test_redirects_name_the_public_ports(published_node: NginxNode) -> None:
    await published_node.put_entries(
        https_entry("a.test", redirect_mode="to_https"),
        https_entry("b.test", redirect_mode="to_http"),
    )
    answer = await published_node.get_http("a.test", "/x?y=1")
    assert answer.headers["location"] == "https://a.test/x?y=1"
    answer = await published_node.get_https("b.test", path="/x")
    assert answer.headers["location"] == "http://b.test:8080/x"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_that_is_taken_is_named(tmp_path: Path, kind: socket.SocketKind) -> None:
    layout = node_layout(tmp_path / "node")
    with socket.socket(type=kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        address = ListenAddress("127.0.0.1", taken.getsockname()[1])
        changed: NginxLayout = replace(layout, resolver_port=address.port)
        if kind == socket.SOCK_STREAM:
            changed = replace(layout, http=(*layout.http, address))
        with pytest.raises(NginxError, match=f"{address}.* is in use"):
            exec_nginx(changed)
