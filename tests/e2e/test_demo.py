"""The demo tells its whole story, exits 0, and its numbers agree; with a fault it fails loudly."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from deploy.demo.story import CheckFailed, Story, check


async def _demo(*words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clients.cli.main",
        "demo",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 120)
    except TimeoutError:
        process.terminate()
        await process.wait()
        raise
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_story_holds_from_upload_to_disable() -> None:
    code, out, story = await _demo("--json", "--nodes", "2", "--requests", "700")
    assert code == 0, story
    told = json.loads(out.splitlines()[-1])
    assert told["ok"] is True and told["failed"] is None
    assert told["requests_billed"] == told["requests_sent"] == 700
    assert (told["charge"], told["currency"]) == ("0.0035", "CNY")
    assert told["low_balance_flags"] == 1
    assert told["replace_handshakes"] > 100 and told["replace_failures"] == 0
    assert told["leftovers"] == 0
    assert told["nodes"] == 2
    assert 0 < told["accepted_ms"] <= told["live_ms"]
    assert len(told["steps"]) == len(story.split(" ok ")) - 1
    assert "BEGIN" not in out + story


async def test_a_data_folder_with_content_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    code, _, err = await _demo("--data", str(tmp_path))
    assert code == 2
    assert "not empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_step_whose_check_does_not_hold_is_named_and_not_counted() -> None:
    lines: list[str] = []
    story = Story(lines.append)
    with pytest.raises(CheckFailed, match="two is not three"), story.step("compare two and three"):
        check(2 == 3, "two is not three")
    assert "FAILED compare two and three" in lines[0]
    assert story.result.steps == []
    assert story.result.json()["ok"] is False
