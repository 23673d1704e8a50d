"""Migrations in dbmate's file format, forward only: each file once, in order of the names, in
its own transaction."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import asyncpg

from shared.errors import SettingsError
from shared.storage.pool import Connection, Pool

SHARED = Path(__file__).parent / "migrations"
_VERSIONS = (
    "create table if not exists schema_migrations (version text primary key, checksum text not "
    "null,"
    " applied_at timestamptz not null default now())"
)
_UP = re.compile(
    r"^--\s*migrate:up[^\n]*\n(.*?)(?=^--\s*migrate:down|\Z)", re.MULTILINE | re.DOTALL
)


async def migrate(pool: Pool, *folders: Path) -> list[str]:
    """Apply what is missing of ``folders`` (shared ones first) and return the names; replicas
    wait for each other.

    SettingsError when an applied file has changed since, or the database knows a file that is
    gone."""
    with contextlib.suppress(asyncpg.UniqueViolationError):  # a replica makes it at the same moment
        await pool.execute(_VERSIONS)
    async with pool.acquire() as connection, connection.transaction():
        # Not an advisory lock: anybody who may log in could hold that.
        await connection.execute("lock table schema_migrations in exclusive mode")
        rows = await connection.fetch("select version, checksum from schema_migrations")
        return await _apply_missing(
            connection,
            {r["version"]: r["checksum"] for r in rows},
            _migration_files((SHARED, *folders)),
        )


async def _apply_missing(
    connection: Connection, known: dict[str, str], files: Sequence[tuple[str, str]]
) -> list[str]:
    applied = []
    for version, text in files:
        checksum = sha256(text.encode()).hexdigest()
        if version not in known:
            await connection.execute(up_part(version, text))
            await connection.execute(
                "insert into schema_migrations values ($1, $2)", version, checksum
            )
            applied.append(version)
        elif known[version] != checksum:
            raise SettingsError(
                f"migration {version} was changed after it was applied: add a new one instead"
            )
    return applied


def up_part(version: str, text: str) -> str:
    """Return the SQL between ``-- migrate:up`` and ``-- migrate:down``."""
    match = _UP.search(text)
    if match is None:
        raise SettingsError(f"migration {version} has no '-- migrate:up'")
    return match.group(1)


def _migration_files(folders: Sequence[Path]) -> list[tuple[str, str]]:
    return [
        (f"{folder.parent.name}/{file.stem}", file.read_text())
        for folder in folders
        for file in sorted(folder.glob("*.sql"))
    ]
