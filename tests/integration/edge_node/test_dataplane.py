"""The data plane puts and removes entries, refuses wrong ones, and leaves no key on the disk."""

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

from clients.edge_node.nginx.dataplane import DataPlane, DataPlaneError
from clients.edge_node.nginx.entry import EntryOrigin, KeyType, NginxEntry
from clients.edge_node.nginx.handshake import (
    PairUnusableError,
    check_pair_loads,
    get_served_leaf,
    probe_name,
)
from clients.edge_node.nginx.process import NginxError, nginx_command
from clients.edge_node.nginx_program import prepare_node
from tests.integration.edge_node.conftest import node_layout
from tests.integration.edge_node.nginx_node import (
    NginxNode,
    fingerprint_of,
    https_entry,
    issue_pair,
)
from tests.support.browser import OriginServer
from tests.support.waiting import until

ANY_PAIR = issue_pair("*.example.test", key_type="rsa")


async def test_ten_thousand_entries_are_filled_listed_and_removed(node: NginxNode) -> None:
    names = [f"{n}.example.test" for n in range(10_000)]
    entries = [https_entry(name, ANY_PAIR, revision=n) for n, name in enumerate(names)]
    await node.put_entries(*entries)
    assert await node.data_plane.names_and_revisions() == {name: n for n, name in enumerate(names)}
    usage = await node.data_plane.zone_usage()
    assert usage.entries == 10_000
    assert 0 < usage.free_bytes < 64 * 1024 * 1024
    await node.data_plane.remove_many([*names[1:], "never.there.test"])
    assert await node.data_plane.names_and_revisions() == {names[0]: 0}


async def test_a_full_zone_refuses_new_entries_by_name_and_keeps_the_old_ones(
    tmp_path: Path, origin: OriginServer
) -> None:
    node = NginxNode(node_layout(tmp_path, entry_zone_mb=1), origin)
    await node.start()
    try:
        entries = [https_entry(f"{n}.example.test", ANY_PAIR) for n in range(400)]
        refused = await node.data_plane.put_many(entries)
        held = await node.data_plane.names_and_revisions()
        assert 100 < len(held) < 400
        assert set(refused) == {entry.name for entry in entries} - set(held)
        assert set(refused.values()) == {"the entry zone is full"}
        for name in ("0.example.test", next(iter(refused))):
            served = await get_served_leaf("127.0.0.1", node.layout.https_port, name)
            assert served == (None if name in refused else fingerprint_of(ANY_PAIR))
        larger = https_entry("0.example.test", (ANY_PAIR[0] * 20, *ANY_PAIR[1:]), revision=2)
        assert list(await node.data_plane.put_many([larger])) == ["0.example.test"]
        assert (await node.data_plane.names_and_revisions())["0.example.test"] == 1
    finally:
        await node.stop()


async def test_the_boot_id_outlives_a_reload_and_changes_with_a_restart(node: NginxNode) -> None:
    await node.put_entries(https_entry("a.test"))
    boot = await node.data_plane.boot_id()
    before = child_pids(node.pid)
    node.nginx.send_signal(signal.SIGHUP)

    async def workers_are_new() -> bool:
        now = child_pids(node.pid)
        return bool(now) and not before & now

    await until(workers_are_new, "the workers are new")
    assert await node.data_plane.boot_id() == boot
    assert await node.data_plane.names_and_revisions() == {"a.test": 1}
    await node.stop()
    with pytest.raises(DataPlaneError, match="not reachable"):
        await node.data_plane.boot_id()
    await node.start()
    assert await node.data_plane.boot_id() != boot
    assert await node.data_plane.names_and_revisions() == {}


async def test_a_killed_master_is_replaced_and_its_orphaned_workers_end(node: NginxNode) -> None:
    orphans = child_pids(node.pid)
    log = node.usage_logs.current_id()
    await node.nginx.kill_and_wait()
    assert orphans
    await node.start()
    assert node.usage_logs.current_id() == log
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in orphans)
    await node.put_entries(https_entry("a.test"))
    assert (await node.get_https("a.test")).status == 200


async def test_a_second_nginx_in_the_same_folder_is_refused(node: NginxNode) -> None:
    with pytest.raises(NginxError, match="already runs"):
        prepare_node(node.layout)
    assert await node.data_plane.boot_id()


async def test_nodes_share_a_machine_and_a_folder_may_be_longer_than_a_socket_address(
    node: NginxNode, tmp_path: Path, origin: OriginServer
) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    other = NginxNode(node_layout(deep), origin)
    await other.start()
    try:
        await other.put_entries(https_entry("a.test"))
        assert (await other.get_https("a.test")).status == 200
        assert await node.data_plane.names_and_revisions() == {}
    finally:
        await other.stop()


async def test_an_ordinary_user_can_run_a_node(
    origin: OriginServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid() or 65534
    node = NginxNode(node_layout(folder), origin)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: user)
        prepare_node(node.layout)
    change_owner(folder, user)
    process = await asyncio.create_subprocess_exec(
        *nginx_command(node.layout), cwd=folder, user=user
    )
    try:
        await until(lambda: is_up(node.data_plane), "nginx answers")
        await node.put_entries(https_entry("a.test"))
        assert (await node.get_https("a.test")).status == 200
        logs = node.usage_logs
        await until(
            lambda: asyncio.to_thread(lambda: logs.log_size(logs.current_id())),
            "a line is written",
        )
        old = node.usage_logs.rotate(lambda: change_owner(folder, user))
        node.reopen_logs()
        assert await node.wait_until_final(old) > 0
    finally:
        process.terminate()
        await process.wait()
        shutil.rmtree(folder)


