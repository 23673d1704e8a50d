"""What config reads from the environment."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    """``config_dsn``: its own database. ``judging_seconds``: how long a verdict may take from the question's PubAck.

    ``allow_private_origins``: for tests and closed networks (rule A5). ``revision_seconds``: how long a start waits
    for edge_sync to name its highest revision before it goes on without. ``expiry_seconds``: how often certificates are
    looked at (rule C5)."""

    config_dsn: SecretStr
    allow_private_origins: bool = False
    judging_seconds: Annotated[float, Field(gt=0)] = 10.0
    revision_seconds: Annotated[float, Field(ge=0)] = 3.0
    expiry_seconds: Annotated[float, Field(gt=0)] = 60.0
