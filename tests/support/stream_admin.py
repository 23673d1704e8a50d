"""A NATS user for tests, with the right to read, empty and delete streams, which no other has."""

from __future__ import annotations

from pathlib import Path

from clients.fleet.keys import ensure_nkey
from shared.subjects import CORE, inbox_prefix
from shared.topology import NatsUser

NAME = "stream_admin"
STREAM_ADMIN = NatsUser(NAME, CORE, publish=("$JS.API.>",), subscribe=(f"{inbox_prefix(NAME)}.>",))


def with_stream_admin(public_keys: dict[str, str], seed_file: Path) -> dict[str, str]:
    """Add its public key to those of a broker."""
    return {**public_keys, NAME: ensure_nkey(seed_file)}
