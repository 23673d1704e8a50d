"""How the node's programs start, and what they must not do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from shared.nats_config import render_edge_users
from shared.subjects import keyring_node
from tests.integration.edge_agent.conftest import Stage
from tests.integration.edge_agent.rig import NODE
from tests.support.waiting import until


async def test_neither_program_may_write_a_core_file_and_folders_are_the_nodes_own(
    stage: Stage,
) -> None:
    await stage.node.serves("a.test", await stage.https("a.test", 1))
    for program, process in stage.node.running.items():
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"], program
    folders = [stage.node.folder, *(path for path in stage.node.folder.iterdir() if path.is_dir())]
    assert {folder.stat().st_mode & 0o077 for folder in folders} == {0}


async def test_a_refused_login_is_one_line_and_exit_2_for_a_node_that_has_nothing_to_serve(
    make_stage: Callable[..., Awaitable[Stage]],
) -> None:
    stage = await make_stage()
    await stage.control.stop()
    stage.broker.stop()
    stage.broker.broker.users_file.write_text(render_edge_users({}))
    await stage.restart_broker()
    stage.node.start("agent")
    code = await asyncio.to_thread(stage.node.running["agent"].wait, 20)
    assert code == 2
    last = stage.node.log("agent").splitlines()[-1]
    assert "refused the login" in last
    assert "Traceback" not in stage.node.log("agent")


async def test_an_origin_on_a_private_address_is_not_fetched_from(
    make_stage: Callable[..., Awaitable[Stage]],
) -> None:
    connections: list[object] = []

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    stage = await make_stage(ALLOW_PRIVATE_ORIGINS="false")
    stage.node.start()
    bundle = stage.signers.bundle("a.test", 1)
    assert bundle.origin is not None
    await stage.control.put(
        bundle.model_copy(update={"origin": bundle.origin.model_copy(update={"port": port})})
    )
    await stage.control.proof("a.test", 1)
    host, http_port = stage.node.environment["EDGETLS_NODE_HTTP"].split(":")
    reader, writer = await asyncio.open_connection(host, int(http_port))
    writer.write(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert b" 502 " in await reader.readline()
    writer.close()
    server.close()
    assert connections == []
    await until(lambda: "origin.refused" in stage.node.log("agent"), "it is logged")


async def test_a_node_that_is_enrolled_after_its_start_serves_then(
    make_stage: Callable[..., Awaitable[Stage]],
) -> None:
    stage = await make_stage(enrolled=False)
    leaf = await stage.https("a.test", 1)
    stage.node.start()
    await until(lambda: "waits_for_enrolment" in stage.node.log("agent"), "it waits")
    await stage.control.put_keyring(keyring_node(NODE), stage.enrolment())
    await stage.node.serves("a.test", leaf)
    await stage.control.agrees(NODE)
