"""What the validator reads from its environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    """``validator_workers``: one more than an account may keep busy (2); with fewer, one account can delay all.
    ``trust_roots_file``: PEM roots trusted besides Mozilla's, read again when the file changes."""

    submission_private_key_file: Path
    validator_signing_key_file: Path
    trust_roots_file: Path | None = None
    validator_workers: int = Field(default=3, ge=1, le=64)
