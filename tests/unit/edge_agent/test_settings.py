"""The node's settings: a wrong or missing one is named in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from clients.edge_node.nginx.process import NginxLayout
from clients.edge_node.settings import NginxSettings, split_addresses

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        ("127.0.0.1:443", [("127.0.0.1", 443)]),
        ("[::1]:8443", [("::1", 8443)]),
        ("0.0.0.0:443, [::]:443", [("0.0.0.0", 443), ("::", 443)]),
    ],
)
def test_listen_addresses_are_split(value: str, addresses: list[tuple[str, int]]) -> None:
    found = split_addresses(value)
    assert list(found) == addresses
    assert ", ".join(map(str, found)) == value


@pytest.mark.parametrize(
    "value",
    ["443", ":443", "host:", "host:0", "host:70000", "host:x", "h:1,", "h:1,h:1", "h:1;h:2"],
)
def test_a_wrong_listen_address_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, setting in (
        ("ID", "n"),
        ("FOLDER", "/n"),
        ("HTTP", "127.0.0.1:80"),
        ("HTTPS", value),
    ):
        monkeypatch.setenv(f"EDGETLS_NODE_{name}", setting)
    with pytest.raises(ValidationError, match=r"host:port|twice"):
        NginxSettings()  # type: ignore[call-arg]


def test_the_own_handshake_reaches_a_node_that_listens_on_all_addresses() -> None:
    https = split_addresses("[::]:8443,0.0.0.0:8443")
    assert NginxLayout(ROOT, https=https).handshake_address == ("::1", 8443)
    assert NginxLayout(ROOT, https=https[1:]).handshake_address == ("127.0.0.1", 8443)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["agent"], "EDGETLS_NODE_ID is not set"),
        (["nginx"], "EDGETLS_NODE_FOLDER is not set"),
        ([], "say which program"),
        (["other"], "say which program"),
    ],
)
def test_a_start_without_settings_is_one_line_and_exit_2(arguments: list[str], text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clients.edge_node", *arguments],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
