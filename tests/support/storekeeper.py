"""A user that reads, empties and destroys streams as no user of the product may: for tests
alone."""

from __future__ import annotations

from pathlib import Path

from clients.fleet.keys import ensure_nkey
from shared.subjects import CORE, inbox_prefix
from shared.topology import NatsUser

NAME = "storekeeper"
STOREKEEPER = NatsUser(NAME, CORE, publish=("$JS.API.>",), subscribe=(f"{inbox_prefix(NAME)}.>",))


def with_storekeeper(public_keys: dict[str, str], seed_file: Path) -> dict[str, str]:
    """The keys for a broker that lets the storekeeper in."""
    return {**public_keys, NAME: ensure_nkey(seed_file)}
