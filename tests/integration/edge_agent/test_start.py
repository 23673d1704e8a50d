"""The node's programs start safely, and say in one line why they cannot."""

from __future__ import annotations

import asyncio
from pathlib import Path

from deploy.embedded.ports import HOST
from shared.nats_config import render_edge_users
from shared.subjects import keyring_node
from tests.integration.edge_agent.conftest import EdgeSetup, MakeEdge
from tests.integration.edge_agent.node_processes import NODE_ID
from tests.support.waiting import until


async def test_no_program_may_write_a_core_file_and_only_the_node_reads_its_folders(
    edge: EdgeSetup,
) -> None:
    await edge.node.wait_until_served("a.test", await edge.put_https("a.test", 1))
    for program, process in edge.node.processes.items():
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"], program
    folders = [edge.node.folder, *(path for path in edge.node.folder.iterdir() if path.is_dir())]
    assert {folder.stat().st_mode & 0o077 for folder in folders} == {0}


async def test_a_refused_login_is_one_line_and_exit_2_for_a_node_that_has_nothing_to_serve(
    make_edge: MakeEdge,
) -> None:
    edge = await make_edge()
    await edge.control_plane.stop()
    await edge.cluster.stop_broker()
    edge.cluster.broker.users_file.write_text(render_edge_users({}))
    await edge.restart_broker()
    await edge.node.start("agent")
    assert await edge.node.agent.wait_for_end() == 2
    last = edge.node.read_log("agent").splitlines()[-1]
    assert "refused the login" in last
    assert "Traceback" not in edge.node.read_log("agent")


async def test_an_origin_on_a_private_address_is_not_fetched_from(
    make_edge: MakeEdge,
) -> None:
    connections: list[object] = []

    async def on_connection(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    edge = await make_edge(ALLOW_PRIVATE_ORIGINS="false")
    await edge.node.start()
    bundle = edge.signers.make_bundle("a.test", 1)
    assert bundle.origin is not None
    await edge.control_plane.put_bundle(
        bundle.model_copy(update={"origin": bundle.origin.model_copy(update={"port": port})})
    )
    await edge.control_plane.wait_for_proof("a.test", 1)
    reader, writer = await asyncio.open_connection(HOST, edge.node.http_port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert b" 502 " in await reader.readline()
    writer.close()
    server.close()
    assert connections == []
    await until(lambda: "origin.refused" in edge.node.read_log("agent"), "it is logged")


async def test_a_node_that_is_enrolled_after_its_start_serves_then(
    make_edge: MakeEdge,
) -> None:
    edge = await make_edge(enrolled=False)
    leaf = await edge.put_https("a.test", 1)
    await edge.node.start()
    await until(lambda: "enrolment.awaited" in edge.node.read_log("agent"), "it waits")
    await edge.control_plane.put_keyring(keyring_node(NODE_ID), edge.sign_enrolment())
    await edge.node.wait_until_served("a.test", leaf)
    await edge.control_plane.wait_until_in_sync(NODE_ID)
