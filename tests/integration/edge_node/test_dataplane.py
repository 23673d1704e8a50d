"""The control client: what it puts, what it refuses, what it leaves on the disk."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from clients.edge_node.nginx import process as nginx
from clients.edge_node.nginx.dataplane import DataPlane, DataPlaneError
from clients.edge_node.nginx.entry import Entry, Origin
from clients.edge_node.nginx.handshake import PairUnusableError, handshake, load_check, probe_name
from tests.integration.edge_node.conftest import node_layout
from tests.integration.edge_node.harness import Node, OriginServer, fingerprint, https_entry, issue
from tests.support.waiting import until

ANY_PAIR = issue("*.example.test", key_type="rsa")


async def test_ten_thousand_entries_are_filled_listed_and_removed(node: Node) -> None:
    names = [f"{n}.example.test" for n in range(10_000)]
    await node.put(*(https_entry(name, ANY_PAIR, revision=n) for n, name in enumerate(names)))
    assert await node.plane.names_and_revisions() == {name: n for n, name in enumerate(names)}
    usage = await node.plane.zone_usage()
    assert usage.entries == 10_000
    assert 0 < usage.free_bytes < 64 * 1024 * 1024
    await node.plane.remove_many([*names[1:], "never.there.test"])
    assert await node.plane.names_and_revisions() == {names[0]: 0}


async def test_a_full_zone_refuses_by_name_and_keeps_what_it_served(
    tmp_path: Path, origin: OriginServer
) -> None:
    node = Node(node_layout(tmp_path, entry_zone_mb=1), origin)
    await node.start()
    try:
        entries = [https_entry(f"{n}.example.test", ANY_PAIR) for n in range(400)]
        refused = await node.plane.put_many(entries)
        held = await node.plane.names_and_revisions()
        assert 100 < len(held) < 400
        assert set(refused) == {entry.name for entry in entries} - set(held)
        assert set(refused.values()) == {"the entry zone is full"}
        for name in ("0.example.test", next(iter(refused))):
            served = await handshake("127.0.0.1", node.layout.https_port, name)
            assert served == (None if name in refused else fingerprint(ANY_PAIR))
        larger = https_entry("0.example.test", (ANY_PAIR[0] * 20, *ANY_PAIR[1:]), revision=2)
        assert list(await node.plane.put_many([larger])) == ["0.example.test"]
        assert (await node.plane.names_and_revisions())["0.example.test"] == 1
    finally:
        await node.stop()


async def test_the_boot_id_outlives_a_reload_and_changes_with_a_restart(node: Node) -> None:
    await node.put(https_entry("a.test"))
    boot = await node.plane.boot_id()
    assert node.process is not None
    before = children(node.process.pid)
    node.process.send_signal(signal.SIGHUP)

    async def reloaded() -> bool:
        return bool(children(node.process.pid)) and not before & children(node.process.pid)  # type: ignore[union-attr]

    await until(reloaded, "the workers are new")
    assert await node.plane.boot_id() == boot
    assert await node.plane.names_and_revisions() == {"a.test": 1}
    await node.stop()
    with pytest.raises(DataPlaneError, match="not reachable"):
        await node.plane.boot_id()
    await node.start()
    assert await node.plane.boot_id() != boot
    assert await node.plane.names_and_revisions() == {}


async def test_a_killed_master_is_replaced_and_its_orphaned_workers_end(node: Node) -> None:
    assert node.process is not None
    orphans = children(node.process.pid)
    log = node.logs.current_id()
    node.process.kill()
    await node.process.wait()
    assert orphans
    await node.start()
    assert node.logs.current_id() == log
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in orphans)
    await node.put(https_entry("a.test"))
    assert (await node.https("a.test")).status == 200


async def test_a_second_nginx_in_the_same_folder_is_refused(node: Node) -> None:
    with pytest.raises(nginx.NginxError, match="already runs"):
        nginx.prepare(node.layout)
    assert await node.plane.boot_id()


async def test_nodes_share_a_machine_and_a_folder_may_be_longer_than_a_socket_address(
    node: Node, tmp_path: Path, origin: OriginServer
) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    other = Node(node_layout(deep), origin)
    await other.start()
    try:
        await other.put(https_entry("a.test"))
        assert (await other.https("a.test")).status == 200
        assert await node.plane.names_and_revisions() == {}
    finally:
        await other.stop()


async def test_an_ordinary_user_can_run_a_node(
    origin: OriginServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid() or 65534
    node = Node(node_layout(folder), origin)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: user)
        nginx.prepare(node.layout)
    give_to(folder, user)
    process = await asyncio.create_subprocess_exec(
        *nginx.command(node.layout), cwd=folder, user=user
    )
    try:
        await until(lambda: is_up(node.plane), "nginx answers")
        await node.put(https_entry("a.test"))
        assert (await node.https("a.test")).status == 200
        await until(
            lambda: asyncio.to_thread(lambda: node.logs.size(node.logs.current_id())),
            "a line is written",
        )
        old = node.logs.rotate(lambda: give_to(folder, user))
        node.reopen()
        assert await node.until_final(old) > 0
    finally:
        process.terminate()
        await process.wait()
        shutil.rmtree(folder)


async def test_a_supervisor_becomes_nginx_by_exec(tmp_path: Path, origin: OriginServer) -> None:
    node = Node(node_layout(tmp_path), origin)
    program = (
        "import sys; from pathlib import Path; from clients.edge_node.nginx.process import "
        "NginxLayout, exec_nginx;"
        "exec_nginx(NginxLayout(Path(sys.argv[1]), https_port=int(sys.argv[2]), "
        "http_port=int(sys.argv[3])))"
    )
    ports = str(node.layout.https_port), str(node.layout.http_port)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), *ports
    )
    try:
        await until(lambda: is_up(node.plane), "nginx answers")
        assert int((node.layout.run_folder / "nginx.pid").read_text()) == process.pid
    finally:
        process.terminate()
        await process.wait()


async def test_no_file_of_a_node_ever_holds_a_key_not_even_of_a_pair_that_does_not_load(
    node: Node,
) -> None:
    right, wrong = issue("a.test"), issue("a.test")
    short = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    unloadable = [
        (right[0], wrong[1], "ecdsa"),
        (short, ANY_PAIR[1], "rsa"),
        (wrong[1], right[0], "ecdsa"),
    ]
    bodies_folder = node.layout.folder / "tmp" / "body"
    untouched = bodies_folder.stat().st_mtime_ns
    for pair in unloadable:
        await node.put(https_entry("a.test", pair))  # type: ignore[arg-type]
        assert await handshake("127.0.0.1", node.layout.https_port, "a.test") is None
    await node.put(*(https_entry(f"{n}.example.test", ANY_PAIR) for n in range(1500)))
    assert bodies_folder.stat().st_mtime_ns == untouched, "a body went through a temporary file"
    bodies = [
        line.encode() for pair in (right, wrong, ANY_PAIR) for line in pair[1].splitlines()[1:-1]
    ]
    files = [path for path in node.layout.folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert b"PRIVATE KEY" not in content, path
        assert not any(body in content for body in bodies), path


async def test_only_the_nodes_user_reaches_the_control_sockets(node: Node) -> None:
    assert stat.S_IMODE(node.layout.run_folder.stat().st_mode) == 0o700


async def test_an_order_that_is_malformed_is_refused_and_not_echoed(node: Node) -> None:
    with pytest.raises(DataPlaneError) as raised:
        await node.plane._post("/put", {"SECRET": 1})
    assert "SECRET" not in str(raised.value)
    with pytest.raises(DataPlaneError) as raised:
        await node.plane._order_policies({"SECRET": 1})
    assert "SECRET" not in str(raised.value)


def test_an_entry_shows_no_pair_and_refuses_to_contradict_itself() -> None:
    assert "PRIVATE" not in repr(https_entry("a.test"))
    with pytest.raises(ValueError, match=r"a\.test: an https entry has pairs"):
        Entry("a.test", 1, "https")
    with pytest.raises(ValueError, match="has pairs"):
        Entry("a.test", 1, "suspended", (ANY_PAIR,))
    with pytest.raises(ValueError, match="two pairs"):
        https_entry("a.test", ANY_PAIR, ANY_PAIR)
    with pytest.raises(ValueError, match=r"1\.3 is above 1\.2"):
        https_entry("a.test", tls_min="1.3", tls_max="1.2")


@pytest.mark.parametrize(
    "address", ["a.test:80", "127.0.0.1", "unix:/tmp/x", "[127.0.0.1]:80", "::1:80", "1.2.3.4:0"]
)
def test_an_origin_address_is_an_ip_address_and_a_port(address: str) -> None:
    assert Origin(addresses=("192.0.2.1:80", "[2001:db8::1]:8443"))
    with pytest.raises(ValueError, match="address"):
        Origin(addresses=(address,))


@pytest.mark.parametrize("key_type", ["rsa", "ecdsa"])
def test_a_pair_that_fits_loads_and_any_other_is_refused_without_its_text(key_type: str) -> None:
    pair, other = issue("a.test", key_type=key_type), issue("a.test", key_type=key_type)  # type: ignore[arg-type]
    load_check(pair[0], pair[1])
    for chain, key in ((pair[0], other[1]), (pair[0], ""), ("", pair[1]), ("junk", "junk")):
        with pytest.raises(PairUnusableError) as raised:
            load_check(chain, key)
        assert not any(line in str(raised.value) for line in f"{pair[1]}\n{other[1]}".split())


def test_a_key_with_a_password_is_refused_without_asking_for_it() -> None:
    chain, key, _ = issue("a.test")
    locked = load_pem_private_key(key.encode(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    with pytest.raises(PairUnusableError, match="password"):
        load_check(chain, locked.decode())


async def test_a_handshake_tells_a_refusal_from_nobody_listening(node: Node) -> None:
    assert await handshake("127.0.0.1", node.layout.https_port, "unknown.test") is None
    await node.stop()
    with pytest.raises(ConnectionRefusedError):
        await handshake("127.0.0.1", node.layout.https_port, "unknown.test")


async def test_a_handshake_that_is_never_answered_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        await handshake("127.0.0.1", silent.getsockname()[1], "a.test", timeout=0.1)


def test_a_wildcard_is_probed_by_a_host_under_it() -> None:
    assert probe_name("*.example.test") == "edgetls-proof.example.test"
    assert probe_name("a.example.test") == "a.example.test"


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


async def is_up(plane: DataPlane) -> bool:
    try:
        return bool(await plane.boot_id())
    except DataPlaneError:
        return False


def give_to(folder: Path, user: int) -> None:
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, -1, follow_symlinks=False)
