"""The layout's own rules notice each kind of fault."""

from __future__ import annotations

import pytest

from tools.lint import MAX_FILE, MAX_FUNCTION, check


@pytest.mark.parametrize(
    ("case", "name", "text", "fault"),
    [
        (
            "a subject in a service",
            "services/config/app.py",
            'x = "https.cmd.domain.register.v1"',
            "subject string",
        ),
        (
            "an API subject built by f-string",
            "services/config/app.py",
            'x = f"$JS.API.{y}"',
            "subject string",
        ),
        (
            "SQL in a use case",
            "services/config/usecases/decide.py",
            'x = "select a from b"',
            "SQL outside",
        ),
        (
            "an update in a transport",
            "services/billing/transport/queries.py",
            'x = "update b set c = 1"',
            "SQL outside",
        ),
        (
            "a clock in a pure module",
            "services/config/domain/x.py",
            "x = datetime.now()",
            "reads the clock",
        ),
        (
            "asyncpg in a pure module",
            "services/config/domain/x.py",
            "import asyncpg",
            "imports asyncpg",
        ),
        (
            "an async function in a pure module",
            "services/config/domain/x.py",
            "async def f(): pass",
            "async function",
        ),
        (
            "a file opened in a pure module",
            "services/config/domain/x.py",
            "x = open('f')",
            "does I/O",
        ),
        ("a clock in a contract", "shared/contracts/x.py", "x = date.today()", "reads the clock"),
        (
            "a clock in a check",
            "services/validator/checks/x.py",
            "x = date.today()",
            "reads the clock",
        ),
        (
            "a file that is too long",
            "shared/x.py",
            "x = 1\n" * (MAX_FILE + 1),
            "is it still one room",
        ),
        (
            "a function that is too long",
            "shared/x.py",
            "def f():\n" + "    x = 1\n" * (MAX_FUNCTION + 1),
            "lines, over",
        ),
    ],
)
def test_a_fault_is_noticed(case: str, name: str, text: str, fault: str) -> None:
    assert any(fault in found for found in check(name, text)), case


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("shared/subjects.py", 'x = "https.cmd.domain.register.v1"'),
        ("services/config/store/x.py", 'x = "select a from b"'),
        ("services/config/store/domains.py", 'x = "insert into a values (1)"'),
        ("services/config/app.py", '"""select a from b; https.cmd.x.v1"""'),
        ("services/config/app.py", 'x = "https://example.com"'),
        ("services/config/app.py", '"""It waits."""\nimport asyncio'),
    ],
)
def test_what_is_allowed_passes(name: str, text: str) -> None:
    assert list(check(name, text)) == []
