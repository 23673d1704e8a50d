"""What the documents name is there: rules, metrics, files."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("shared", "services", "clients", "deploy", "tests", "tools", "bench")
CITED = re.compile(r"\b[Rr]ules? ((?:[A-E]\d+(?:, | and | to |-)?)+)")


def test_every_rule_that_is_cited_is_explained() -> None:
    lines = re.findall(r"^\| ([A-E]\d+) \|", (ROOT / "docs" / "rules.md").read_text(), re.MULTILINE)
    assert len(lines) == len(set(lines))
    cited = {}
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for rules in CITED.findall(file.read_text()):
                cited |= dict.fromkeys(re.findall(r"[A-E]\d+", rules), str(file.relative_to(ROOT)))
    assert len(cited) > 20
    assert {rule: file for rule, file in cited.items() if rule not in lines} == {}


def test_every_metric_that_operators_are_told_to_watch_is_declared() -> None:
    code = "".join(
        file.read_text() for folder in FOLDERS[:3] for file in sorted((ROOT / folder).rglob("*.py"))
    )
    declared = set(re.findall(r"(?:Counter|Gauge|Histogram)\(\s*\"(edgetls_\w+)\"", code))
    told = set(re.findall(r"`(edgetls_\w+)`", (ROOT / "docs" / "operations.md").read_text()))
    assert len(told) > 15
    assert told <= declared, told - declared


PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "README.md"]
NAMED_FILE = re.compile(r"`([\w./-]+/[\w.-]+\.(?:py|js|sql|md|template))`|\]\(([\w./-]+\.md)")


def test_every_file_that_a_page_names_is_there() -> None:
    files = [file.relative_to(ROOT).as_posix() for file in ROOT.rglob("*.*") if _is_ours(file)]
    missing = []
    named = 0
    for page in PAGES:
        for path, link in NAMED_FILE.findall(page.read_text()):
            named += 1
            if link:
                found = (page.parent / link).exists()
            else:
                # In a table a room may stand without its service: `domain/ranges.py`.
                found = any(file == path or file.endswith(f"/{path}") for file in files)
            if not found:
                missing.append(f"{page.name}: {path or link}")
    assert named > 60
    assert missing == []


def _is_ours(file: Path) -> bool:
    return not {".venv", ".git", ".tools"} & set(file.relative_to(ROOT).parts)
