"""compose.yaml follows the Compose schema, mounts only files that are made, and sets only settings
that are read."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from clients.edge_node.settings import NodeSettings
from deploy.docker.secrets import POSTGRES, POSTGRES_CA, write_all
from services.billing.settings import BillingSettings as Billing
from services.config.settings import ConfigSettings as Config
from services.edge_sync.settings import EdgeSyncSettings as EdgeSync
from services.validator.settings import ValidatorSettings as Validator
from shared.errors import SettingsError

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "compose.yaml").read_text()


def test_compose_yaml_follows_the_schema() -> None:
    command = [
        str(Path(sys.executable).parent / "check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
    ]
    done = subprocess.run(
        [*command, str(ROOT / "compose.yaml")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_that_is_mounted_as_a_secret_is_made_and_kept(tmp_path: Path) -> None:
    write_all(tmp_path, datetime.now(UTC))
    wanted = re.findall(r"file: \./deploy/secrets/(\S+)\}", COMPOSE)
    assert len(wanted) > 10
    before = {name: (tmp_path / name).read_bytes() for name in wanted}
    write_all(tmp_path, datetime.now(UTC))
    assert before == {name: (tmp_path / name).read_bytes() for name in wanted}
    assert all(
        (tmp_path / name).stat().st_mode & 0o077 == 0
        for name in wanted
        if "key" in name or "nk" in name
    )


def test_a_fleet_file_that_was_moved_away_is_not_made_anew(tmp_path: Path) -> None:
    write_all(tmp_path, datetime.now(UTC))
    operator = (tmp_path / "operator.pub").read_text()
    (tmp_path / "fleet" / "fleet.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(SettingsError, match="beside the fleet file"):
        write_all(tmp_path, datetime.now(UTC))
    assert (tmp_path / "operator.pub").read_text() == operator


def test_a_server_of_the_mounted_files_is_believed_under_its_own_name_only(tmp_path: Path) -> None:
    """The PostgreSQL of the wheel is built without TLS: here its files are in the hands of another
    server."""
    write_all(tmp_path, datetime.now(UTC))
    tls = tmp_path / "postgres" / "tls"
    arguments = dict(re.findall(r"- -c(\w+)=(\S+)$", COMPOSE, re.MULTILINE))
    assert arguments["ssl"] == "on"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mounted = (tls / Path(arguments[name]).name for name in ("ssl_cert_file", "ssl_key_file"))
    server.load_cert_chain(*mounted)
    client = ssl.create_default_context(cafile=str(tls / "ca.pem"))
    handshake(server, client, POSTGRES)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(server, client, "nats-1")
    access = (tls / Path(arguments["hba_file"]).name).read_text().split("\n")
    assert {line.split()[0] for line in access if line} == {"local", "hostssl"}


def test_services_reach_postgresql_over_tls_that_they_verify(tmp_path: Path) -> None:
    write_all(tmp_path, datetime.now(UTC))
    dsns = re.findall(
        r"^EDGETLS_\w+_DSN=(\S+)$", (tmp_path / "compose.env").read_text(), re.MULTILINE
    )
    assert len(dsns) == 3
    for dsn in dsns:
        parts = urlsplit(dsn)
        assert parts.hostname == POSTGRES
        assert parse_qs(parts.query) == {"sslmode": ["verify-full"], "sslrootcert": [POSTGRES_CA]}


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """In memory, to its end."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(back, there, server_hostname=name),
        server.wrap_bio(there, back, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[0].version() == ends[1].version() == "TLSv1.3"


def test_every_setting_in_compose_yaml_is_one_that_a_program_reads() -> None:
    known = {
        f"EDGETLS_{field.upper()}"
        for settings in (Validator, Config, EdgeSync, Billing, NodeSettings)
        for field in settings.model_fields
    } | {"EDGETLS_NATS_USER"}
    used = set(re.findall(r"^\s+(EDGETLS_\w+):", COMPOSE, re.MULTILINE))
    assert used <= known, used - known
