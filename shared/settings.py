"""Settings: ``EDGETLS_<NAME>`` in the environment, secrets by ``EDGETLS_<NAME>_FILE``; nothing
else is read."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.clock import Clock
from shared.errors import SettingsError


class BrokerSettings(BaseSettings):
    """How to reach NATS."""

    model_config = SettingsConfigDict(
        env_prefix="EDGETLS_", extra="ignore", hide_input_in_errors=True
    )

    nats_url: str = Field(description="nats://host:port, or several by comma")
    nats_seed_file: Path = Field(description="the nkey seed of this program's NATS user")
    nats_ca_file: Path | None = Field(
        default=None,
        description=(
            "PEM CAs that the broker's certificate is verified by; without it, the system's"
        ),
    )


def _check_level(value: str) -> str:
    if value.upper() not in logging.getLevelNamesMapping():
        raise ValueError("not one of debug, info, warning, error, critical")
    return value


LogLevel = Annotated[str, AfterValidator(_check_level)]


class ServiceSettings(BrokerSettings):
    """Settings of every service."""

    health_host: str = Field(
        default="127.0.0.1", description="address of /livez, /readyz and /metrics"
    )
    health_port: int = Field(default=0, description="their port; 0 picks a free one")
    log_level: LogLevel = Field(
        default="info", description="debug, info, warning, error or critical"
    )
    operator_key_file: Path = Field(
        description="the operator's public key, which everything else is trusted by"
    )
    trust_file: Path = Field(description="the trust document that the operator signed")
    embedded: bool = Field(default=False, description="set by 'edgetls up': allows a test clock")
    test_clock: Path | None = Field(
        default=None, description="a file with an offset in seconds; on the embedded platform only"
    )

    def clock(self) -> Clock:
        """Return the clock. SettingsError for a test clock outside the embedded platform."""
        if self.test_clock is not None and not self.embedded:
            raise SettingsError("EDGETLS_TEST_CLOCK is for the embedded platform only: unset it")
        return Clock(self.test_clock)


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load(kind: type[SettingsT]) -> SettingsT:
    """Read the settings. SettingsError names each variable at fault, in one line."""
    try:
        return kind()
    except ValidationError as error:
        prefix = str(kind.model_config.get("env_prefix", ""))
        faults = []
        for fault in error.errors(include_input=False):
            name = prefix + "_".join(str(part) for part in fault["loc"]).upper()
            faults.append(
                f"{name} is not set" if fault["type"] == "missing" else f"{name}: {fault['msg']}"
            )
        raise SettingsError("; ".join(faults)) from None


def read_secret(path: Path, what: str) -> str:
    """Return the stripped text of a file. SettingsError names the file and never its content."""
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise SettingsError(
            f"{what}: cannot read {path}: {os.strerror(error.errno or 0)}"
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(f"{what}: {path} is not text") from None
    if not text:
        raise SettingsError(f"{what}: {path} is empty")
    return text
