"""The rules of the layout that import-linter cannot see: ``python -m tools.lint`` prints each fault
and exits 1.

- subject strings are in shared/catalogue.py and shared/subjects.py only, SQL in a service's store
  and in shared/storage only (tests say both again, to compare)
- pure folders (a service's domain/, contracts, the validator's checks) do no I/O, read no clock
- files stay under 500 lines, bodies of functions under 60
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = ("shared", "services", "clients", "deploy", "tools", "bench", "tests")
MAX_FILE, MAX_FUNCTION = 500, 60
TABLES = frozenset({"shared/contracts/findings.py"})
"""One enum, a row for each code: a second file would only make a reader look twice."""
SUBJECT = re.compile(r"^(https\.(cmd|judge|verdict|event|usage|edge|rpc|dead)\.|\$JS\.|\$KV\.)")
SQL = re.compile(
    r"^\s*(select\s|insert\s+into\s|update\s+\w+\s+(as\s+\w+\s+)?set\s|delete\s+from\s|with\s+\w+\s+as\s*\()",
    re.IGNORECASE,
)
SUBJECT_HOMES = ("shared/subjects.py", "shared/catalogue.py", "shared/catalogue_row.py")
SQL_HOMES = re.compile(
    r"^(services/\w+/store/|shared/storage/|deploy/embedded/|deploy/residue/|bench/)"
)
PURE_HOMES = re.compile(
    r"^(shared/contracts/|shared/(subjects|catalogue|catalogue_row|messages|domain_names|money)\.py$"
    r"|services/\w+/domain/|services/validator/(checks|x509|text|keys)/"
    r"|clients/edge_node/(bundles/(verify|versions)|nginx/entry|usage/log_counter)\.py$"
    r"|clients/(fleet/commands|export/list_prices)\.py$|deploy/residue/residue_patterns\.py$)"
)
"""Where nothing is read but the arguments. A folder decides, not a module's docstring."""
IO_MODULES = frozenset(
    {
        "asyncio",
        "asyncpg",
        "nats",
        "faststream",
        "os",
        "pathlib",
        "socket",
        "subprocess",
        "time",
        "tempfile",
        "shutil",
        "http",
        "urllib",
        "requests",
        "structlog",
        "logging",
        "random",
    }
)
CLOCKS = frozenset({"now", "utcnow", "today"})
BUILTIN_IO = frozenset({"open", "print", "input"})


def main() -> int:
    faults = sorted(
        fault
        for path in _files()
        for fault in check(path.relative_to(ROOT).as_posix(), path.read_text())
    )
    for fault in faults:
        sys.stdout.write(fault + "\n")
    sys.stdout.write(f"layout: {len(faults)} faults\n")
    return 1 if faults else 0


def check(name: str, text: str) -> Iterator[str]:
    """The faults of one file, each ``path:line: what``."""
    tree = ast.parse(text)
    if len(text.splitlines()) > MAX_FILE and name not in TABLES:
        yield f"{name}:1: {len(text.splitlines())} lines, over {MAX_FILE}: is it still one room?"
    if not name.startswith("tests/"):
        yield from _strings(name, tree)
    yield from _lengths(name, tree)
    if PURE_HOMES.match(name):
        yield from _purity(name, tree)


def _strings(name: str, tree: ast.AST) -> Iterator[str]:
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if (
            not isinstance(node, ast.Constant)
            or not isinstance(node.value, str)
            or id(node) in prose
        ):
            continue
        if SUBJECT.match(node.value) and name not in SUBJECT_HOMES:
            yield f"{name}:{node.lineno}: a subject string outside shared/catalogue.py"
        if SQL.match(node.value) and not SQL_HOMES.match(name):
            yield f"{name}:{node.lineno}: SQL outside a store"


def _lengths(name: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.body[0].lineno + 1
            if length > MAX_FUNCTION:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines, over {MAX_FUNCTION}"


def _purity(name: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            for module in modules:
                if module.split(".")[0] in IO_MODULES:
                    yield f"{name}:{node.lineno}: a pure module imports {module}"
        if isinstance(node, ast.AsyncFunctionDef):
            yield f"{name}:{node.lineno}: a pure module has an async function"
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in CLOCKS
        ):
            yield f"{name}:{node.lineno}: a pure module reads the clock"
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in BUILTIN_IO
        ):
            yield f"{name}:{node.lineno}: a pure module does I/O"


def _files() -> Iterator[Path]:
    for folder in CODE:
        yield from sorted((ROOT / folder).rglob("*.py"))


if __name__ == "__main__":
    sys.exit(main())
