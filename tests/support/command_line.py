"""The command line as a person runs it: ``edgetls`` in a process of its own."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploy.embedded.dev_ca import CertificatePair
from tests.support.waiting import LIMIT_SECONDS

DEFAULT_ACCOUNT: Final = "e2e"


@dataclass(frozen=True)
class CliResult:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Edgetls:
    """Runs ``edgetls`` on the platform of a data folder, for one account unless told otherwise."""

    def __init__(self, data: Path, account: str = DEFAULT_ACCOUNT) -> None:
        self._data = data
        self._account = account

    async def __call__(self, *words: str, limit: float = 2 * LIMIT_SECONDS) -> CliResult:
        """Run ``edgetls <words>``; TimeoutError after ``limit`` seconds."""
        account = [] if "--account" in words else ["--account", self._account]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "clients.cli.main",
            *words,
            "--data",
            str(self._data),
            *account,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), limit)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        return CliResult(process.returncode or 0, out.decode(), err.decode())


def pair_options(folder: Path, pair: CertificatePair) -> list[str]:
    """Write a pair to two files of a folder; return the options that name them."""
    name = secrets.token_hex(4)
    certificate_file = folder / f"{name}.pem"
    key_file = folder / f"{name}.key"
    certificate_file.write_text(pair.chain)
    key_file.write_text(pair.key)
    return ["--cert", str(certificate_file), "--key", str(key_file)]
