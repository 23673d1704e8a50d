"""Which platform a command talks to: a data folder's run.json, or addresses and files by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel

from shared.errors import SettingsError, Unreachable

Role = Literal["platform", "operator", "finance", "topology"]
RUN_FILE: Final = "run.json"
DEFAULT_DATA: Final = Path(".edgetls")


class RunFile(BaseModel):
    """What a command needs of a running platform's run.json, which holds more. ``credentials``:
    seeds by user."""

    nats_url: str
    credentials: dict[str, Path]
    submission_key: Path
    fleet_file: Path


@dataclass(frozen=True)
class Place:
    """The options as given; None where they were not. ``nats_url`` wins over the data folder."""

    data: Path = DEFAULT_DATA
    nats_url: str | None = None
    nats_ca_file: Path | None = None
    seed_file: Path | None = None
    submission_key_file: Path | None = None
    fleet_file: Path | None = None
    user: str | None = None

    def login(self, role: Role) -> Login:
        """Whom to log in as, and where. Unreachable without a platform; SettingsError when a part
        is missing."""
        if self.nats_url is None:
            run, user = self.run(), self.user or role
            seed = self.seed_file or self._seed(run.credentials, user)
            return Login(
                run.nats_url,
                seed,
                user,
                self.submission_key_file or run.submission_key,
                self.nats_ca_file,
            )
        if self.seed_file is None:
            raise SettingsError(
                "--seed-file (EDGETLS_NATS_SEED_FILE) is needed with --nats-url: the nkey "
                f"seed of the user {role!r}"
            )
        return Login(
            self.nats_url,
            self.seed_file,
            self.user or role,
            self.submission_key_file,
            self.nats_ca_file,
        )

    def fleet(self) -> Path:
        if self.fleet_file is not None:
            return self.fleet_file
        if self.nats_url is not None:
            raise SettingsError("--fleet-file (EDGETLS_FLEET_FILE) is needed with --nats-url")
        return self.run().fleet_file

    @property
    def run_file(self) -> Path:
        return self.data / RUN_FILE

    def run(self) -> RunFile:
        try:
            return RunFile.model_validate_json(self.run_file.read_text())
        except FileNotFoundError:
            raise Unreachable(
                f"no platform was started in {self.data}: there is no {self.run_file}. Start "
                "one with 'edgetls up', "
                "name its folder with --data (EDGETLS_DATA), or name its broker with "
                "--nats-url (EDGETLS_NATS_URL)"
            ) from None
        except OSError as error:
            raise SettingsError(
                f"cannot read {self.run_file}: {os.strerror(error.errno or 0)}"
            ) from None
        except ValueError:
            raise SettingsError(f"{self.run_file} is not the JSON of a running platform") from None

    def _seed(self, credentials: Mapping[str, Path], user: str) -> Path:
        if user not in credentials:
            known = ", ".join(sorted(credentials))
            raise SettingsError(
                f"{self.run_file} names no credentials of the user {user!r}, only of {known}: "
                "choose one of them with "
                "--user (EDGETLS_NATS_USER), or name a seed with --seed-file "
                "(EDGETLS_NATS_SEED_FILE)"
            )
        return credentials[user]


@dataclass(frozen=True)
class Login:
    """``submission_key``: the file to seal private keys with, None when it was not given.
    ``ca_file``: the CAs that the broker's certificate is verified by, None for the system's."""

    url: str
    seed_file: Path
    user: str
    submission_key: Path | None
    ca_file: Path | None = None
