"""A NATS user for tests, with the right to read, empty and delete streams, which no other has."""

from __future__ import annotations

from shared.subjects import CORE, inbox_prefix
from shared.topology import NatsUser

NAME = "stream_admin"
STREAM_ADMIN = NatsUser(NAME, CORE, publish=("$JS.API.>",), subscribe=(f"{inbox_prefix(NAME)}.>",))
