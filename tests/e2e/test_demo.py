"""``edgetls demo`` tells its whole story, exits 0, and its numbers agree."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path


async def run_demo(*words: str) -> tuple[int, str, str]:
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
    code, out, story = await run_demo("--json", "--nodes", "2", "--requests", "700")
    assert code == 0, story
    result = json.loads(out.splitlines()[-1])
    assert result["ok"] is True and result["failed"] is None
    assert result["requests_billed"] == result["requests_sent"] == 700
    assert (result["charge"], result["currency"]) == ("0.0035", "CNY")
    assert result["low_balance_flags"] == 1
    assert result["replace_handshakes"] > 100 and result["replace_failures"] == 0
    assert result["leftovers"] == 0
    assert result["nodes"] == 2
    assert 0 < result["accepted_ms"] <= result["live_ms"]
    assert len(result["steps"]) == len(story.split(" ok ")) - 1
    assert "BEGIN" not in out + story


async def test_a_data_folder_with_content_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    code, _, err = await run_demo("--data", str(tmp_path))
    assert code == 2
    assert "not empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
