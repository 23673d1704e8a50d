"""What config reads from the environment."""

from __future__ import annotations

from pydantic import Field, SecretStr

from shared.settings import ServiceSettings


class ConfigSettings(ServiceSettings):
    """The settings of config alone."""

    config_dsn: SecretStr = Field(
        description="its database: postgresql://user:password@host/database"
    )
    allow_private_origins: bool = Field(
        default=False,
        description="take origins at internal addresses: for tests and closed networks (rule A5)",
    )
    judging_seconds: float = Field(
        default=10,
        gt=0,
        description=(
            "how long a verdict may take from the PubAck of its question, counted while a "
            "validator is there"
        ),
    )
    revision_seconds: float = Field(
        default=3,
        ge=0,
        description=(
            "how long a start waits for edge_sync to name its highest revision before "
            "it goes on without"
        ),
    )
    expiry_seconds: float = Field(
        default=60, gt=0, description="between two looks for certificates that end (rule C5)"
    )
