"""The settings that billing reads from the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from shared.settings import ServiceSettings


class BillingSettings(ServiceSettings):
    """The settings of billing, besides those that every service has."""

    billing_dsn: SecretStr = Field(
        description="its database: postgresql://user:password@host/database"
    )
    billing_signing_key_file: Path = Field(description="the key that it signs confirmations with")
    billing_hour_grace_seconds: float = Field(
        default=180,
        ge=0,
        le=3600,
        description="how long after its end an hour is charged; what comes later is a "
        "correction (rule E4)",
    )
    billing_overdue_hours: float = Field(
        default=24,
        gt=0,
        le=24 * 365,
        description="how long an account may be depleted before it is overdue (rule E7)",
    )
    billing_minutes_kept_days: int = Field(
        default=184,
        ge=40,
        description="how far back usage is kept by the minute, in days (rule E3)",
    )
    billing_hours_kept_days: int = Field(
        default=430,
        ge=40,
        description="how far back usage is kept by the hour, in days (rule E3): as long as the "
        "archive that an audit compares it with, which is up to 14 months",
    )
    billing_pull_batches: int = Field(
        default=64, ge=1, le=500, description="usage batches that are taken at once"
    )
    billing_pull_requests: int = Field(
        default=16_000, ge=1, le=20_000, description="single usage events that are taken at once"
    )
