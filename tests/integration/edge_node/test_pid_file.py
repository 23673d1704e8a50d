"""A pid file may name a foreign process: only an nginx of the node's own folder gets a signal."""

import asyncio
import signal
from pathlib import Path

import pytest

from clients.edge_node.nginx import process_scan
from clients.edge_node.nginx.process import reopen_logs
from clients.edge_node.nginx_program import prepare_node
from tests.integration.edge_node.conftest import node_layout
from tests.integration.edge_node.nginx_node import NginxNode
from tests.support.waiting import until


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Record (pid, signal) of every kill instead of sending it."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append((pid, number)))
    return sent


async def test_an_nginx_of_another_folder_is_neither_signalled_nor_taken_for_our_own(
    node: NginxNode, tmp_path: Path, signals: list[tuple[int, int]]
) -> None:
    other = node_layout(tmp_path / "other")
    other.run_folder.mkdir(parents=True)
    (other.run_folder / "nginx.pid").write_text(f"{node.pid}\n")
    reopen_logs(other)
    prepare_node(other)
    assert signals == []
    reopen_logs(node.layout)
    assert signals == [(node.pid, signal.SIGUSR1)]


async def test_an_nginx_that_does_not_show_its_files_is_known_by_its_command_line(
    node: NginxNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A binary with capabilities is like that."""
    pid_file = node.layout.run_folder / "nginx.pid"
    folder = node.layout.folder
    monkeypatch.setattr(process_scan, "_open_files", lambda _: None)
    assert process_scan.find_master(pid_file, folder) == node.pid
    assert process_scan.find_master(pid_file, tmp_path / "nod") is None
    assert process_scan.find_master(pid_file, tmp_path) is None


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
async def test_an_nginx_that_ends_meanwhile_is_no_fault(
    node: NginxNode, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    def raise_error(*_: int) -> None:
        raise error

    monkeypatch.setattr("os.kill", raise_error)
    reopen_logs(node.layout)


async def test_a_log_is_reopened_by_the_nginx_that_runs(node: NginxNode) -> None:
    log = node.usage_logs.rotate(node.reopen_logs)

    async def is_final() -> bool:
        return await asyncio.to_thread(node.usage_logs.final_length, log) is not None

    await until(is_final, "nginx has left the old log")