async def test_a_program_becomes_nginx_by_exec(tmp_path: Path, origin: OriginServer) -> None:
    node = NginxNode(node_layout(tmp_path), origin)
    program = (
        "import sys; from pathlib import Path; "
        "from clients.edge_node.nginx.process import ListenAddress, NginxLayout; "
        "from clients.edge_node.nginx_program import exec_nginx; "
        "https, http = (ListenAddress('127.0.0.1', int(port)) for port in sys.argv[2:]); "
        "exec_nginx(NginxLayout(Path(sys.argv[1]), (https,), (http,)))"
    )
    ports = (str(node.layout.https_port), str(node.layout.http_port))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), *ports
    )
    try:
        await until(lambda: is_up(node.data_plane), "nginx answers")
        assert int((node.layout.run_folder / "nginx.pid").read_text()) == process.pid
    finally:
        process.terminate()
        await process.wait()


async def test_no_file_of_a_node_ever_holds_a_key_not_even_of_a_pair_that_does_not_load(
    node: NginxNode,
) -> None:
    right = issue_pair("a.test")
    wrong = issue_pair("a.test")
    short = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    unloadable = [
        (right[0], wrong[1], "ecdsa"),
        (short, ANY_PAIR[1], "rsa"),
        (wrong[1], right[0], "ecdsa"),
    ]
    bodies_folder = node.layout.folder / "tmp" / "body"
    untouched = bodies_folder.stat().st_mtime_ns
    for pair in unloadable:
        await node.put_entries(https_entry("a.test", pair))  # type: ignore[arg-type]
        assert await get_served_leaf("127.0.0.1", node.layout.https_port, "a.test") is None
    await node.put_entries(*(https_entry(f"{n}.example.test", ANY_PAIR) for n in range(1500)))
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


async def test_only_the_nodes_user_reaches_the_control_sockets(node: NginxNode) -> None:
    assert stat.S_IMODE(node.layout.run_folder.stat().st_mode) == 0o700


async def test_a_malformed_command_is_refused_and_not_echoed(node: NginxNode) -> None:
    with pytest.raises(DataPlaneError) as raised:
        await node.data_plane._post("/put", {"SECRET": 1})
    assert "SECRET" not in str(raised.value)
    with pytest.raises(DataPlaneError) as raised:
        await node.data_plane._send_policies({"SECRET": 1})
    assert "SECRET" not in str(raised.value)


def test_an_entry_shows_no_pair_and_refuses_to_contradict_itself() -> None:
    assert "PRIVATE" not in repr(https_entry("a.test"))
    with pytest.raises(ValueError, match=r"a\.test: an https entry has pairs"):
        NginxEntry("a.test", 1, "https")
    with pytest.raises(ValueError, match="has pairs"):
        NginxEntry("a.test", 1, "suspended", (ANY_PAIR,))
    with pytest.raises(ValueError, match="two pairs"):
        https_entry("a.test", ANY_PAIR, ANY_PAIR)
    with pytest.raises(ValueError, match=r"1\.3 is above 1\.2"):
        https_entry("a.test", tls_min="1.3", tls_max="1.2")


@pytest.mark.parametrize(
    "address", ["a.test:80", "127.0.0.1", "unix:/tmp/x", "[127.0.0.1]:80", "::1:80", "1.2.3.4:0"]
)
def test_an_origin_address_is_an_ip_address_and_a_port(address: str) -> None:
    assert EntryOrigin(addresses=("192.0.2.1:8443", "[2001:db8::1]:8443"))
    with pytest.raises(ValueError, match="one port"):
        EntryOrigin(addresses=("192.0.2.1:80", "[2001:db8::1]:8443"))
    with pytest.raises(ValueError, match="address"):
        EntryOrigin(addresses=(address,))


@pytest.mark.parametrize("key_type", ["rsa", "ecdsa"])
def test_a_matching_pair_loads_and_any_other_is_refused_without_its_text(
    key_type: KeyType,
) -> None:
    pair = issue_pair("a.test", key_type=key_type)
    other = issue_pair("a.test", key_type=key_type)
    check_pair_loads(pair[0], pair[1])
    for chain, key in ((pair[0], other[1]), (pair[0], ""), ("", pair[1]), ("junk", "junk")):
        with pytest.raises(PairUnusableError) as raised:
            check_pair_loads(chain, key)
        assert not any(line in str(raised.value) for line in f"{pair[1]}\n{other[1]}".split())


def test_a_key_with_a_password_is_refused_without_asking_for_it() -> None:
    chain, key, _ = issue_pair("a.test")
    locked = load_pem_private_key(key.encode(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    with pytest.raises(PairUnusableError, match="password"):
        check_pair_loads(chain, locked.decode())


async def test_a_refused_handshake_differs_from_a_closed_port(node: NginxNode) -> None:
    assert await get_served_leaf("127.0.0.1", node.layout.https_port, "unknown.test") is None
    await node.stop()
    with pytest.raises(ConnectionRefusedError):
        await get_served_leaf("127.0.0.1", node.layout.https_port, "unknown.test")


async def test_a_handshake_that_is_never_answered_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        await get_served_leaf("127.0.0.1", silent.getsockname()[1], "a.test", timeout=0.1)


def test_a_wildcard_is_probed_by_a_host_under_it() -> None:
    assert probe_name("*.example.test") == "edgetls-proof.example.test"
    assert probe_name("a.example.test") == "a.example.test"


def child_pids(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


async def is_up(plane: DataPlane) -> bool:
    try:
        return bool(await plane.boot_id())
    except DataPlaneError:
        return False


def change_owner(folder: Path, user: int) -> None:
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, -1, follow_symlinks=False)
