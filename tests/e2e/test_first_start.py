"""The first start in production, by the commands of docs/operations.md: the operator alone makes
the fleet."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from clients.fleet.fleet_file import FleetFile
from deploy.embedded import platform as embedded
from deploy.embedded.keys import fleet_path, seed_file
from deploy.embedded.nats import login
from shared import subjects as s
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.messaging.direct_get import get_last
from tests.support.command_line import Edgetls
from tests.support.waiting import until


async def _enrol_nothing(*_: Any) -> list[str]:
    return []


async def test_the_operators_commands_alone_bring_a_fleet_to_life(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of no other test: a fleet file that was used before would start another epoch.
    data = scratch / "first"
    monkeypatch.setattr(embedded, "enrol_fleet", _enrol_nothing)
    monkeypatch.setattr(embedded, "enrol_missing", _enrol_nothing)
    running = embedded.EmbeddedPlatform(data, nodes=1, start_seconds=120)
    started = asyncio.create_task(running.start())
    edgetls = Edgetls(data)

    async def edge_sync_answers() -> bool:
        return started.done() or (await edgetls("fleet", "show", "--patience", "1")).code == 0

    await until(edge_sync_answers, "edge_sync answers", every=0.5)
    try:
        trust = await edgetls("fleet", "trust", "--json")
        assert trust.code == 0, trust.err
        assert (trust.json["serial"], trust.json["done"]) == (1, "published")
        assert {key["purpose"] for key in trust.json["keys"]} == {
            "submission",
            "validator",
            "edge_sync",
            "billing",
        }
        rotated = await edgetls("fleet", "rotate", "--json")
        assert rotated.code == 0 and rotated.json["epoch"] == 1, rotated.err
        enrolled = await edgetls("fleet", "enrol", "node-1")
        assert enrolled.code == 0, enrolled.err
        await started
        assert await _published_trust(running) == FleetFile.read(fleet_path(data)).trust
    finally:
        started.cancel()
        await running.stop()


async def _published_trust(running: embedded.EmbeddedPlatform) -> Signed | None:
    """Return the trust document that the bucket gives to the nodes."""
    client = await login(running.run["nats_url"], "edge_sync", seed_file(running.data, "edge_sync"))
    bucket = s.BUCKET_KEYRINGS
    found = await get_last(client, s.kv_stream(bucket), s.kv_subject(bucket, s.KEYRING_TRUST))
    await client.close()
    return None if found is None else parse(Signed, found.body)
