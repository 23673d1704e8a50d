"""What can never connect is said before the first attempt, by the setting that is at fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.fleet.keys import ensure_nkey
from shared.errors import SettingsError
from shared.messaging.connection import probe
from shared.settings import BrokerSettings
from tests.support.pki import Authority

NOBODY = "nats://127.0.0.1:1"


def _settings(
    folder: Path, url: str = NOBODY, seed: bytes | None = None, ca: bytes | None = None
) -> BrokerSettings:
    seed_file, ca_file = folder / "seed.nk", folder / "ca.pem"
    if seed is None:
        ensure_nkey(seed_file)
    else:
        seed_file.write_bytes(seed)
    if ca is not None:
        ca_file.write_bytes(ca)
    return BrokerSettings(
        nats_url=url, nats_seed_file=seed_file, nats_ca_file=None if ca is None else ca_file
    )


async def _fault(settings: BrokerSettings) -> str:
    with pytest.raises(SettingsError) as error:
        await probe(settings, "config")
    return str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "127.0.0.1:4222",
        "http://a:4222",
        "nats://",
        "nats://:4222",
        "nats://a:port",
        "nats://a:0",
        "nats://a:70000",
        "nats://[::1",
        f"{NOBODY},",
        f"{NOBODY},http://b:1",
    ],
)
async def test_a_url_that_is_none(url: str, tmp_path: Path) -> None:
    assert "EDGETLS_NATS_URL" in await _fault(_settings(tmp_path, url))


@pytest.mark.parametrize("seed", [b"", b"garbage", b"SUAGARBAGE", b"\xff\xfe\x00", b"U" * 56])
async def test_a_seed_that_is_none_is_not_repeated(seed: bytes, tmp_path: Path) -> None:
    fault = await _fault(_settings(tmp_path, seed=seed))
    assert fault.startswith("EDGETLS_NATS_SEED_FILE: ") and str(tmp_path / "seed.nk") in fault
    assert not seed or seed.decode("latin-1") not in fault


@pytest.mark.parametrize(
    "ca", [b"", b"garbage", b"\xff\xfe\x00", b"-----BEGIN CERTIFICATE-----\nAAAA\n"]
)
async def test_a_file_of_authorities_that_holds_none(ca: bytes, tmp_path: Path) -> None:
    assert (await _fault(_settings(tmp_path, ca=ca))).startswith("EDGETLS_NATS_CA_FILE: ")


async def test_a_file_of_authorities_that_is_not_there(tmp_path: Path) -> None:
    settings = _settings(tmp_path, ca=Authority.create().pem.encode())
    assert settings.nats_ca_file is not None
    settings.nats_ca_file.unlink()
    assert "cannot read" in await _fault(settings)
