"""Fixtures of the data plane: every test gets its own nginx and its own origin."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clients.edge_node.nginx.process import ListenAddress, NginxLayout
from deploy.embedded.ports import Ports
from shared.private_files import private_folder
from tests.integration.edge_node.nginx_node import CA, NginxNode
from tests.support.browser import OriginServer


@pytest.fixture
async def origin() -> AsyncIterator[OriginServer]:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with OriginServer(answer) as server:
        yield server


@pytest.fixture
async def node(tmp_path: Path, origin: OriginServer) -> AsyncIterator[NginxNode]:
    ca_file = tmp_path / "origin-ca.pem"
    CA.cert_pem.write_to_path(str(ca_file))
    running = NginxNode(node_layout(tmp_path / "node", origin_ca_file=ca_file), origin)
    await running.start()
    yield running
    await running.stop()


def node_layout(folder: Path, **options: object) -> NginxLayout:
    ports = Ports(private_folder(folder) / "ports.json")
    return NginxLayout(
        folder,
        https=(ListenAddress("127.0.0.1", ports.pick("https")),),
        http=(ListenAddress("127.0.0.1", ports.pick("http")),),
        workers=2,
        **options,  # type: ignore[arg-type]
    )
