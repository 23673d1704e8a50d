"""A rule that the repository cites has its line in docs/rules.md, and only one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CITED = re.compile(r"\b[Rr]ules? ((?:[A-E]\d+(?:, | and | to |-)?)+)")


def test_every_rule_that_is_cited_is_explained() -> None:
    lines = re.findall(r"^\| ([A-E]\d+) \|", (ROOT / "docs" / "rules.md").read_text(), re.MULTILINE)
    assert len(lines) == len(set(lines))
    cited = {}
    for folder in ("shared", "services", "clients", "deploy", "tests", "tools", "bench"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for rules in CITED.findall(file.read_text()):
                cited |= dict.fromkeys(re.findall(r"[A-E]\d+", rules), str(file.relative_to(ROOT)))
    assert len(cited) > 20
    assert {rule: file for rule, file in cited.items() if rule not in lines} == {}
