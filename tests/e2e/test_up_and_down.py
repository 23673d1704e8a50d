"""``edgetls up`` and ``edgetls down``, run as a person runs them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from tests.support.command_line import Edgetls


async def start_up(data: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clients.cli.main",
        "up",
        "--data",
        str(data),
        "--nodes",
        "1",
        "--json",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_what_up_started_is_used_and_ended_by_down(other_data: Path) -> None:
    process = await start_up(other_data)
    assert process.stdout is not None
    ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
    assert ready["event"] == "ready" and len(ready["nodes"]) == 1
    edgetls = Edgetls(other_data)
    listed = await edgetls("domain", "list", "--json")
    assert (listed.code, listed.json) == (0, [])
    busy = await start_up(other_data)
    _, complaint = await asyncio.wait_for(busy.communicate(), 30)
    assert busy.returncode == 3 and b"in use" in complaint
    ended = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clients.cli.main",
        "down",
        "--data",
        str(other_data),
        "--json",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await asyncio.wait_for(ended.communicate(), 60)
    assert ended.returncode == 0 and "stopped" in json.loads(out)["done"]
    assert await asyncio.wait_for(process.wait(), 30) == 0
    away = await edgetls("domain", "list", "--patience", "0.3", "--json")
    assert away.code == 3 and "Tried" in away.json["error"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "SIGTERM"])
async def test_up_ends_cleanly_while_it_is_still_starting(
    other_data: Path, number: signal.Signals
) -> None:
    process = await start_up(other_data)
    assert process.stderr is not None
    await asyncio.wait_for(process.stderr.readline(), 60)
    process.send_signal(number)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode not in (0, -number) and b"Traceback" not in err
    found = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clients.cli.main",
        "down",
        "--data",
        str(other_data),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await asyncio.wait_for(found.communicate(), 60)
    assert b"nothing was running" in out
