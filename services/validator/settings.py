"""The settings of the validator, read from its environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from shared.settings import ServiceSettings


class ValidatorSettings(ServiceSettings):
    """The settings of the validator alone, besides those of every service."""

    submission_private_key_file: Path = Field(
        description="the HPKE key that opens what submitters seal"
    )
    validator_signing_key_file: Path = Field(description="the key that it signs attestations with")
    trust_roots_file: Path | None = Field(
        default=None,
        description="PEM roots trusted besides Mozilla's, read again when the file changes",
    )
    validator_workers: int = Field(
        default=3,
        ge=1,
        le=64,
        description=(
            "worker processes; one account keeps up to 2 busy, so with fewer than 3 it "
            "can delay all others"
        ),
    )
