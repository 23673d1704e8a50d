"""``python -m deploy.docker.secrets``: every key, password and configuration that compose.yaml
mounts.

It writes to ./deploy/secrets, makes what is missing and keeps what is there. The fleet file in it
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
_VALID: Final = timedelta(days=3653)


def write_all(folder: Path, now: datetime) -> None:
    """Write everything that is missing; existing keys and passwords stay.

    SettingsError when the folder had a fleet file that is gone."""
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
    inside = Path("/etc/nats")
    for server in SERVERS:
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
    """Write a CA certificate, and a certificate with its key for each host."""
    if (folder / "ca.pem").exists():
        return
    # The CA's key is never written: no further certificate of this CA can be issued.
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edgetls {folder.name} CA")])
    ca = (
        _certificate_builder(ca_name, ca_name, ca_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    write_private(folder / "ca.pem", ca.public_bytes(serialization.Encoding.PEM).decode())
    for host in hosts:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        # 127.0.0.1 besides: operators reach the server through a local port.
        names = x509.SubjectAlternativeName(
            [x509.DNSName(host), x509.IPAddress(ip_address("127.0.0.1"))]
        )
        builder = _certificate_builder(name, ca_name, key.public_key(), now)
        certificate = builder.add_extension(names, critical=False).sign(ca_key, hashes.SHA256())
        certificate_pem = certificate.public_bytes(serialization.Encoding.PEM)
        key_pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_private(folder / f"{host}.pem", certificate_pem.decode())
        write_private(folder / f"{host}.key", key_pem.decode())


def _certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # A day back: the clocks of the machines need not agree.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _VALID)
    )


def _write_postgres(folder: Path, now: datetime) -> None:
    """Write the init SQL with one role and database for each service, the TLS files, and the DSNs
    for ``docker compose --env-file``. Over the network, PostgreSQL accepts TLS only."""
    postgres = private_folder(folder / "postgres")
    tls = private_folder(postgres / "tls")
    _write_tls(tls, (POSTGRES,), now)
    write_private(tls / "pg_hba.conf", _ACCESS)
    environment = folder / "compose.env"
    if environment.exists():
        return
    statements: list[str] = []
    lines: list[str] = []
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
