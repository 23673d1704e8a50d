"""A step of the demo whose check fails ends the story, and its line says so."""

from __future__ import annotations

import pytest

from deploy.demo.story import CheckFailed, DemoResult, DemoStory, check


def test_a_step_whose_check_does_not_hold_is_named_and_not_counted() -> None:
    lines: list[str] = []
    story = DemoStory(DemoResult(), lines.append)
    with pytest.raises(CheckFailed, match="two is not three"), story.step("compare two and three"):
        check(2 == 3, "two is not three")
    assert "FAILED compare two and three" in lines[0]
    assert story.result.steps == []
    assert story.result.as_json()["ok"] is False
