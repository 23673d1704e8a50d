"""``python -m deploy.docker.secrets``: every key, password and configuration that compose.yaml
mounts.

Written to ./deploy/secrets. Makes what is missing and keeps what is there. The fleet file in it
opens every customer's key: move it, and the operator's seed, to the operator's own machine before
you go into production.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.embedded.keys import ensure_keys, ensure_nodes, fleet_path
from shared.errors import SettingsError
from shared.nats_config import EDGE_USERS_FILE, ServerPlace, Tls, render
from shared.private_files import private_folder, write_private

SERVERS: Final = ("nats-1", "nats-2", "nats-3")
NODES: Final = ("node-1", "node-2")
DATABASES: Final = ("config", "edge_sync", "billing")
POSTGRES: Final = "postgres"
POSTGRES_CA: Final = "/run/secrets/postgres_ca"
_ACCESS: Final = """\
local all all peer
hostssl all all all scram-sha-256
"""
_YEARS_10 = timedelta(days=3653)


def write_all(folder: Path, now: datetime) -> None:
    """Idempotent: existing keys and passwords stay. SettingsError where the fleet file is gone from
    a folder that had one: a new one would have another operator key."""
    if (folder / "operator.pub").exists() and not fleet_path(folder).exists():
        raise SettingsError(
            f"{folder} was made before and its fleet file was moved away: run this beside the "
            "fleet file. A new one "
            "would have another operator key, which no service and no node believes"
        )
    nats = private_folder(folder / "nats")
    keys = ensure_keys(folder, nats / EDGE_USERS_FILE, now, trust_roots=Path(certifi.where()))
    ensure_nodes(keys, list(NODES))
    _write_tls(nats, SERVERS, now)
    for server in SERVERS:
        inside = Path("/etc/nats")
        place = ServerPlace(
            "0.0.0.0",  # noqa: S104 - a container's own address
            4222,
            Path("/data"),
            server,
            Tls(inside / f"{server}.pem", inside / f"{server}.key", inside / "ca.pem"),
            tuple(f"nats-route://{name}:6222" for name in SERVERS),
        )
        write_private(nats / f"{server}.conf", render(place, keys.users))
    _write_postgres(folder, now)


def _write_tls(folder: Path, hosts: Sequence[str], now: datetime) -> None:
    """A CA whose key is thrown away, and a certificate and key for each host, also as seen through
    a local port."""
    if (folder / "ca.pem").exists():
        return
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edgetls {folder.name} CA")])
    ca = (
        _certificate(ca_name, ca_name, ca_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    write_private(folder / "ca.pem", ca.public_bytes(serialization.Encoding.PEM).decode())
    for host in hosts:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        names = x509.SubjectAlternativeName(
            [x509.DNSName(host), x509.IPAddress(ip_address("127.0.0.1"))]
        )
        made = _certificate(name, ca_name, key.public_key(), now).add_extension(
            names, critical=False
        )
        write_private(
            folder / f"{host}.pem",
            made.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode(),
        )
        write_private(
            folder / f"{host}.key",
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ).decode(),
        )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _YEARS_10)
    )


def _write_postgres(folder: Path, now: datetime) -> None:
    """Init SQL with one role and database a service, TLS without which nobody gets in over the
    network, and the DSNs for ``docker compose --env-file``."""
    postgres = private_folder(folder / "postgres")
    tls = private_folder(postgres / "tls")
    _write_tls(tls, (POSTGRES,), now)
    write_private(tls / "pg_hba.conf", _ACCESS)
    environment = folder / "compose.env"
    if environment.exists():
        return
    statements, lines = [], []
    for name in DATABASES:
        password = secrets.token_hex(24)
        statements += [
            f"create role edgetls_{name} login password '{password}';",
            f"create database edgetls_{name} owner edgetls_{name};",
            f"revoke connect on database edgetls_{name} from public;",
        ]
        options = urlencode({"sslmode": "verify-full", "sslrootcert": POSTGRES_CA})
        place = f"{POSTGRES}/edgetls_{name}?{options}"
        lines.append(f"EDGETLS_{name.upper()}_DSN=postgresql://edgetls_{name}:{password}@{place}")
    write_private(private_folder(postgres / "init") / "10-roles.sql", "\n".join(statements) + "\n")
    write_private(folder / "postgres.password", secrets.token_hex(24) + "\n")
    write_private(environment, "\n".join(lines) + "\n")


if __name__ == "__main__":
    target = Path("deploy/secrets")
    try:
        write_all(target, datetime.now(UTC))
    except SettingsError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{target} is complete. Next: 'First start' in docs/operations.md\n")
