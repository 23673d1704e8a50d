"""``EDGETLS_BILLING_*``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    """``billing_hour_grace_seconds``: how long after its end an hour is charged; what comes later is a correction."""

    billing_dsn: SecretStr
    billing_signing_key_file: Path
    billing_hour_grace_seconds: float = Field(default=180, ge=0, le=3600)
    billing_pull_batches: int = Field(default=64, ge=1, le=500)
    billing_pull_requests: int = Field(default=2000, ge=1, le=5000)
