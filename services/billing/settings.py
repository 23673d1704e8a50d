"""``EDGETLS_BILLING_*``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    """``billing_hour_grace_seconds``: how long after its end an hour is charged; what comes later is a correction.
    ``billing_overdue_hours``: how long an account may be depleted before it is overdue (rule E7).
    ``billing_minutes_kept_days``, ``billing_hours_kept_days``: how far back usage is kept by the minute and by the hour
    (rule E3); hours for as long as the archive that an audit compares them with, which is up to 14 months."""

    billing_dsn: SecretStr
    billing_signing_key_file: Path
    billing_hour_grace_seconds: float = Field(default=180, ge=0, le=3600)
    billing_overdue_hours: float = Field(default=24, gt=0, le=24 * 365)
    billing_minutes_kept_days: int = Field(default=184, ge=40)
    billing_hours_kept_days: int = Field(default=430, ge=40)
    billing_pull_batches: int = Field(default=64, ge=1, le=500)
    billing_pull_requests: int = Field(default=16_000, ge=1, le=20_000)
