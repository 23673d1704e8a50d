"""Which platform a command talks to: that of a data folder, or one named by addresses and files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel

from shared.errors import SettingsError, Unreachable

Role = Literal["platform", "operator", "finance", "topology"]
RUN_FILE: Final = "run.json"
DEFAULT_DATA: Final = Path(".edgetls")


class RunFile(BaseModel):
    """The part of a running platform's run.json that commands need. ``credentials``: the seed files
    by user."""

    nats_url: str
    credentials: dict[str, Path]
    submission_key: Path
    fleet_file: Path


@dataclass(frozen=True)
class BrokerLogin:
    """Where to log in, and as which user.

    ``submission_key``: the file of the key that private keys are sealed to, None when it was not
    named. ``ca_file``: the CAs that verify the broker's certificate, None for the system's."""

    url: str
    seed_file: Path
    user: str
    submission_key: Path | None
    ca_file: Path | None = None


@dataclass(frozen=True)
class Profile:
    """The options that name a platform, None where they were not given.

    ``nats_url`` wins over the data folder."""

    data: Path = DEFAULT_DATA
    nats_url: str | None = None
    nats_ca_file: Path | None = None
    seed_file: Path | None = None
    submission_key_file: Path | None = None
    fleet_file: Path | None = None
    user: str | None = None

    def find_login(self, role: Role) -> BrokerLogin:
        """Return the login for a command that ``role`` may run.

        Unreachable when no platform was started in the data folder; SettingsError when an option is
        missing."""
        # Without --user the user is named like the role, as in the credentials of 'edgetls up'.
        user = self.user or role
        if self.nats_url is None:
            run = self.read_run_file()
            return BrokerLogin(
                url=run.nats_url,
                seed_file=self.seed_file or self._find_seed(run, user),
                user=user,
                submission_key=self.submission_key_file or run.submission_key,
                ca_file=self.nats_ca_file,
            )
        if self.seed_file is None:
            raise SettingsError(
                "--seed-file (EDGETLS_NATS_SEED_FILE) is needed with --nats-url: the nkey "
                f"seed of the user {role!r}"
            )
        return BrokerLogin(
            url=self.nats_url,
            seed_file=self.seed_file,
            user=user,
            submission_key=self.submission_key_file,
            ca_file=self.nats_ca_file,
        )

    def find_fleet_file(self) -> Path:
        """Return the operator's fleet file; SettingsError when --nats-url came without it."""
        if self.fleet_file is not None:
            return self.fleet_file
        if self.nats_url is not None:
            raise SettingsError("--fleet-file (EDGETLS_FLEET_FILE) is needed with --nats-url")
        return self.read_run_file().fleet_file

    def read_run_file(self) -> RunFile:
        """Read the data folder's run.json.

        Unreachable when there is none; SettingsError when it is damaged or cannot be read."""
        path = self.data / RUN_FILE
        try:
            return RunFile.model_validate_json(path.read_text())
        except FileNotFoundError:
            raise Unreachable(
                f"no platform was started in {self.data}: there is no {path}. Start "
                "one with 'edgetls up', name its folder with --data (EDGETLS_DATA), or name its "
                "broker with --nats-url (EDGETLS_NATS_URL)"
            ) from None
        except OSError as error:
            raise SettingsError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from None
        except ValueError:
            raise SettingsError(f"{path} is not the JSON of a running platform") from None

    def _find_seed(self, run: RunFile, user: str) -> Path:
        if user not in run.credentials:
            known = ", ".join(sorted(run.credentials))
            raise SettingsError(
                f"{self.data / RUN_FILE} names no credentials of the user {user!r}, only of "
                f"{known}: choose one of them with --user (EDGETLS_NATS_USER), or name a seed "
                "with --seed-file (EDGETLS_NATS_SEED_FILE)"
            )
        return run.credentials[user]
