"""The rules of the layout that import-linter cannot see: ``python -m tools.lint`` prints each fault and exits 1.

- subject strings are in shared/subjects.py only
- SQL is in a service's store and in shared/storage only
- pure modules do no I/O and read no clock
- files stay under 400 lines, functions under 60
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = ("shared", "services", "clients", "deploy", "tools", "bench")
MAX_FILE, MAX_FUNCTION = 400, 60
SUBJECT = re.compile(r"^(https\.(cmd|judge|verdict|event|usage|edge|rpc|dead)\.|\$JS\.|\$KV\.)")
SQL = re.compile(
    r"^\s*(select\s|insert\s+into\s|update\s+\w+\s+(as\s+\w+\s+)?set\s|delete\s+from\s|with\s+\w+\s+as\s*\()",
    re.IGNORECASE,
)
SUBJECT_HOMES = ("shared/subjects.py",)
SQL_HOMES = re.compile(r"^(services/\w+/store(\.py|/)|shared/storage/|deploy/embedded/|bench/)")
IO_MODULES = frozenset(
    {"asyncio", "asyncpg", "nats", "faststream", "os", "pathlib", "socket", "subprocess", "time", "tempfile", "shutil",
     "http", "urllib", "requests", "structlog", "logging", "random"}
)
CLOCKS = frozenset({"now", "utcnow", "today"})
BUILTIN_IO = frozenset({"open", "print", "input"})
PURE = frozenset(
    {
        "shared/contracts", "shared/subjects.py", "shared/crypto/digest.py",
        "services/validator/pem.py", "services/validator/keys.py", "services/validator/chains.py",
        "services/validator/names.py", "services/validator/policies.py", "services/validator/judge.py",
        "services/validator/bounds.py", "services/validator/layout.py", "services/validator/strays.py",
        "services/validator/algorithms.py", "services/validator/paths.py", "services/validator/constraints.py",
        "services/validator/distinguished.py", "services/validator/profile.py",
        "services/validator/fields.py", "services/validator/unreadable.py", "shared/domain_names.py",
        "services/config/names.py", "services/config/origins.py", "services/config/machine.py",
        "services/edge_sync/bundles.py", "services/edge_sync/convergence.py", "services/edge_sync/fleet.py",
        "services/billing/ranges.py", "services/billing/owners.py", "services/billing/rating.py",
        "services/billing/balance.py", "services/billing/tariffs.py", "services/billing/charging.py",
        "services/billing/audit.py", "services/billing/zones.py", "services/billing/statements.py",
        "clients/export/focus.py", "clients/export/list_prices.py", "shared/money.py",
        "clients/edge_node/verify.py",
    }
)


def main() -> int:
    faults = sorted(fault for path in _files() for fault in check(path.relative_to(ROOT).as_posix(), path.read_text()))
    faults += [f"{name}: named as pure but not there" for name in sorted(PURE) if not (ROOT / name).exists()]
    for fault in faults:
        sys.stdout.write(fault + "\n")
    sys.stdout.write(f"layout: {len(faults)} faults\n")
    return 1 if faults else 0


def check(name: str, text: str) -> Iterator[str]:
    """The faults of one file, each ``path:line: what``."""
    tree = ast.parse(text)
    if len(text.splitlines()) > MAX_FILE:
        yield f"{name}:1: {len(text.splitlines())} lines, over {MAX_FILE}: is it still one room?"
    yield from _strings(name, tree)
    yield from _lengths(name, tree)
    if any(name == pure or name.startswith(pure + "/") for pure in PURE):
        yield from _purity(name, tree)


def _strings(name: str, tree: ast.AST) -> Iterator[str]:
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in prose:
            continue
        if SUBJECT.match(node.value) and name not in SUBJECT_HOMES:
            yield f"{name}:{node.lineno}: a subject string outside shared/subjects.py"
        if SQL.match(node.value) and not SQL_HOMES.match(name):
            yield f"{name}:{node.lineno}: SQL outside a store"


def _lengths(name: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines, over {MAX_FUNCTION}"


def _purity(name: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for module in modules:
                if module.split(".")[0] in IO_MODULES:
                    yield f"{name}:{node.lineno}: a pure module imports {module}"
        if isinstance(node, ast.AsyncFunctionDef):
            yield f"{name}:{node.lineno}: a pure module has an async function"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS:
            yield f"{name}:{node.lineno}: a pure module reads the clock"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BUILTIN_IO:
            yield f"{name}:{node.lineno}: a pure module does I/O"


def _files() -> Iterator[Path]:
    for folder in CODE:
        yield from sorted((ROOT / folder).rglob("*.py"))


if __name__ == "__main__":
    sys.exit(main())
